"""The Engine protocol: the seam between k15 and what generates tokens.

Everything above it (pool, loop, evaluation) runs with ``VllmEngine``, ``HfEngine`` or a test's scripted one, in the
process or behind a Ray actor. An engine is a mailbox: work is submitted, progress is polled. Progress arrives as it is
made, so that the tokens of an engine that is killed are already with the pool (invariant 4), and every wait is bounded
by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from rewards.score import Score
from rollout.constraints import Constraint, ConstraintError
from rollout.evidence.windows import Evidence
from rollout.types import NO_POINTERS, Author, LogProbs, Pointers, Prompt, StopReason, TokenIds, WeightVersion

LIGHT, DEEP = 1, 2
"""Levels of ``Engine.sleep``: weights in host memory, or forgotten."""
NO_TOKENS: TokenIds = np.empty(0, np.int32)
NO_LOGPROBS: LogProbs = np.empty(0, np.float32)


class EngineError(RuntimeError):
    """Base of all named engine failures."""


class EngineDead(EngineError):
    """The process behind the engine is gone or does not answer; start another."""


class EngineTimeout(EngineError):
    """A call did not return, or work made no progress, within its limit."""


class WeightsLost(EngineError):
    """The direct way of a weight update broke off. The engine lives, serves nothing, and can take the copy."""


class CopyGone(EngineError):
    """The copy of published weights cannot be had: the learner that kept it is gone, or on another machine."""


class AllEnginesDead(EngineError):
    """No engine could be kept alive or started again; the run stops."""


class ParityError(EngineError):
    """Engine and learner disagree on log-probs above the bound (invariant 1)."""


NOT_THE_ENGINE = (ParityError, CopyGone)
"""Failures that another engine would meet, too."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are sampled. Log-probs are reported under exactly this distribution (behaviour-policy rule)."""

    temperature: float = 1.0
    """Softmax temperature; 0 is greedy (its log-probs are reported at temperature 1)."""
    top_p: float = 1.0
    """Nucleus mass; training rollouts require 1.0, since the learner's log-softmax is over the full vocabulary."""
    stop_token_ids: tuple[int, ...] = ()
    """End tokens; the one emitted is part of the response."""
    repetition_min_pattern: int = 0
    """Shortest repeated pattern that stops a rollout, in tokens; 0 switches the detection off [2501.12599 §2.6.2]."""
    repetition_max_pattern: int = 0
    """Longest repeated pattern looked for, in tokens."""
    repetition_count: int = 0
    """How many consecutive copies of the pattern stop the rollout."""


@dataclass(frozen=True)
class Request:
    """A request for one rollout's next stretch of tokens."""

    key: str
    """Rollout id; unique among the requests in flight on one engine."""
    prompt: Prompt
    """The rendered problem and all response tokens so far."""
    max_new_tokens: int
    """Budget of this stretch, at least 1."""
    sampling: Sampling
    seed: int | None = None
    """Seed of this stretch; engines that cannot seed per request say so in their docstring."""
    evidence: Evidence | None = None
    """Windows that are read beside the prompt, which then holds the question alone: every token is drawn from what all
    of them say together."""
    constraint: Constraint | None = None
    """What the response, from its first token on, may consist of; ``None``: anything."""

    begun: int = 0
    """Tokens at the end of the prompt that are the response so far."""

    @property
    def response(self) -> TokenIds:
        """[begun] the response so far."""
        return self.prompt.token_ids[len(self.prompt) - self.begun :]

    def fault(self, context: int) -> str:
        """Return in one line why an engine with this context cannot take the request; empty: it can."""
        if len(self.prompt) + self.max_new_tokens > context:
            return f"request exceeds the context of {context} tokens"
        if self.evidence is not None and (fault := self.evidence.fault(self.begun, self.max_new_tokens, context)):
            return fault
        if self.constraint is not None:
            try:
                self.constraint.allowed(self.response.tolist())
            except ConstraintError as error:
                return str(error)
        return ""


