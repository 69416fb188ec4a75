"""Token data of one rollout while a call adds to it, at a cost per token that does not grow with its length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rollout.types import NO_POINTERS, Author, LogProbs, Pointers, Segment, TokenIds, WeightVersion, joined

TOGETHER = 64
"""Pieces that are joined into one array: small ones take ten times their size in objects."""


class _Run:
    """Tokens of one author under one version: large arrays, then the newest pieces."""

    __slots__ = ("by", "logprobs", "new", "pointers", "tokens", "version")

    def __init__(self, version: WeightVersion, by: Author) -> None:
        self.version, self.by = version, by
        self.tokens: list[TokenIds] = []
        self.logprobs: list[LogProbs] = []
        self.pointers: list[Pointers] = []
        self.new = 0
        """Pieces at the end that were not joined yet."""

    def join(self, count: int) -> None:
        """Make one array of the last ``count`` pieces."""
        if count > 1:
            self.tokens[-count:] = [np.concatenate(self.tokens[-count:])]
            self.logprobs[-count:] = [np.concatenate(self.logprobs[-count:])]
            self.pointers[-count:] = [np.concatenate(self.pointers[-count:])]
        self.new = 0


class Tape:
    """Segments in the making."""

    __slots__ = ("_runs", "drawn", "size")

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        self.drawn = 0
        """Tokens of the policy."""
        self.size = 0
        """All tokens."""

    def add(
        self,
        version: WeightVersion,
        token_ids: TokenIds,
        logprobs: LogProbs,
        by: Author = Author.POLICY,
        pointers: Pointers = NO_POINTERS,
    ) -> None:
        """Add tokens; ``logprobs`` is empty unless the policy drew them, ``pointers`` unless it had evidence."""
        count = len(token_ids)
        if not count:
            return
        run = self._runs[-1] if self._runs else None
        if run is None or run.version != version or run.by is not by:
            self._runs.append(run := _Run(version, by))
        run.tokens.append(token_ids)
        run.logprobs.append(logprobs)
        run.pointers.append(pointers)
        run.new += 1
        if run.new == TOGETHER:
            run.join(TOGETHER)
        self.size += count
        if by is Author.POLICY:
            self.drawn += count

    def segments(self) -> list[Segment]:
        """Return the segments so far; their arrays are never written to again."""
        for run in self._runs:
            run.join(len(run.tokens))
        return [
            Segment(
                run.version,
                joined(run.tokens, np.int32),
                joined(run.logprobs, np.float32),
                run.by,
                joined(run.pointers, np.int16),
            )
            for run in self._runs
        ]

    @property
    def drawn_under(self) -> frozenset[WeightVersion]:
        """Versions that drew tokens of it."""
        return frozenset(run.version for run in self._runs if run.by is Author.POLICY)

    def token_ids(self) -> Sequence[TokenIds]:
        """Return the tokens of each segment."""
        return [segment.token_ids for segment in self.segments()]
