"""Our benchmarks, one file each: every file in this folder whose name does not begin with ``_``. And a user's."""

from __future__ import annotations

import difflib
import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evals.benchmark import Benchmark


class UnknownBenchmark(ValueError):
    """No benchmark has this name; the message suggests one."""


def names() -> list[str]:
    """Return names of our benchmarks, sorted; loads none of them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def get(name: str) -> Benchmark:
    """Return the benchmark called ``name``; case, ``-`` and ``_`` do not matter.

    Or a user's: ``my_benchmark.py``, ``package.module:name``, an entry point of ``k15.benchmarks``. Raises
    ``UnknownBenchmark``, or ``UserCodeError`` for a user's.
    """
    known = {_plain(found): found for found in names()}
    if _plain(name) not in known:
        from evals.own import is_own, load_own

        if is_own(name):
            return load_own(name, known.values())
        near = difflib.get_close_matches(_plain(name), known, n=1, cutoff=0.5)
        hint = f"did you mean '{known[near[0]]}'?" if near else f"there are: {', '.join(known.values())}"
        raise UnknownBenchmark(f"unknown benchmark '{name}'; {hint}")
    found: Benchmark = import_module(f"{__name__}.{known[_plain(name)]}").BENCHMARK
    return found


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
