"""Benchmarks that a user brings: a file, a module or an installed package in place of a name of ours."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

from evals.benchmark import Benchmark, given
from rollout.user_code import UserCodeError, explain, is_file, load, names_of, source_of

GROUP = "k15.benchmarks"
"""Entry points that name benchmarks."""
DEFAULT = "BENCHMARK"
"""The name that is looked up in a file when the spec gives none."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
R = TypeVar("R")


def is_own(spec: str) -> bool:
    """Return whether ``spec`` can only mean a user's benchmark; loads nothing."""
    return is_file(spec) or ":" in spec or spec in names_of(GROUP)


def load_own(spec: str, taken: Collection[str]) -> Benchmark:
    """Load the benchmark that ``spec`` names. An error in its functions becomes a ``UserCodeError`` with file and line.

    ``taken``: names of ours, which it must not have. Raises ``UserCodeError``.
    """
    loaded = load(spec, GROUP)
    found = loaded if isinstance(loaded, Benchmark) else getattr(loaded, DEFAULT, None)
    path, text = source_of(spec, loaded)
    file = path or spec
    if not isinstance(found, Benchmark):
        raise UserCodeError(f"{file}: {DEFAULT} must be an evals.benchmark.Benchmark, not {type(found).__name__}")
    if not _NAME.fullmatch(found.name) or found.name in (*taken, "heldout"):
        raise UserCodeError(
            f"{file}: the name {found.name!r} is taken or cannot name a folder; choose another, of letters and digits"
        )
    if found.make is None and not found.file:
        raise UserCodeError(f"{file}: {found.name} has no problems: give it file= or make=")
    return replace(
        found,
        code=hashlib.sha256(text).hexdigest() if text else "",
        ask=_explained(found.ask, file),
        keep=_explained(found.keep, file),
        convert=_explained(found.convert, file),
        make=_explained(found.make, file) if found.make else None,
        evidence=_explained(found.evidence, file) if found.evidence not in (None, given) else found.evidence,
    )


def _explained(function: Callable[..., R], file: str) -> Callable[..., R]:
    @wraps(function)
    def called(*given: Any) -> R:
        try:
            return function(*given)
        except Exception as error:
            raise UserCodeError(explain(error, file)) from error

    return called
