"""MoBA as an attention implementation of transformers, for the learner and for ``HfEngine`` [2502.13189 §2.2, §3.2].

``register()`` makes ``attn_implementation="moba"`` known. What it computes stands in the model's own configuration,
under ``moba`` (the fields of ``BlockAttentionConfig``): saved with the model, and read by vLLM's plug-in too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import torch

from kernels.moba import MobaConfig, Span, coverage, moba_attention
from kernels.varlen import boundaries, one_dtype, packed_attention, refuse_unknown, watched
from rollout.models.attention import AttentionConfig, BlockAttentionConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "moba"
"""Name of the attention implementation, and of the entry in a model's configuration."""


def register() -> None:
    """Make ``attn_implementation="moba"`` known to transformers. Idempotent."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, padding_mask)


def use(model: PreTrainedModel, moba: BlockAttentionConfig | None, otherwise: str) -> None:
    """Switch ``model`` to block attention, or with ``None`` to the implementation ``otherwise``.

    May be called at any time: both have the same parameters. Raises ``ValueError`` when no layer would be left.
    """
    register()
    config = model.config.get_text_config()
    if moba is None:
        if hasattr(config, NAME):
            delattr(config, NAME)
        model.set_attn_implementation(otherwise)
        return
    if moba.is_full(0, config.num_hidden_layers):
        raise ValueError(
            f"moba.full_last_layers ({moba.full_last_layers}) leaves none of the {config.num_hidden_layers} layers of "
            f"{type(model).__name__} with block attention"
        )
    setattr(config, NAME, moba.model_dump())
    model.set_attn_implementation(NAME)


def gate(moba: BlockAttentionConfig) -> MobaConfig:
    """Return the kernel's settings."""
    return MobaConfig(moba.block_size, moba.top_k, moba.full_below)


@functools.cache
def _parsed(items: tuple[tuple[str, Any], ...]) -> BlockAttentionConfig:
    return BlockAttentionConfig.model_validate(dict(items))


def read(config: Any) -> BlockAttentionConfig | None:
    """Return the ``moba`` entry of a model's configuration (transformers' object); ``None`` when it has none."""
    entry = getattr(config, NAME, None)
    return None if entry is None else _parsed(tuple(entry.items()))


def trained_with(path: str) -> AttentionConfig:
    """Return the attention that the model at ``path`` (a directory or hub name) names in its ``config.json``.

    Its rotary embedding needs no naming: transformers and vLLM read that there themselves.
    """
    from transformers import AutoConfig

    return AttentionConfig(moba=read(AutoConfig.from_pretrained(path).get_text_config()))


def shares(moba: BlockAttentionConfig | None, lengths: Sequence[int], layers: int) -> tuple[float, float]:
    """Return (share of the query-key pairs of full causal attention that are computed, share of the tokens that see
    their
    whole past in a block layer) for whole sequences of ``lengths`` tokens; 1 and 1 with full attention.
    """
    if moba is None:
        return 1.0, 1.0
    done = coverage(gate(moba), [Span(0, length, 0, length) for length in lengths])
    block_layers = layers - moba.full_last_layers
    density = (block_layers * done.density + moba.full_last_layers) / layers
    return density, done.full_queries / done.queries


