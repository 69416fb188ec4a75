"""MoBA on CPUs: queries routed to blocks, one fused attention call per block, merged by their log-sum-exps
[2502.13189 §2.3].

Backward: every part of the softmax is given the combined output and log-sum-exp; then the parts' gradients add up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from kernels.moba.gate import block_means, choose_blocks
from kernels.moba.layout import MobaConfig, Span
from kernels.moba.pieces import Long, Piece, Routed, Tiles, cut_routed, dense_pieces, lists_by_block, routed_queries
from kernels.moba.reference import gate_dtype

GATHERED = 1 << 19
"""Elements of queries and keys gathered for one call: bounds the extra memory, whatever the skew of the choice.
Measured on two cores (docs/log.md); with many more a call may be too small to keep them busy."""
CHOICES = 1 << 22
"""Entries of the choice that are turned around at once."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def _take(whole: torch.Tensor, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows [n, L] of [T, H, ...] -> [n, H, L, ...], as the fused call wants them."""
    return whole.index_select(0, rows.flatten()).to(dtype).unflatten(0, rows.shape).transpose(1, 2)


def _tokens_first(part: torch.Tensor) -> torch.Tensor:
    """Return [n, H, L, ...] -> [n * L, H, ...]."""
    return part.transpose(1, 2).flatten(0, 1)


def _merge(out: torch.Tensor, lse: torch.Tensor, part: torch.Tensor, part_lse: torch.Tensor) -> None:
    """Fold one more part of the softmax into out [..., D] and lse [...], in place: the online softmax."""
    out.lerp_(part, torch.sigmoid(part_lse - lse).unsqueeze(-1))
    torch.logaddexp(lse, part_lse, out=lse)


def forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sequences: Sequence[Span], config: MobaConfig, scale: float
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Output [Tq, H, D] of contiguous inputs, and what ``backward`` needs beside them.

    That is: output [Tq * H + 1, D] and log-sum-exp [Tq * H + 1] in the gate's dtype, and the choice [Tq, H, top_k - 1].
    The last row of the first two stands for padding: its log-sum-exp is +inf, so it has probability 0 in the backward
    pass. Rows of the choice that belong to early queries, which see their whole past, are not initialised.
    """
    dtype, pairs = gate_dtype(q.dtype), q.shape[0] * q.shape[1]
    out, lse = q.new_empty((pairs + 1, q.shape[2]), dtype=dtype), q.new_empty(pairs + 1, dtype=dtype)
    chosen = q.new_empty((*q.shape[:2], config.routed), dtype=torch.int32)
    for piece in dense_pieces(sequences, config, max(1, GATHERED // (q.shape[1] * q.shape[2])), q.device):
        _piece_forward(q, k, v, out[:pairs].view(q.shape), lse[:pairs].view(q.shape[:2]), piece, scale)
    for span in sequences:
        rows = routed_queries(span, config)
        if rows.start < rows.stop and config.routed:
            position = span.k_len - (rows.stop - rows.start)
            means = block_means(k[span.keys][: span.k_len - 1], config.block_size)
            chosen[rows] = choose_blocks(q[rows], means, position, config)
    for routed in _routed(chosen, sequences, k, config):
        if isinstance(routed, Long):
            _long_forward(q, k, v, out, lse, routed, scale)
        else:
            _tiles_forward(q, k, v, out, lse, routed, scale)
    out[pairs], lse[pairs] = 0.0, float("inf")
    return out[:pairs].view(q.shape).to(q.dtype), (out, lse, chosen)


def _routed(
    chosen: torch.Tensor, sequences: Sequence[Span], k: torch.Tensor, config: MobaConfig
) -> Iterator[Long | Tiles]:
    """Yield everything that ``dense_pieces`` leaves, of all sequences together: short ones alone would be all
    overhead.
    """
    if config.routed == 0:
        return
    parts = [Routed(routed_queries(span, config), span.k_start) for span in sequences]
    rows = max(1, CHOICES // (chosen.shape[1] * config.routed))
    limit = max(1, GATHERED // k.shape[2])
    for batch in cut_routed(parts, rows):
        yield from lists_by_block(chosen, batch, k.shape[1], config.block_size, limit)


def _piece_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    piece: Piece,
    scale: float,
) -> None:
    queries, rows = _take(q, piece.queries, out.dtype), piece.queries.flatten()
    keys, values = (_take(part, piece.keys, out.dtype) for part in (k, v))
    mask = piece.mask(out.dtype)
    results = _flash(queries, keys, values, 0.0, piece.causal and mask is None, attn_mask=mask, scale=scale)
    part, part_lse = (_tokens_first(result) for result in results)
    if not piece.causal:
        merged, merged_lse = out.index_select(0, rows), lse.index_select(0, rows)
        _merge(merged, merged_lse, part, part_lse)
        part, part_lse = merged, merged_lse
    out.index_copy_(0, rows, part)
    lse.index_copy_(0, rows, part_lse)


def _gather(flat: torch.Tensor, pairs: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """flat [rows, D], pairs [n, T] -> [n, 1, T, D]; padding reads the last row, whatever that is."""
    index = pairs.flatten().clamp_max(len(flat) - 1)
    return flat.index_select(0, index).to(dtype).view(len(pairs), 1, -1, flat.shape[1])


def _per_tile(flat: torch.Tensor, tiles: Tiles, dtype: torch.dtype) -> torch.Tensor:
    """Return keys or values [Tk * H_kv, D] -> [n, 1, B, D], those of each tile's block and head."""
    rows = tiles.keys.index_select(0, tiles.lists).flatten()
    return flat.index_select(0, rows).to(dtype).view(len(tiles.lists), 1, -1, flat.shape[1])


