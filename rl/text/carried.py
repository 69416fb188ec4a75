"""Text that Python packages carry: documentation and source code, the same wherever their versions are the same."""

from __future__ import annotations

import ast
import importlib.util
import os
import sysconfig
import warnings
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Literal

STDLIB = "stdlib"
LEFT_OUT = {"test", "tests", "site-packages", "idlelib", "lib2to3", "__pycache__", "turtledemo", "encodings"}
"""Folders of the standard library that are not read: tests, tables, and what some machines lack."""
SHORTEST = 200
"""Characters of the shortest documentation that is a document; less says next to nothing."""


class NoPackage(ValueError):
    """A package is not installed, or has no source."""


def folder_of(package: str) -> Path:
    """Return the folder of a package's sources, without importing it. Raises ``NoPackage``."""
    if package == STDLIB:
        return Path(sysconfig.get_paths()["stdlib"])
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError) as error:
        raise NoPackage(f"package {package!r} cannot be found ({error})") from error
    if spec is None or not spec.submodule_search_locations:
        raise NoPackage(f"package {package!r} is not installed, or is a single file; pip install it, or name another")
    return Path(next(iter(spec.submodule_search_locations)))


def files_of(package: str) -> list[Path]:
    """Return the package's Python files, in the order of their names. Raises ``NoPackage``."""
    root = folder_of(package)
    found = []
    for folder, below, names in os.walk(root):
        if package == STDLIB:  # not even looked into: other packages may lie there
            below[:] = set(below) - LEFT_OUT
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found, key=lambda path: path.relative_to(root).parts)


def documents(package: str, part: Literal["prose", "code"]) -> Iterator[str]:
    """Yield the texts of a package, a file's documentation or code each. Files that are not Python are passed over.

    Raises ``NoPackage``.
    """
    if part == "prose" and package == STDLIB:
        from pydoc_data.topics import topics

        yield from (topics[name].strip() + "\n" for name in sorted(topics))
    for path in files_of(package):
        try:
            source = path.read_text(encoding="utf-8")
            with warnings.catch_warnings():  # of other people's code
                warnings.simplefilter("ignore")
                tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError):  # templates, other versions, other encodings
            continue
        text = "\n\n".join(_documentation(tree)) if part == "prose" else _code(source, tree)
        if len(text) >= SHORTEST:
            yield text.strip() + "\n"


def _documented(tree: ast.AST) -> Iterator[ast.Constant]:
    """Yield the documentation strings of a module, in order."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            value = first.value if isinstance(first, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value


def _documentation(tree: ast.AST) -> list[str]:
    found = sorted(_documented(tree), key=lambda one: one.lineno)
    return [cleandoc(str(one.value)) for one in found]


def _code(source: str, tree: ast.AST) -> str:
    """Return the source without its documentation strings."""
    gone = {line for one in _documented(tree) for line in range(one.lineno, (one.end_lineno or one.lineno) + 1)}
    lines = source.split("\n")  # as Python counts them; splitlines() would also cut at form feeds
    return "\n".join(line for number, line in enumerate(lines, 1) if number not in gone)
