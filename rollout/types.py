"""The words of k15: problems, prompts, segments, rollouts, groups.

Frozen dataclasses without tensors. Token ids are the truth: text is decoded for rewards and for people and is never
re-encoded into training data. Token data are numpy arrays, from the engine's output to the batch: no Python object per
token (invariant 12).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rewards.score import Score

TokenIds = npt.NDArray[np.int32]
"""[n] token ids."""
LogProbs = npt.NDArray[np.float32]
"""[n] log-probabilities, in nats."""
Pointers = npt.NDArray[np.int16]
"""[n] for each token the window of evidence that spoke for it, counted from 1: k* [2403.17552]."""
Tokens = Sequence[int] | npt.NDArray[Any]
"""Token ids in any form; kept as ``TokenIds``."""

WeightVersion = int
"""Number of learner updates (publishes) so far; version 0 is the model that the run started from."""


class StopReason(StrEnum):
    """Reason for which a rollout ended. A rollout without one is unfinished and continues in a later iteration."""

    EOS = "eos"
    """The policy emitted an end token; it is the last token of the last segment."""
    LENGTH = "length"
    """The total length cap, or the context, was reached."""
    REPETITION = "repetition"
    """The engine saw the same pattern repeated and stopped early [2501.12599 §2.6.2]."""
    ABORTED = "aborted"
    """Given up: the rollout failed too often, or was older than the age cap. Masked, never reward 0."""


class Author(StrEnum):
    """The author of a segment."""

    POLICY = "policy"
    """Sampled: every token has a log-probability and may carry loss."""
    ENVIRONMENT = "environment"
    """Fed by an environment (a tool's output, the next question): no log-probability, never loss."""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    """``system``, ``user``, ``assistant`` or ``tool``, as chat templates name them."""
    content: str


@dataclass(frozen=True)
class Problem:
    """One task for the policy, with what its responses are judged against."""

    id: str
    """Unique within its source, stable across runs; names a problem in metrics, replay buffer and Parquet."""
    messages: tuple[Message, ...]
    """The conversation so far, before any chat template; the last message is the user's question."""
    answer: str = ""
    """Reference answer in the verifier's own notation; empty only without a verifier."""
    verifier: str = ""
    """Name of the verifier that judges a response against ``answer`` (see ``rewards.verify``); empty: the run's own
    reward or environment judges."""
    source: str = ""
    """Where it comes from, e.g. ``gsm8k`` or ``arithmetic``."""
    difficulty: float | None = None
    """Higher is harder; the unit is the source's own (level, number of steps). ``None``: unknown."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the source (level, subject, tests); plain JSON values."""
    pass_rate: float | None = None
    """Share of right responses that a model gave before training (``k15 curate``), from 0 to 1: what prioritised
    sampling begins with. ``None``: unknown."""

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError(f"problem {self.id!r}: 'id' is empty")
        if not self.messages or self.messages[-1].role != "user" or not self.messages[-1].content:
            raise ValueError(f"problem {self.id!r}: its last message must be the user's, and not empty")
        if self.verifier and not self.answer:
            raise ValueError(f"problem {self.id!r}: 'answer' is empty, which verifier {self.verifier!r} needs")
        if self.pass_rate is not None and not 0 <= self.pass_rate <= 1:
            raise ValueError(f"problem {self.id!r}: 'pass_rate' is {self.pass_rate}, not a number from 0 to 1")

    @classmethod
    def ask(
        cls,
        id: str,  # noqa: A002
        prompt: str,
        answer: str = "",
        verifier: str = "",
        source: str = "",
        difficulty: float | None = None,
        extra: Mapping[str, Any] | None = None,
        pass_rate: float | None = None,
    ) -> Self:
        """Return a problem that is one question."""
        return cls(id, (Message("user", prompt),), answer, verifier, source, difficulty, extra or {}, pass_rate)

    @property
    def prompt(self) -> str:
        """The question: the last message's text."""
        return self.messages[-1].content


@dataclass(frozen=True, eq=False)
class Prompt:
    """The input that an engine continues; images will have their place beside the tokens."""

    token_ids: TokenIds
    """[n] a rendered conversation (template applied, generation prompt included), and perhaps a part of the response.
    Made from any sequence of ints."""
    windows: tuple[Prompt, ...] = ()
    """The same question once for each window of evidence, up to where the response begins; ``token_ids`` then hold it
    without any evidence. Empty: there is none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", np.asarray(self.token_ids, np.int32))

    def __len__(self) -> int:
        return len(self.token_ids)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Prompt)
            and np.array_equal(self.token_ids, other.token_ids)
            and self.windows == other.windows
        )

    def __hash__(self) -> int:
        return hash((self.token_ids.tobytes(), self.windows))

    @property
    def longest(self) -> int:
        """Tokens of the longest of its rows: its own, and those with evidence."""
        return max(len(self), *map(len, self.windows)) if self.windows else len(self)

    def followed_by(self, *more: TokenIds) -> Prompt:
        """Return this prompt with further tokens behind its own; what windows have stays."""
        return replace(self, token_ids=np.concatenate([self.token_ids, *more])) if more else self


_NONE: LogProbs = np.empty(0, np.float32)
NO_POINTERS: Pointers = np.empty(0, np.int16)


@dataclass(frozen=True, eq=False)
class Segment:
    """Tokens of one author under one weight version: the unit of partial rollout."""

    version: WeightVersion
    """The weights that sampled this segment; of an environment's, those that were in place when it was written."""
    token_ids: TokenIds
    """[n] tokens in order; the end token included when the policy emitted one."""
    logprobs: LogProbs = field(default_factory=lambda: _NONE)
    """[n] sampler log-probability of each token, in nats, at the sampling temperature; empty for an environment's."""
    by: Author = Author.POLICY
    pointers: Pointers = field(default_factory=lambda: NO_POINTERS)
    """[n] of tokens drawn with evidence in windows; empty of all others."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", np.asarray(self.token_ids, np.int32))
        object.__setattr__(self, "logprobs", np.asarray(self.logprobs, np.float32))
        object.__setattr__(self, "pointers", np.asarray(self.pointers, np.int16))
        expected = len(self.token_ids) if self.sampled else 0
        if len(self.logprobs) != expected:
            raise ValueError(
                f"segment by the {self.by} has {len(self.token_ids)} tokens but {len(self.logprobs)} log-probs"
            )
        if len(self.pointers) not in (0, len(self.token_ids)):
            raise ValueError(f"segment has {len(self.token_ids)} tokens but {len(self.pointers)} pointers")

    def __len__(self) -> int:
        return len(self.token_ids)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Segment)
            and (self.version, self.by) == (other.version, other.by)
            and np.array_equal(self.token_ids, other.token_ids)
            and np.array_equal(self.logprobs, other.logprobs)
            and np.array_equal(self.pointers, other.pointers)
        )

    def __hash__(self) -> int:
        return hash((self.version, self.by, self.token_ids.tobytes()))

    @property
    def sampled(self) -> bool:
        """True for the policy's own tokens."""
        return self.by is Author.POLICY


@dataclass(frozen=True)
class Rollout:
    """One response to a problem, possibly drawn in several iterations and several turns."""

    id: str
    """``<group id>/<j>`` with j in 0..k-1; unique within a run."""
    prompt: Prompt
    """The rendered problem."""
    segments: tuple[Segment, ...] = ()
    """Versions never decrease."""
    stop: StopReason | None = None
    """``None`` while unfinished."""
    score: Score | None = None
    """Set once: by its environment when that ended it, or when the finished rollout was graded."""
    failures: int = 0
    """How often an engine failed while serving it; the tokens it had drawn by then are kept."""
    judged: bool = False
    """True when its environment gave the score."""

    def __post_init__(self) -> None:
        versions = [segment.version for segment in self.segments]
        if versions != sorted(versions):
            raise ValueError(f"rollout {self.id}: segment versions decrease: {versions}")

    @property
    def token_ids(self) -> TokenIds:
        """[size] all tokens behind the prompt, stitched."""
        return joined([segment.token_ids for segment in self.segments], np.int32)

    @property
    def logprobs(self) -> LogProbs:
        """[size] sampler log-probs of ``token_ids``; NaN where the environment wrote."""
        parts = [s.logprobs if s.sampled else np.full(len(s), np.nan, np.float32) for s in self.segments]
        return joined(parts, np.float32)

    @property
    def pointers(self) -> Pointers:
        """[size] the window that spoke for each token, counted from 1; 0: none did."""
        parts = [s.pointers if len(s.pointers) else np.zeros(len(s), np.int16) for s in self.segments]
        return joined(parts, np.int16)

    @property
    def versions(self) -> npt.NDArray[np.int32]:
        """[size] weight version of each token."""
        return np.repeat(
            np.array([segment.version for segment in self.segments], np.int32), [len(s) for s in self.segments]
        )

    @property
    def sampled(self) -> npt.NDArray[np.bool_]:
        """[size] True for the policy's tokens."""
        return np.repeat(np.array([s.sampled for s in self.segments], np.bool_), [len(s) for s in self.segments])

    @property
    def length(self) -> int:
        """Number of tokens that the policy drew, over all segments: the stitched length of [2501.12599 §2.3.3]."""
        return sum(len(segment) for segment in self.segments if segment.sampled)

    @property
    def size(self) -> int:
        """Number of tokens behind the prompt, the environment's included."""
        return sum(len(segment) for segment in self.segments)

    @property
    def turns(self) -> int:
        """Turns of the policy: one, and one more for each time that the environment went on."""
        return 1 + sum(not segment.sampled for segment in self.segments)

    @property
    def drawn_under(self) -> frozenset[WeightVersion]:
        """Versions that drew tokens of it."""
        return frozenset(segment.version for segment in self.segments if segment.sampled)

    @property
    def finished(self) -> bool:
        """True once a stop reason is set."""
        return self.stop is not None

    @property
    def correct(self) -> bool:
        """True when graded correct."""
        return self.score is not None and self.score.correct

    @property
    def turn_start(self) -> int:
        """Index of the first segment of the last turn."""
        written = [index for index, segment in enumerate(self.segments) if not segment.sampled]
        return written[-1] + 1 if written else 0

    def last_turn(self) -> TokenIds:
        """Return the tokens of the policy since the environment last wrote; without one, all of the response."""
        return joined([segment.token_ids for segment in self.segments[self.turn_start :]], np.int32)

    def before_last_turn(self) -> TokenIds:
        """Return what the policy was given for its last turn: the prompt and everything up to there."""
        parts = [self.prompt.token_ids, *(segment.token_ids for segment in self.segments[: self.turn_start])]
        return joined(parts, np.int32)

    def tail(self, count: int) -> TokenIds:
        """Return the last ``count`` tokens of the last turn, or all that it has."""
        own: list[TokenIds] = []
        for segment in reversed(self.segments[self.turn_start :]):
            if count <= 0:
                break
            own.append(segment.token_ids[-count:])
            count -= len(own[-1])
        return joined(own[::-1], np.int32)

    def append(self, segments: Iterable[Segment], stop: StopReason | None) -> Rollout:
        """Return this rollout with more segments; those of one version and author that follow each other become one."""
        if self.finished:
            raise ValueError(f"rollout {self.id} has already stopped ({self.stop}); it cannot grow")
        runs: list[list[Segment]] = [[segment] for segment in self.segments]
        for segment in segments:
            if not len(segment):
                continue
            if runs and (runs[-1][0].version, runs[-1][0].by) == (segment.version, segment.by):
                runs[-1].append(segment)
            else:
                runs.append([segment])
        return replace(self, segments=tuple(_merged(run) for run in runs), stop=stop)


def joined(parts: Sequence[npt.NDArray[Any]], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Concatenate ``parts``; a single one is returned as it is."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty(0, dtype)


def _merged(run: Sequence[Segment]) -> Segment:
    if len(run) == 1:
        return run[0]
    return Segment(
        run[0].version,
        joined([segment.token_ids for segment in run], np.int32),
        joined([segment.logprobs for segment in run], np.float32),
        run[0].by,
        joined([segment.pointers for segment in run], np.int16),
    )


@dataclass(frozen=True)
class Group:
    """A problem and its k rollouts; baselines and length rewards live here."""

    id: str
    """``<iteration drawn>.<index>``; unique within a run, orders the replay buffer (oldest first)."""
    problem: Problem
    rollouts: tuple[Rollout, ...]
    born: WeightVersion
    """Version under which the group was drawn; its age is the current version minus this."""

    @property
    def finished(self) -> bool:
        """A group completes when all of its rollouts have."""
        return all(rollout.finished for rollout in self.rollouts)

    def with_rollouts(self, rollouts: Iterable[Rollout]) -> Group:
        """Return the same group with other states of its rollouts."""
        return replace(self, rollouts=tuple(rollouts))


def split(groups: Iterable[Group]) -> tuple[list[Group], list[Group]]:
    """Return finished and unfinished groups, each in the order given."""
    finished: list[Group] = []
    unfinished: list[Group] = []
    for group in groups:
        (finished if group.finished else unfinished).append(group)
    return finished, unfinished
