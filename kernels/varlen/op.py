"""Packed attention without a dense mask, and its registration as a transformers attention implementation."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from kernels.varlen.host import PLANS, Boundaries, boundaries, index
from kernels.varlen.largest import watched
from kernels.varlen.tiles import Scoring, tiled_attention

NAME = "k15_packed"
"""Name under which ``register`` makes the op known to transformers."""
MAX_PADDING = 1.25
"""Padded tokens per real token inside one bucket, at most (up to the bucket's first sequence)."""


@dataclass(frozen=True)
class Bucket:
    """Consecutive sequences that are padded to one length and attended together."""

    start: int
    """First token in the packed stream."""
    lengths: list[int]
    """Tokens of each sequence."""

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return sum(self.lengths)

    @property
    def width(self) -> int:
        """Length that the sequences are padded to."""
        return max(self.lengths)

    @property
    def even(self) -> bool:
        """True when nothing has to be padded."""
        return min(self.lengths) == self.width


def buckets(lengths: list[int]) -> Iterator[Bucket]:
    """Cut the packed stream into runs of sequences of similar length; sorted streams give few runs."""
    start = 0
    run: list[int] = []
    for length in lengths:
        if run and max(*run, length) * (len(run) + 1) > MAX_PADDING * (sum(run) + length):
            yield Bucket(start, run)
            start, run = start + sum(run), []
        run.append(length)
    if run:
        yield Bucket(start, run)


class _Pad(torch.autograd.Function):
    """[T, ...] -> [slots, ...]. Padding slots repeat real tokens: causality, or a mask where there is none, keeps every
    real query from seeing them.
    """

    @staticmethod
    def forward(ctx: Any, packed: torch.Tensor, source: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(slot)
        return packed.index_select(0, source)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        # Padding slots carry no gradient, so each token gets its own slot's: a gather instead of a scatter-add.
        (slot,) = ctx.saved_tensors
        return grads[0].index_select(0, slot), None, None


class _Unpad(torch.autograd.Function):
    """[slots, ...] -> [T, ...]: drop the padding."""

    @staticmethod
    def forward(ctx: Any, padded: torch.Tensor, slot: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(slot)
        ctx.shape = padded.shape
        return padded.index_select(0, slot)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (slot,) = ctx.saved_tensors
        return grads[0].new_zeros(ctx.shape).index_copy_(0, slot, grads[0]), None


Slots = tuple[torch.Tensor, torch.Tensor]
"""Token of each padded slot [n * width], and slot of each token [tokens], both relative to their bucket."""


def _slots(bucket: Bucket, device: torch.device) -> Slots:
    length = np.array(bucket.lengths)
    column = np.arange(bucket.width)
    first = length.cumsum() - length
    source = first[:, None] + np.minimum(column[None, :], length[:, None] - 1)
    slot = np.flatnonzero(column[None, :] < length[:, None])
    return index(source.ravel(), device), index(slot, device)


@functools.lru_cache(PLANS)
def plan(ends: tuple[int, ...], tokens: int, device: torch.device) -> tuple[tuple[Bucket, Slots | None], ...]:
    """Return the buckets of a packed stream, with their slots where something is padded. ``ValueError`` for wrong
    boundaries.
    """
    lengths = [end - start for start, end in pairwise(ends)]
    if ends[0] != 0 or ends[-1] != tokens or min(lengths) < 1:
        raise ValueError(
            f"cu_seqlens must increase from 0 to {tokens}, the packed tokens; got {[*ends[:4]]}...{ends[-1]}"
        )
    return tuple((bucket, None if bucket.even else _slots(bucket, device)) for bucket in buckets(lengths))


def _real(bucket: Bucket, device: torch.device) -> torch.Tensor:
    """Return [n, 1, 1, width] bool: the slots that are not padding, which every query of a sequence may see."""
    lengths = index(bucket.lengths, device)
    return (torch.arange(bucket.width, device=device) < lengths[:, None])[:, None, None]


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bucket: Bucket,
    slots: Slots | None,
    scoring: Scoring,
    causal: bool,
) -> torch.Tensor:
    """Attend within one bucket: q [tokens, H, D], k [tokens, H_kv, D], v [tokens, H_kv, Dv] -> [tokens, H, Dv]."""
    parts = [q, k, v]
    if slots is not None:
        parts = [_Pad.apply(part, *slots) for part in parts]
    queries, keys, values = (
        part.reshape(len(bucket.lengths), bucket.width, *part.shape[1:]).transpose(1, 2) for part in parts
    )
    if scoring.plain(bucket.width) or not causal:
        real = None if causal or slots is None else _real(bucket, q.device)
        grouped = q.shape[1] != k.shape[1]
        out = F.scaled_dot_product_attention(
            queries, keys, values, real, is_causal=causal, scale=scoring.scale, enable_gqa=grouped
        )
    else:
        out = tiled_attention(queries, keys, values, scoring)
    out = out.transpose(1, 2).flatten(0, 1)
    return out if slots is None else _Unpad.apply(out, slots[1])


def packed_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: Boundaries,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    causal: bool = True,
) -> torch.Tensor:
    """Attention inside each packed sequence; same contract as ``packed_attention_reference``.

    q [T, H, D]; k [T, H_kv, D]; v [T, H_kv, Dv]; ``cu_seqlens`` [n + 1] increasing ints from 0 to T; a query sees
    ``window`` keys, itself included; scores are capped at ``softcap``. Returns [T, H, Dv]. Sequences of similar length
    that lie side by side share one call; sort the stream by length to keep the calls few. Raises ``ValueError`` for
    wrong boundaries, and for a window or a cap without causality.
    """
    if not causal and (window is not None or softcap is not None):
        raise ValueError("attention in both directions has neither window nor soft-capping here")
    scoring = Scoring(scale, window, softcap)
    out = []
    for bucket, slots in plan(boundaries(cu_seqlens), q.shape[0], q.device):
        rows = slice(bucket.start, bucket.start + bucket.tokens)
        out.append(_attend(q[rows], k[rows], v[rows], bucket, slots, scoring, causal))
    return out[0] if len(out) == 1 else torch.cat(out)


def one_dtype(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Under autocast the rotary embedding leaves query and key in float32 beside a value in the autocast dtype."""
    if not torch.is_autocast_enabled(query.device.type):
        return query, key, value
    dtype = torch.get_autocast_dtype(query.device.type)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def refuse_unknown(name: str, module: torch.nn.Module, options: dict[str, Any]) -> None:
    """Raise ``ValueError`` for options of transformers' attention interface that would change the result."""
    for option in ("s_aux", "position_bias", "dropout"):
        if (value := options.get(option)) is not None and (not isinstance(value, float | int) or value):
            raise ValueError(
                f"attention {name!r} does not implement {option!r}, which {type(module).__name__} asks for"
            )
    if options.get("is_causal") is False:
        raise ValueError(f"attention {name!r} is causal, and {type(module).__name__} asks for attention that is not")


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention signature: query [1, H, T, D], key and value [1, H_kv, T, D] -> [1, T, H, D].

    Takes the same ``cu_seq_lens_q`` keyword as transformers' flash-attention path. Whatever would change the result and
    is not implemented here is refused, never ignored.
    """
    if cu_seq_lens_q is None or attention_mask is not None or query.shape[0] != 1:
        raise ValueError(
            f"attention {NAME!r} takes packed input only (batch size 1, cu_seq_lens_q, no attention mask), and "
            f"{type(module).__name__} hands on something else"
        )
    refuse_unknown(NAME, module, options)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    q, k, v = (part[0].transpose(0, 1) for part in one_dtype(query, key, value))
    watched(module, q, k, cu_seq_lens_q, scale)
    out = packed_attention(q, k, v, cu_seq_lens_q, scale, sliding_window, softcap, _is_causal(module))
    return out.unsqueeze(0), None


def _is_causal(module: torch.nn.Module) -> bool:
    """Return whether a layer looks back only, by transformers' own rule: those of encoders say that they do not."""
    return getattr(module, "is_causal", None) is not False


def register() -> None:
    """Make ``attn_implementation="k15_packed"`` known to transformers; it builds no mask for it. Idempotent.

    transformers builds a mask only for implementations in its mask registry; leaving ours out is what keeps the dense
    [T, T] mask from being made.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention_forward)
