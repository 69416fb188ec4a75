"""Rotary position embedding (arXiv 2104.09864) and its context extensions."""

from kernels.rope.frequencies import Rotary, frequencies, tables
from kernels.rope.hf import install
from kernels.rope.op import rotate
from kernels.rope.reference import rotate_reference

__all__ = ["Rotary", "frequencies", "install", "rotate", "rotate_reference", "tables"]
