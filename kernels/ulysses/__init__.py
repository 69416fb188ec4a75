"""Attention over sequences whose tokens are cut over several ranks (Ulysses, arXiv 2309.14509)."""

from kernels.ulysses.hf import ARGUMENT, install
from kernels.ulysses.op import check_heads, gather_rows, ulysses_attention
from kernels.ulysses.reference import ulysses_reference

__all__ = ["ARGUMENT", "check_heads", "gather_rows", "install", "ulysses_attention", "ulysses_reference"]