@dataclass(slots=True, eq=False)
class Delta:
    """Progress on one request since the last poll: more tokens, and perhaps its end.

    Never changed once made; not frozen, because that would take five times as long for every few tokens.
    """

    key: str
    token_ids: TokenIds
    """[n] token ids, given as any sequence of ints."""
    logprobs: LogProbs
    """[n] nats, under the request's ``Sampling``; empty when the environment wrote the tokens."""
    version: WeightVersion
    """Weights that drew these tokens, each of them; in place when there are none, or the environment wrote them."""
    done: bool = False
    """No further delta will come for this request."""
    stop: StopReason | None = None
    """Only with ``done``; from an engine EOS or REPETITION, ``None`` when the budget of the stretch was used up."""
    error: str = ""
    """Only with ``done``: why the engine gave this request up; the tokens so far stay valid."""
    by: Author = Author.POLICY
    """Who wrote the tokens."""
    score: Score | None = None
    """Only with ``done``, from an environment that ended the episode with a verdict."""
    pointers: Pointers = field(default_factory=lambda: NO_POINTERS)
    """[n] of a request with evidence: the window that spoke for each token."""

    def __post_init__(self) -> None:
        self.token_ids = np.asarray(self.token_ids, np.int32)
        self.logprobs = np.asarray(self.logprobs, np.float32)
        self.pointers = np.asarray(self.pointers, np.int16)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Delta)
            and (self.key, self.version, self.done, self.stop, self.error, self.by, self.score)
            == (other.key, other.version, other.done, other.stop, other.error, other.by, other.score)
            and np.array_equal(self.token_ids, other.token_ids)
            and np.array_equal(self.logprobs, other.logprobs)
            and np.array_equal(self.pointers, other.pointers)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class EngineStats:
    """Counters of an engine since its start, for metrics and routing."""

    version: WeightVersion
    tokens: int = 0
    """Sampled tokens handed out."""
    requests: int = 0
    """Requests finished."""
    busy_seconds: float = 0.0
    """Wall time with at least one request in flight."""
    weight_bytes: int = 0
    """Bytes moved by the last weight update."""


@dataclass(frozen=True)
class WeightUpdate:
    """The place of new weights and the way to fetch them, as plain data that can cross process borders."""

    version: WeightVersion
    backend: str
    """``shm`` (CPU, same node), ``ipc`` (GPU, same device), ``nccl`` (GPUs), ``local`` (same process: tests)."""
    payload: dict[str, Any]
    """The copy that engines can take at any time: file, machine, ``size``, and each tensor's name, dtype, shape and
    offset; perhaps ``pieces``, by which other machines get it. ``direct``: a faster way for engines that are there when
    it is published."""

    def directly(self, engine: int, roster: Sequence[int]) -> WeightUpdate:
        """Return the update for ``engine``, one of those that are there at the publish."""
        return replace(self, payload={**self.payload, "engine": engine, "roster": list(roster)})

    def copied(self) -> WeightUpdate:
        """Return the update without its direct way."""
        return replace(self, payload={key: value for key, value in self.payload.items() if key != "direct"})


class Engine(Protocol):
    """Generates tokens. All methods may raise ``EngineDead`` or ``EngineTimeout``."""

    @property
    def takes_in_flight(self) -> bool:
        """Whether weights may be updated while requests are in flight, which then go on under the new ones."""

    async def start(self) -> None:
        """Load the model; returns once the engine can serve."""

    async def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests and return at once; progress comes through ``poll``."""

    async def poll(self, wait_s: float) -> list[Delta]:
        """Return the progress since the last poll; waits at most ``wait_s`` seconds for the first piece (may be
        empty).

        Of one request there is a delta for each version that drew tokens of it since then, in the order drawn; only the
        last may be ``done``.
        """

    async def abort(self, keys: Sequence[str]) -> None:
        """Drop the requests named; tokens drawn but not yet polled are still delivered, with ``done``."""

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the log-prob of each token given those before it, at temperature 1, in nats. [n][len - 1]: none for
        the first.
        """

    async def update_weights(self, update: WeightUpdate) -> None:
        """Load new weights; what is submitted or scored from then on sees no cache of older ones (invariant 2).

        With requests in flight only an engine that ``takes_in_flight`` does so; the others raise ``ValueError``. Tokens
        that were drawn before, polled or not, keep the version that drew them.
        """

    async def stats(self) -> EngineStats:
        """Return the counters. Also the health check: raises if the engine cannot serve."""

    async def sleep(self, level: int) -> None:
        """Give the device up to somebody else until ``wake``, with no request in flight.

        Level 1 keeps the weights in host memory. Level 2 forgets them, and after ``wake`` an update has to come before
        any request. Meanwhile ``submit``, ``score`` and ``update_weights`` raise ``ValueError``, as this does with
        requests in flight. Idempotent: the first level counts.
        """

    async def wake(self) -> None:
        """Take the device again. Idempotent."""

    async def close(self) -> None:
        """Stop and free everything; no orphan process stays. Idempotent."""
