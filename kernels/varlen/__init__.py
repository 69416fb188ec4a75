"""Attention over packed sequences of different lengths."""

from kernels.varlen.host import PLANS, Boundaries, boundaries, index
from kernels.varlen.op import NAME, one_dtype, packed_attention, refuse_unknown, register
from kernels.varlen.reference import packed_attention_reference

__all__ = [
    "NAME",
    "PLANS",
    "Boundaries",
    "boundaries",
    "index",
    "one_dtype",
    "packed_attention",
    "packed_attention_reference",
    "refuse_unknown",
    "register",
]
