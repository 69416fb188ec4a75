"""All choices of tiles at the shape that is measured: compiled and tuned, and the best one's results right.

Runs beside the other tests, before anything is timed: what it compiles lies in Triton's cache when ``attention`` needs
it.
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
