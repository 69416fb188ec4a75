"""Pure Python packages that travel into the sandbox with a program: it sees none of this process's environment."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

AVAILABLE = ("sortedcontainers",)
"""Packages that programs may import beside the standard library, as on the platforms that problems come from."""


class PackageMissing(Exception):
    """The package is not installed here; one line that says how to get it."""


@cache
def package_files(name: str) -> dict[str, bytes]:
    """Return the sources of an installed package, by the paths to put them at. Raises ``PackageMissing``."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise PackageMissing(f"the package {name} is not installed: pip install 'k15[train]' brings it")
    root = Path(spec.submodule_search_locations[0])
    found = {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.py"))}
    return {f"{name}/{path}": content for path, content in found.items() if not path.startswith("tests/")}


def wanted_files(code: str) -> dict[str, bytes]:
    """Return the sources of the packages that a program mentions. Raises ``PackageMissing``."""
    files: dict[str, bytes] = {}
    for name in AVAILABLE:
        if name in code:
            files |= package_files(name)
    return files
