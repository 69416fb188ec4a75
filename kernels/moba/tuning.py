"""Tuning and tile shapes that all Triton kernels of MoBA share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""True under TRITON_INTERPRET=1: kernels run on CPU tensors, slowly, for tests; nothing is tuned then."""


def tuned(choices: list[dict[str, int]], key: list[str], restore: list[str] | None = None) -> Callable[[Any], Any]:
    """Autotune a kernel over ``choices``: its own constants, ``num_warps``, ``num_stages``; once per value of ``key``.

    ``restore`` names arguments that the kernel adds to, so that trial runs leave no trace in them. Under the
    interpreter the first choice is taken.
    """
    configs = []
    for choice in choices[:1] if INTERPRETED else choices:
        own = {name: value for name, value in choice.items() if not name.startswith("num_")}
        launch = {name: value for name, value in choice.items() if name.startswith("num_")}
        configs.append(triton.Config(own, **launch))
    return triton.autotune(configs, key=key, restore_value=restore)


def columns(dim: int) -> int:
    """Width of a tile that holds ``dim`` channels: the next power of two, at least what a tensor core takes."""
    return max(16, triton.next_power_of_2(dim))


TILE_BYTES = 32 << 10
"""Of a tile of queries at most. The backward pass has two of them in shared memory, beside keys and values: 229 KB with
128 queries of 128 float32 channels, where an A100 has 163.
"""


def tile_rows(dim: int, itemsize: int) -> int:
    """Return the queries per tile, of ``dim`` channels and ``itemsize`` bytes each."""
    return 16 if INTERPRETED else min(128, TILE_BYTES // (columns(dim) * itemsize))


def precision(dtype: torch.dtype, half: str = "tf32") -> str:
    """Return how float32 products are computed: in full for float32 inputs, as ``half`` says where inputs are half as
    long.
    """
    return "ieee" if dtype == torch.float32 else half
