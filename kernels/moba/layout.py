"""The layout of a MoBA call, fixed by lengths alone: its configuration, its sequences, and how much it attends to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class MobaConfig:
    """The gate's constants
    [2502.13189 §2.2]; learner and engine must use equal ones. ``ValueError`` on impossible values.
    """

    block_size: int
    """Keys per block, counted from the start of each sequence."""
    top_k: int
    """Blocks per query and query head, the current one included."""
    full_below: int = 0
    """Queries at positions below this attend to their whole past; a multiple of ``block_size``.

    A rule per position, not per sequence: what a token attends to then never depends on how long its sequence grew
    later, so prefill, chunked prefill, decode and the learner agree.
    """

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise ValueError(f"MoBA block_size must be at least 1 key, got {self.block_size}")
        if self.top_k < 1:
            raise ValueError(f"MoBA top_k must be at least 1 (the current block), got {self.top_k}")
        if self.full_below < 0 or self.full_below % self.block_size:
            raise ValueError(
                f"MoBA full_below must be a multiple of block_size {self.block_size}, got {self.full_below}"
            )

    @property
    def routed(self) -> int:
        """Past blocks that a query chooses."""
        return self.top_k - 1

    @property
    def dense_tokens(self) -> int:
        """Positions below this see their whole past: by ``full_below``, or having no more than ``routed`` blocks."""
        return max(self.full_below, self.top_k * self.block_size)

    def attended(self, position: int) -> int:
        """Return the keys that the query at ``position`` attends to, itself included."""
        if position < self.dense_tokens:
            return position + 1
        return self.routed * self.block_size + position % self.block_size + 1


@dataclass(frozen=True)
class Span:
    """One sequence of a packed call: its queries are the last ``q_len`` of its ``k_len`` positions."""

    q_start: int
    q_len: int
    k_start: int
    k_len: int

    @property
    def offset(self) -> int:
        """Position of the first query in its sequence."""
        return self.k_len - self.q_len

    @property
    def queries(self) -> slice:
        """Rows of q and of the output."""
        return slice(self.q_start, self.q_start + self.q_len)

    @property
    def keys(self) -> slice:
        """Rows of k and v."""
        return slice(self.k_start, self.k_start + self.k_len)


@dataclass(frozen=True)
class Coverage:
    """The amount of attention that a call computes: for metrics, so that a fallback to full attention shows."""

    queries: int
    """Query tokens."""
    full_queries: int
    """Those among them that attend to their whole past."""
    attended: int
    """Query-key pairs computed, per head."""
    causal: int
    """Query-key pairs of full causal attention, per head."""

    @property
    def density(self) -> float:
        """Share of causal attention that is computed: 1 is full attention."""
        return self.attended / self.causal


def _lengths(name: str, cumulative: Sequence[int], total: int) -> list[int]:
    lengths = [end - start for start, end in pairwise(cumulative)]
    if not lengths or cumulative[0] != 0 or cumulative[-1] != total or min(lengths) < 1:
        raise ValueError(
            f"{name} must increase from 0 to {total}, the packed tokens, without empty sequences; "
            f"got {list(cumulative[:4])}...{cumulative[-1] if cumulative else ''}"
        )
    return lengths


def spans(cu_seqlens_q: Sequence[int], cu_seqlens_k: Sequence[int], q_tokens: int, k_tokens: int) -> list[Span]:
    """Return the sequences of a packed call; ``ValueError`` for boundaries that do not fit the tensors or each
    other.
    """
    q_lengths = _lengths("cu_seqlens_q", cu_seqlens_q, q_tokens)
    k_lengths = _lengths("cu_seqlens_k", cu_seqlens_k, k_tokens)
    if len(q_lengths) != len(k_lengths):
        raise ValueError(f"cu_seqlens_q has {len(q_lengths)} sequences but cu_seqlens_k has {len(k_lengths)}")
    for index, (q_len, k_len) in enumerate(zip(q_lengths, k_lengths, strict=True)):
        if q_len > k_len:
            raise ValueError(f"sequence {index} has {q_len} queries but only {k_len} keys")
    starts = zip(cu_seqlens_q, q_lengths, cu_seqlens_k, k_lengths, strict=False)
    return [Span(*start) for start in starts]


def coverage(config: MobaConfig, sequences: Sequence[Span]) -> Coverage:
    """Attention computed for these sequences, exactly: a query's position fixes how many keys it attends to."""
    queries = full = attended = causal = 0
    for span in sequences:
        queries += span.q_len
        full += max(0, min(span.k_len, config.dense_tokens) - span.offset)
        causal += _triangle(span.k_len) - _triangle(span.offset)
        attended += _attended_below(config, span.k_len) - _attended_below(config, span.offset)
    return Coverage(queries, full, attended, causal)


def _triangle(positions: int) -> int:
    return positions * (positions + 1) // 2


def _attended_below(config: MobaConfig, positions: int) -> int:
    """Query-key pairs of the queries at positions 0 ... positions - 1."""
    dense = min(positions, config.dense_tokens)
    whole, rest = divmod(positions - dense, config.block_size)  # dense_tokens is a multiple of block_size
    routed = (positions - dense) * config.routed * config.block_size
    return _triangle(dense) + routed + whole * _triangle(config.block_size) + _triangle(rest)
