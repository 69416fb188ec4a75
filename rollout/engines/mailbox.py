"""Keeps an engine's progress until it is polled. Pieces of one request and version are joined; their order is kept."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rollout.engine import Delta, EngineStats
from rollout.types import NO_POINTERS, LogProbs, Pointers, StopReason, TokenIds, Tokens, WeightVersion, joined

LINGER_S = 0.05
"""After the first piece a poll waits this long for more, unless nothing is in flight: many small polls cost more."""


@dataclass
class _Piece:
    """Tokens of one request, all drawn by one version."""

    version: WeightVersion
    token_ids: list[TokenIds] = field(default_factory=list)
    logprobs: list[LogProbs] = field(default_factory=list)
    pointers: list[Pointers] = field(default_factory=list)
    done: bool = False
    stop: StopReason | None = None
    error: str = ""

    def delta(self, key: str) -> Delta:
        """Return what the engine hands out."""
        tokens, logprobs = joined(self.token_ids, np.int32), joined(self.logprobs, np.float32)
        pointers = joined(self.pointers, np.int16)
        return Delta(key, tokens, logprobs, self.version, self.done, self.stop, self.error, pointers=pointers)


class Mailbox:
    """Requests in flight and their unpolled progress. Used from one event loop."""

    def __init__(self) -> None:
        self.in_flight: set[str] = set()
        self.tokens = 0
        self.requests = 0
        self._busy_s = 0.0
        self._busy_since = 0.0
        self._pieces: dict[str, list[_Piece]] = {}
        self._news = asyncio.Event()
        self._idle = asyncio.Event()

    def open(self, key: str) -> None:
        """Begin a request. Raises ``ValueError`` when one of that name is in flight or not yet polled to its end."""
        if key in self.in_flight or key in self._pieces:
            raise ValueError(f"request {key!r} is already in flight on this engine")
        if not self.in_flight:
            self._busy_since = time.monotonic()
        self.in_flight.add(key)
        self._idle.clear()

    def put(
        self,
        key: str,
        token_ids: Tokens,
        logprobs: Sequence[float] | LogProbs,
        version: WeightVersion,
        pointers: Pointers = NO_POINTERS,
    ) -> None:
        """Add tokens of a request that weights ``version`` drew."""
        pieces = self._pieces.setdefault(key, [])
        if not pieces or pieces[-1].version != version:
            pieces.append(_Piece(version))
        piece = pieces[-1]
        piece.token_ids.append(np.asarray(token_ids, np.int32))
        piece.logprobs.append(np.asarray(logprobs, np.float32))
        piece.pointers.append(pointers)
        self.tokens += len(token_ids)
        self._news.set()

    def end(self, key: str, version: WeightVersion, stop: StopReason | None = None, error: str = "") -> None:
        """End a request; the end goes with its last tokens, or, where none are left to hand out, by itself under
        ``version``.
        """
        piece = self._pieces.setdefault(key, [_Piece(version)])[-1]
        piece.done, piece.stop, piece.error = True, stop, error
        self.requests += 1
        self.in_flight.discard(key)
        if not self.in_flight:
            self._busy_s += time.monotonic() - self._busy_since
            self._idle.set()
        self._news.set()

    def wake(self) -> None:
        """End waiting polls, e.g. because the engine died."""
        self._news.set()
        self._idle.set()

    async def take(self, wait_s: float) -> list[Delta]:
        """Return everything since the last call, a delta for each request and version; waits at most ``wait_s`` (plus
        ``LINGER_S``) for a first piece.
        """
        if not self._pieces:
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), wait_s)
            except TimeoutError:
                return []
        if self.in_flight and wait_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), min(wait_s, LINGER_S))
        taken, self._pieces = self._pieces, {}
        return [piece.delta(key) for key, pieces in taken.items() for piece in pieces]

    def stats(self, version: WeightVersion, weight_bytes: int) -> EngineStats:
        """Return the counters so far."""
        running = time.monotonic() - self._busy_since if self.in_flight else 0.0
        return EngineStats(version, self.tokens, self.requests, self._busy_s + running, weight_bytes)
