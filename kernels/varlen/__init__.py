"""Attention over packed sequences of different lengths."""

from kernels.varlen.host import PLANS, Boundaries, boundaries, index
from kernels.varlen.largest import WATCH, largest_logits, watched
from kernels.varlen.op import NAME, one_dtype, packed_attention, refuse_unknown, register
from kernels.varlen.reference import packed_attention_reference

__all__ = [
    "NAME",
    "PLANS",
    "WATCH",
    "Boundaries",
    "boundaries",
    "index",
    "largest_logits",
    "one_dtype",
    "packed_attention",
    "packed_attention_reference",
    "refuse_unknown",
    "register",
    "watched",
]