def _tiles_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    tiles: Tiles,
    scale: float,
) -> None:
    """Fold past blocks into the queries that chose them."""
    queries = _gather(q.flatten(0, 1), tiles.pairs, out.dtype)
    keys, values = (_per_tile(part.flatten(0, 1), tiles, out.dtype) for part in (k, v))
    _fold(out, lse, tiles.pairs.flatten(), *_flash(queries, keys, values, 0.0, False, scale=scale))


def _long_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, chose: Long, scale: float
) -> None:
    """Fold one past block into the queries that chose it."""
    queries = _gather(q.flatten(0, 1), chose.pairs[None], out.dtype)
    keys, values = (_in_place(part, chose, out.dtype) for part in (k, v))
    _fold(out, lse, chose.pairs, *_flash(queries, keys, values, 0.0, False, scale=scale))


def _in_place(whole: torch.Tensor, chose: Long, dtype: torch.dtype) -> torch.Tensor:
    """Return keys or values [Tk, H_kv, D] -> [1, 1, B, D] of the block and head; a view, unless in half precision."""
    return whole[chose.keys, chose.head].to(dtype)[None, None]


def _fold(
    out: torch.Tensor, lse: torch.Tensor, pairs: torch.Tensor, part: torch.Tensor, part_lse: torch.Tensor
) -> None:
    """Merge part [n, 1, T, D] and part_lse [n, 1, T] into the rows ``pairs`` [n * T] of out and lse."""
    merged, merged_lse = out.index_select(0, pairs), lse.index_select(0, pairs)
    _merge(merged, merged_lse, part.reshape(merged.shape), part_lse.reshape(merged_lse.shape))
    # The rows that padding reads and writes are one, and its content is of no account until the backward pass.
    out.index_copy_(0, pairs, merged)
    lse.index_copy_(0, pairs, merged_lse)


def backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    saved: tuple[torch.Tensor, ...],
    sequences: Sequence[Span],
    config: MobaConfig,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v in the gate's dtype, from what ``forward`` saved. Always bitwise reproducible."""
    out, lse, chosen = saved
    pairs = q.shape[0] * q.shape[1]
    grad_q = torch.empty_like(out)
    grad_k, grad_v = (torch.zeros_like(part, dtype=out.dtype) for part in (k, v))
    square = (out[:pairs].view(q.shape), lse[:pairs].view(q.shape[:2]))
    for piece in dense_pieces(sequences, config, max(1, GATHERED // (q.shape[1] * q.shape[2])), q.device):
        _piece_backward((grad, q, k, v, *square), (grad_q[:pairs].view(q.shape), grad_k, grad_v), piece, scale)
    tensors, grads = (grad, q, k, v, out, lse), (grad_q, grad_k, grad_v)
    for routed in _routed(chosen, sequences, k, config):
        if isinstance(routed, Long):
            _long_backward(tensors, grads, routed, scale)
        else:
            _tiles_backward(tensors, grads, routed, scale)
    return grad_q[:pairs].view(q.shape), grad_k, grad_v


def _piece_backward(
    tensors: tuple[torch.Tensor, ...], grads: tuple[torch.Tensor, ...], piece: Piece, scale: float
) -> None:
    grad, q, k, v, out, lse = tensors
    places = (piece.queries, piece.queries, piece.keys, piece.keys, piece.queries, piece.queries)
    parts = [_take(whole, rows, out.dtype) for whole, rows in zip((grad, q, k, v, out, lse), places, strict=True)]
    mask = piece.mask(out.dtype)
    results = _flash_backward(*parts, 0.0, piece.causal and mask is None, attn_mask=mask, scale=scale)
    for whole, part, place in zip(grads, results, (piece.queries, piece.keys, piece.keys), strict=True):
        rows, added = place.flatten(), _tokens_first(part)
        if whole is not grads[0] or not piece.causal:  # a query's band comes first: there is nothing to add to yet
            added = added + whole.index_select(0, rows)
        whole.index_copy_(0, rows, added)


def _long_backward(
    tensors: tuple[torch.Tensor, ...], grads: tuple[torch.Tensor, ...], chose: Long, scale: float
) -> None:
    grad, q, k, v, out, lse = tensors
    grad_q, *grads_kv = grads
    keys, values = (_in_place(part, chose, out.dtype) for part in (k, v))
    grads_out, queries = (_gather(part.flatten(0, 1), chose.pairs[None], out.dtype) for part in (grad, q))
    outputs = _gather(out, chose.pairs[None], out.dtype)
    sums = lse.index_select(0, chose.pairs)[None, None]
    part_q, *parts_kv = _flash_backward(grads_out, queries, keys, values, outputs, sums, 0.0, False, scale=scale)
    grad_q.index_copy_(0, chose.pairs, grad_q.index_select(0, chose.pairs).add_(part_q[0, 0]))
    for whole, part in zip(grads_kv, parts_kv, strict=True):
        whole[chose.keys, chose.head] += part[0, 0]


def _tiles_backward(
    tensors: tuple[torch.Tensor, ...], grads: tuple[torch.Tensor, ...], tiles: Tiles, scale: float
) -> None:
    grad, q, k, v, out, lse = tensors
    grad_q, grad_k, grad_v = grads
    pairs = tiles.pairs.flatten()
    keys, values = (_per_tile(part.flatten(0, 1), tiles, out.dtype) for part in (k, v))
    grads_out, queries = (_gather(part.flatten(0, 1), tiles.pairs, out.dtype) for part in (grad, q))
    outputs = _gather(out, tiles.pairs, out.dtype)
    sums = lse.index_select(0, pairs).view(len(tiles.pairs), 1, -1)
    part_q, part_k, part_v = _flash_backward(grads_out, queries, keys, values, outputs, sums, 0.0, False, scale=scale)
    grad_q.index_copy_(0, pairs, grad_q.index_select(0, pairs).add_(part_q.reshape(-1, q.shape[2])))
    rows = tiles.keys.flatten()
    for whole, part in ((grad_k, part_k), (grad_v, part_v)):
        flat = whole.flatten(0, 1)
        lists = flat.index_select(0, rows).view(*tiles.keys.shape, -1)
        flat.index_copy_(0, rows, lists.index_add_(0, tiles.lists, part[:, 0]).flatten(0, 1))
