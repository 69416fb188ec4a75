"""Every choice of tiles at the shape that is measured, compiled and tuned beside the other tests, and its results right.

Runs before anything is timed, in several processes: what it compiles lies in Triton's cache when ``attention`` asks for it.
"""

from __future__ import annotations

import torch

from benchmarks.gpu_check.attention import comparisons, settings
from benchmarks.gpu_check.case import Notes, Options, run_cases

NEEDS = ("torch", "triton", "numpy")
LENGTH, DRY_LENGTH = 8192, 128


def work(options: Options, notes: Notes) -> None:
    """Compare with the reference. Raises ``DeviceLost``."""
    torch.manual_seed(1)
    length = DRY_LENGTH if options.dry else LENGTH
    run_cases(comparisons(settings(options), length), options, notes)
