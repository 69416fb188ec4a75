"""Causal attention over packed sequences of different lengths."""

from kernels.varlen.op import NAME, packed_attention, register
from kernels.varlen.reference import packed_attention_reference

__all__ = ["NAME", "packed_attention", "packed_attention_reference", "register"]