def padding_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    attention_mask: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor | None:
    """Build the mask for transformers: which keys are real, bool [batch_size, keys so far]; ``None`` when all are.

    Causality and packing are the kernel's affair. A preallocated cache has ``kv_length`` slots, not all of them used.
    """
    if kv_offset:
        raise ValueError(f"attention {NAME!r} needs every past key, and this cache has dropped {kv_offset} of them")
    seen = int(q_offset) + q_length
    if attention_mask is not None:
        mask = attention_mask[:, :seen]
        return None if seen == kv_length and mask.all() else mask
    return None if seen == kv_length else torch.ones(batch_size, seen, dtype=torch.bool)


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **unsupported: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention signature: query [n, H, Tq, D], key and value [n, H_kv, Tk, D] -> [n, Tq, H, D].

    Sequences are told apart by ``cu_seq_lens_q`` (n = 1), by the padding mask of ``padding_mask``, or by positions that
    start again. Padding rows come out as 0. What would change the result and is not implemented is refused.
    """
    owner: Any = module
    text = owner.config.get_text_config()
    moba = read(text)
    if moba is None:
        raise ValueError(f"attention {NAME!r} finds no {NAME!r} entry in the configuration of {type(module).__name__}")
    _refuse(module, attention_mask, sliding_window, key.shape[2], unsupported)
    query, key, value = one_dtype(query, key, value)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    full = moba.is_full(owner.layer_idx, text.num_hidden_layers)
    if attention_mask is not None and cu_seq_lens_q is None:
        return _padded(query, key, value, attention_mask, moba, full, scale), None
    if cu_seq_lens_q is None:
        cu_seq_lens_q, cu_seq_lens_k = _boundaries(query, key, position_ids)
    q, k, v = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    ends_k = cu_seq_lens_q if cu_seq_lens_k is None else cu_seq_lens_k
    if q.shape[0] == k.shape[0]:
        watched(module, q, k, cu_seq_lens_q, scale)
    out = block_attention(q, k, v, cu_seq_lens_q, ends_k, moba, full, scale)
    return out.unflatten(0, (query.shape[0], -1)), None


def _refuse(
    module: torch.nn.Module,
    attention_mask: torch.Tensor | None,
    sliding_window: int | None,
    keys: int,
    unsupported: dict[str, Any],
) -> None:
    refuse_unknown(NAME, module, unsupported)
    if unsupported.get("softcap") is not None:
        raise ValueError(f"attention {NAME!r} does not implement 'softcap', which {type(module).__name__} asks for")
    if sliding_window is not None and keys > sliding_window:
        raise ValueError(f"attention {NAME!r} has no sliding window, and there are more than {sliding_window} keys")
    if attention_mask is not None and attention_mask.dim() != 2:
        raise ValueError(f"attention {NAME!r} takes a padding mask [batch, keys], not {list(attention_mask.shape)}")


def _boundaries(
    query: torch.Tensor, key: torch.Tensor, position_ids: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the ends of the sequences in unpadded rows: one per row, and one more wherever positions start again
    at 0.
    """
    rows, tokens, device = query.shape[0], query.shape[2], query.device
    ends = torch.arange(rows + 1, device=device)
    if key.shape[2] != tokens:
        return ends * tokens, ends * key.shape[2]
    starts = torch.zeros(rows, tokens, dtype=torch.bool, device=device)
    if position_ids is not None:
        starts |= position_ids.to(device) == 0
    starts[:, 0] = True
    cu_seqlens = torch.nn.functional.pad(starts.flatten().nonzero().flatten(), (0, 1), value=rows * tokens)
    return cu_seqlens, None


def _padded(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    moba: BlockAttentionConfig,
    full: bool,
    scale: float,
) -> torch.Tensor:
    """Attend over rows with padding: real tokens are packed, so that blocks count from a sequence's first real
    token.
    """
    mask = mask.to(query.device, torch.bool)
    real_q = mask[:, -query.shape[2] :]
    k, v = (part[:, :, : mask.shape[1]].transpose(1, 2)[mask] for part in (key, value))
    q = query.transpose(1, 2)[real_q]
    lengths_q, lengths_k = real_q.sum(1), mask.sum(1)
    if bool(((lengths_q == 0) & (lengths_k > 0)).any()):
        raise ValueError(f"attention {NAME!r}: a row has keys but no real query; left-pad, or drop finished rows")
    used = lengths_q > 0
    ends_q, ends_k = (torch.nn.functional.pad(n[used].cumsum(0), (1, 0)) for n in (lengths_q, lengths_k))
    out = torch.zeros_like(query.transpose(1, 2))
    if q.shape[0]:
        out[real_q] = block_attention(q, k, v, ends_q, ends_k, moba, full, scale)
    return out


def block_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    moba: BlockAttentionConfig,
    full: bool,
    scale: float,
) -> torch.Tensor:
    """Compute one layer over packed sequences: q [Tq, H, D], k, v [Tk, H_kv, D] -> [Tq, H, D].

    ``full``: a layer that keeps full attention. Where MoBA is full attention anyway, short sequences of similar length
    share one fused call instead of taking one each.
    """
    ends_q, ends_k = boundaries(cu_seqlens_q), boundaries(cu_seqlens_k)
    block = gate(moba)
    longest = max((end - start for start, end in pairwise(ends_k)), default=0)
    if full:
        block = MobaConfig(moba.block_size, 1, -(-longest // moba.block_size) * moba.block_size)
    if ends_q != ends_k:
        return _moba(q, k, v, ends_q, ends_k, block, scale)
    parts = [
        packed_attention(q[rows], k[rows], v[rows], ends, scale)
        if dense
        else _moba(q[rows], k[rows], v[rows], ends, ends, block, scale)
        for dense, rows, ends in _runs(ends_q, block.dense_tokens)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _moba(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ends_q: Sequence[int],
    ends_k: Sequence[int],
    block: MobaConfig,
    scale: float,
) -> torch.Tensor:
    return moba_attention(
        q, k, v, ends_q, block.block_size, block.top_k, cu_seqlens_k=ends_k, scale=scale, full_below=block.full_below
    )


def _runs(ends: Sequence[int], dense_tokens: int) -> Iterator[tuple[bool, slice, list[int]]]:
    """Yield neighbouring sequences that are all dense or all not: (dense, their rows, their boundaries from 0)."""
    for dense, run in groupby(pairwise(ends), key=lambda pair: pair[1] - pair[0] <= dense_tokens):
        pairs = list(run)
        first, last = pairs[0][0], pairs[-1][1]
        yield dense, slice(first, last), [0, *(end - first for _, end in pairs)]
