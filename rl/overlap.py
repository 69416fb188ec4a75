"""The k1.5 loop, overlapped: engines sample on while the learner trains, and take its weights in flight.

    engines   | sample under i - 1 | take i | sample under i ............................ | take i + 1 | ...
    learner   | train i - 1        | publish i | waits for a batch | train i              | publish i + 1 | ...
    driver    | takes every token, grades, journals; at the end of each training one snapshot of all of it

Iterations are those of ``rl.loop``: iteration i trains on groups by the weights i. What differs is that the engines do
not stop. (S + 1) x ``rollout.groups`` groups are admitted and not trained at any time, S = ``overlap.max_staleness``;
``rl.buffer`` says when a batch is complete, so that no group's oldest token is more than S versions old when it is
trained, unless one of its responses is longer than ``rollout.segment_tokens``. The last iteration trains all that is
left. With S = 0 nothing is admitted that could be sampled during training, and the run is that of ``rl.loop``, bit for
bit.

``journal/<i>`` has what came in between two snapshots, in its order, and beside it which problems were drawn and which
groups trained. A run that was killed goes through the same iterations again, on the same batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from rl.beside import beside, settle
from rl.buffer import ENOUGH, Buffer, Rules
from rl.config import RunConfig
from rl.iteration import (
    Trained,
    admit,
    advantages_of,
    conclude,
    evaluation_due,
    iterations,
    score,
    trained_on,
)
from rl.learner.stats import IterationStats
from rl.learner.window import window_of
from rl.parts import Parts
from rl.record.log import Evaluation, Timer
from rl.rewarding import ScoredGroup
from rl.state.checkpoint import RunState
from rl.state.journal import JournalError
from rl.stop import Interrupted
from rollout.engine import Delta
from rollout.partial import training_sampling
from rollout.pool.board import Completion, News
from rollout.pool.fleet import PublishReport
from rollout.pool.stream import Stream
from rollout.types import Author, Group

T = TypeVar("T")
Driver = TypeVar("Driver", bound="Overlapped")
Advance = Callable[[int, int], None]
"""Told of more finished rollouts, and of more tokens."""

LOOK_S = 1.0
"""Longest wait for news; what else the driver waits for wakes it."""


def untold(rollouts: int, tokens: int) -> None:
    """Tell nobody."""


def train(config: RunConfig, state: RunState, parts: Parts) -> RunState:
    """Run iterations from ``state`` on; returns the state after the last one. See ``rl.iteration.iterations``."""
    with opened(Overlapped, config, state, parts) as run:
        return iterations(config, state, parts, run.iterate)


@contextmanager
def opened(kind: type[Driver], config: RunConfig, state: RunState, parts: Parts) -> Iterator[Driver]:
    """Sample what ``state`` has not trained; tokens that are on their way at the end are kept, however it ends."""
    buffer = Buffer(rules_of(config, parts), state.unfinished)
    turns = parts.episodes.turns_of(buffer.asked_about) if parts.episodes is not None else None
    stream = parts.pool.stream(turns)
    run = kind(config, parts, buffer, stream)
    try:
        with stream:
            yield run
    except BaseException as error:
        run.end(error)
        raise
    run.end(None)


def admitted(config: RunConfig, i: int) -> int:
    """Return how many groups may be on their way in iteration ``i``: no more than can still be trained."""
    return min(config.most_groups, (config.iterations - i) * config.rollout.groups)


def rules_of(config: RunConfig, parts: Parts) -> Rules:
    """Return what decides how far the rollouts of a run go."""
    ends = parts.pool.stop_token_ids
    sampling = training_sampling(config.rollout, ends)
    turn_ends = ends if parts.episodes is not None else ()
    beyond = window_of(config.overlap) > 0
    return Rules(config.rollout, config.engine.max_model_len, sampling, config.seed, turn_ends, beyond)


class Learnt(NamedTuple):
    """What an iteration trained on, and how that went."""

    scored: Sequence[ScoredGroup]
    advantages: Mapping[str, float]
    """Of the rollouts that entered the loss, by id."""
    stats: IterationStats


class Overlapped:
    """The driver of an overlapped run: one thread, which alone changes buffer and journal."""

    def __init__(self, config: RunConfig, parts: Parts, buffer: Buffer, stream: Stream) -> None:
        self.config, self.parts, self.buffer, self.stream = config, parts, buffer, stream
        self.staleness = window_of(config.overlap)
        """S."""
        self.version = -1
        """Weights that the engines serve."""
        self.replaying = False
        """The tokens of this iteration and of later ones are in the journal."""
        self.tokens = 0
        """Tokens of the policy that came in during this iteration."""
        self._grade(buffer.finished)

    def iterate(self, state: RunState, i: int, timer: Timer) -> RunState:
        """One iteration; see ``rl.iteration.Iterate``."""
        began = time.monotonic()
        journal, self.tokens = self.parts.journal, 0
        known = journal.open(i)
        self.replaying = journal.complete(i)
        published = self._publish(i, timer)
        evaluation = self._evaluate(i, timer)
        replayed = self._admit(i, known)
        scored, weights, stats = self._train(i, timer)

        waiting = self.buffer.snapshot()
        journal.open(i + 1)  # what comes from here on is not in the snapshot
        groups = (*(item.group for item in scored), *waiting)
        seconds = time.monotonic() - began - timer.seconds.get("eval", 0.0)
        done = Trained(groups, self.tokens, replayed, seconds, scored, weights, stats, published, evaluation)
        return conclude(state, i, done, waiting, self.config, self.parts, timer)

    def _train(self, i: int, timer: Timer) -> Learnt:
        """Wait for a batch, and train on it while the next ones are sampled and its rollouts are stored."""
        parts = self.parts
        with timer("generate"):
            batch = self._batch(i)
        scored = score(i, parts, timer, batch)
        self.buffer.remove(batch)
        values = [advantages_of(item, parts.objective) for item in scored]
        weights = trained_on(self.config, scored, values, i)
        parts.watch.stage("train")
        with self._stored(i, scored, weights, timer), timer("train"):
            stats = self._learner("train", parts.policy.train, [item.group for item in scored], values, i)
        return Learnt(scored, weights, stats)

    @contextmanager
    def _stored(
        self, i: int, scored: Sequence[ScoredGroup], weights: Mapping[str, float], timer: Timer
    ) -> Iterator[None]:
        """Store what is trained, beside the block, and not beyond it."""
        stored = beside("store", self.parts.store, i, scored, weights)
        try:
            yield
            with timer("store"):
                self._until(stored)
        except Exception:
            settle(stored)
            raise

    def _publish(self, i: int, timer: Timer) -> PublishReport:
        """Have the engines take the present weights, without waiting for what they sample."""
        policy, probe = self.parts.policy, self.parts.probe()
        self.parts.watch.stage("publish weights")
        with timer("publish"):
            update = self._learner("publish", policy.publish, i)
            reference = self._learner("score", policy.score, probe)
            published = self._until(beside("publish", self.stream.publish, update, probe, reference), stops=True)
        self.version = i
        return published

    def _evaluate(self, i: int, timer: Timer) -> Evaluation | None:
        """Evaluate the weights that were just published, if that is due: the engines do nothing else meanwhile."""
        if not evaluation_due(self.config, i):
            return None
        with timer("eval"), self.stream.held():
            self.take(self.stream.news(0.0))
            with self.parts.stopper.interruptible():
                return self.parts.evaluate(i)

    def _admit(self, i: int, known: Sequence[Delta]) -> int:
        """Fill the buffer up, take in what the journal has, and ask for what is missing of every rollout; return the
        number of tokens that came from the journal.
        """
        buffer = self.buffer
        drawn = self.parts.journal.problems(i)
        count = admitted(self.config, i) - len(buffer) if drawn is None else len(drawn)
        buffer.admit(admit(count, i, self.config, self.parts))
        before = self.tokens
        finished = self._feed(known)
        dropped, aborted = buffer.expire(i)
        self.stream.drop(dropped)
        self._grade(finished + aborted)
        if not self.replaying:
            self.stream.submit(buffer.stretches(i))
        return self.tokens - before

    def _batch(self, i: int) -> Sequence[str]:
        """Return the ids of the groups that are trained on, once they are there."""
        journal, size, share = self.parts.journal, self.config.rollout.groups, ENOUGH
        if i + 1 == self.config.iterations:  # there is no later one for what is left
            size, share = len(self.buffer), 1.0
        if (recorded := journal.batch(i)) is not None:
            return self._complete(i, recorded)
        self.parts.watch.stage("generate", self.buffer.under_way)
        while (batch := self.buffer.batch(i, self.staleness, size, self.parts.rewarder.waiting, share)) is None:
            self.heed()
            self.take(self.stream.news(LOOK_S), self.parts.watch.advance)
        journal.chose(i, batch)
        return batch

    def _complete(self, i: int, recorded: Sequence[str]) -> Sequence[str]:
        """Return the batch that an earlier process trained on. Raises ``JournalError`` if its tokens are not there."""
        if gone := set(recorded) - {group.id for group in self.buffer.finished}:
            raise JournalError(
                f"{self.parts.journal.folder}: iteration {i} trained on group {min(gone)}, whose tokens are not all on "
                "record; the disk has lost some, choose another --run-dir"
            )
        return recorded

    def _learner(self, name: str, call: Callable[..., T], *arguments: Any, advance: Advance = untold) -> T:
        """Have the learner do something, take in what comes meanwhile, and return the learner's result.

        What cuts it short waits for the learner, since somebody else may use it next; but a second signal,
        ``KeyboardInterrupt``, does not.
        """
        done: Future[T] = Future()
        try:
            return self._until(beside(name, call, *arguments, done=done), advance)
        except Exception:
            settle(done)
            raise

    def _until(self, call: Future[T], advance: Advance = untold, stops: bool = False) -> T:
        """Take what comes in until ``call`` is done, and return its result; ``stops``: see ``heed``."""
        call.add_done_callback(lambda _: self.stream.wake())
        while not call.done():
            if stops:
                self.heed()
            self.take(self.stream.news(LOOK_S), advance)
        return call.result()

    def heed(self) -> None:
        """Raises ``Interrupted`` on a stop signal: between two pieces of news, not in the midst of one, whose tokens
        would be lost, or half taken in, and those behind them kept.
        """
        if self.parts.stopper.requested:
            raise Interrupted("stop requested")

    def take(self, news: Iterable[News], advance: Advance = untold) -> None:
        """Take news in; rollouts that have come to rest with budget left go on at once."""
        rested = []
        for item in news:
            if isinstance(item, Completion):
                rested.append(item.key)
            else:
                self._receive(item, advance)
        found = [self.buffer.stretch(key, self.version) for key in rested]
        if more := [stretch for stretch in found if stretch is not None]:
            self.stream.submit(more)

    def _receive(self, deltas: Sequence[Delta], advance: Advance) -> None:
        """Take tokens in: into the journal first, then into the buffer."""
        known = [delta for delta in deltas if self.buffer.wants(delta)]
        self.parts.journal.append(known)
        finished = self._feed(known)
        for error in dict.fromkeys(delta.error for delta in known if delta.error):
            self.parts.watch.warn(f"{sum(delta.error == error for delta in known)} rollouts cut short: {error}")
        if given_up := [delta.key for delta in known if delta.error and not self.buffer.wants(delta)]:
            self.stream.drop(given_up)
        self._grade(finished)
        ended = sum(delta.done and not self.buffer.wants(delta) for delta in known)
        advance(ended, sum(len(delta.token_ids) for delta in known))

    def _feed(self, deltas: Sequence[Delta]) -> list[Group]:
        """Take in what is in the journal; return the groups that are finished by it. A rollout that one of the deltas
        finishes may have more of them, which came too late: a journal that is read back has these, too.
        """
        self.tokens += sum(len(delta.token_ids) for delta in deltas if delta.by is Author.POLICY)
        return self.buffer.receive(delta for delta in deltas if self.buffer.wants(delta))

    def _grade(self, groups: Sequence[Group]) -> None:
        for group in groups:
            self.parts.rewarder.submit(group, self.stream.wake)

    def end(self, error: BaseException | None) -> None:
        """Keep the tokens that were on their way when sampling ended. ``error``: why the run ends, which comes first if
        they cannot be kept. ``KeyboardInterrupt`` may have come in the midst of a piece, and nothing may follow that.
        """
        if isinstance(error, KeyboardInterrupt):
            return
        try:
            for item in self.stream.rest():
                if not isinstance(item, Completion):
                    self._receive(item, untold)
        except Exception as another:
            if error is None:
                raise
            self.parts.watch.warn(f"the last tokens are lost, and are sampled again: {another}")
