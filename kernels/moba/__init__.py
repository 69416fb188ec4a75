"""Mixture of block attention (MoBA), arXiv 2502.13189: training, prefill and decode."""

from kernels.moba.layout import Coverage, MobaConfig, Span, coverage, spans
from kernels.moba.op import moba_attention
from kernels.moba.paged import moba_paged_attention, new_page_sums, write_pages
from kernels.moba.reference import moba_attention_reference, moba_mask_reference

__all__ = [
    "Coverage",
    "MobaConfig",
    "Span",
    "coverage",
    "moba_attention",
    "moba_attention_reference",
    "moba_mask_reference",
    "moba_paged_attention",
    "new_page_sums",
    "spans",
    "write_pages",
]
