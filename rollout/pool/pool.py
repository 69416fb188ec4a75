"""The pool: one synchronous front for all engines. It routes, balances, retries and restarts, and never waits for ever.

An event loop in a thread of its own talks to the engines; callers block in plain functions and may be interrupted at
any time (Ctrl-C, ``rl.stop.Interrupted``): requests in flight are dropped, the tokens drawn so far still reach
``on_progress``, and the pool stays usable and closable. Imports neither Ray nor vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

from rollout.config import EngineConfig, RolloutConfig
from rollout.engine import Engine, Request, WeightUpdate
from rollout.ordering import longest_first
from rollout.partial import Growth, Stretch, fold, grown, next_stretch, training_sampling
from rollout.pool.board import Completion, News, Progress, Turns
from rollout.pool.calls import Calls
from rollout.pool.fleet import Fleet, PoolStats, PublishReport
from rollout.pool.growing import Growing
from rollout.pool.parity import limits
from rollout.pool.slot import Calibration, Publication
from rollout.pool.stream import Stream, drawn
from rollout.timeline import ENGINE
from rollout.types import Group, WeightVersion

CLOSE_S = 30.0
"""Patience with ``close``."""


class Episodes(Protocol):
    """Environments of rollouts, as the pool sees them (``rollout.environments``)."""

    def turns(self, groups: Sequence[Group]) -> Turns:
        """Who answers when one of the groups' rollouts has ended a turn; keys are rollout ids."""


class Pool:
    """Engines behind one front. ``spawn(i)`` makes engine i, not yet started; it is called again after each death.

    ``stop_token_ids`` end a response; ``seed`` is the run's; ``learner_dtype``: what the learner computes in; ``name``:
    what the engines are called in the timeline. Use as a context manager, or ``close()`` it.
    """

    def __init__(
        self,
        spawn: Callable[[int], Engine],
        config: EngineConfig,
        rollout: RolloutConfig,
        stop_token_ids: Sequence[int] = (),
        seed: int = 0,
        learner_dtype: str = "float32",
        name: str = ENGINE,
    ) -> None:
        self.limits = limits(rollout, config.dtype, learner_dtype)
        self.config = config
        self.rollout = rollout
        self.stop_token_ids = tuple(stop_token_ids)
        self.seed = seed
        self.claim: Callable[[], None] = lambda: None
        """Called before engines are used: whoever has their devices meanwhile gives them up (``rl.turns``)."""
        self._fleet = Fleet(spawn, config, name)
        self._calls = Calls("rollout-pool")

    @property
    def version(self) -> WeightVersion:
        """Weights that the engines serve; 0 before the first publish."""
        return self._fleet.version

    def start(self) -> None:
        """Begin to load the engines and return at once; the first call that needs them waits. Optional."""
        self._calls.run(self._fleet.begin())

    def wait(self) -> None:
        """Load the engines, unless they are, and return once each serves or is given up.

        Raises ``AllEnginesDead`` when none serves.
        """
        self.claim()
        self._calls.run(self._fleet.loaded())

    def join(self, spawn: Callable[[int], Engine] | None = None) -> int:
        """Have one more engine take part, and return its number at once: it starts, takes the newest weights, passes
        the probe, and then gets its share of whatever is going on. ``spawn``: as the pool's, and its default.

        From any thread, at any time.
        """
        return self._calls.run(self._fleet.join(spawn))

    def leave(self, *indices: int) -> None:
        """Have engines leave: their requests go to the others, with the tokens that they have, and they are closed.

        That is no failure. From any thread, at any time. A publish in progress is waited for; it does not wait for
        those of them that are just being started. Raises ``ValueError`` for a number that is not there, and when no
        engine would stay.
        """
        self._calls.run(self._fleet.leave(indices))

    @property
    def members(self) -> list[int]:
        """Numbers of the engines that take part, those included that are being started or were given up."""
        return [slot.index for slot in self._fleet.slots]

    @property
    def given_up(self) -> list[int]:
        """Numbers of the engines that could not be kept alive."""
        return [slot.index for slot in self._fleet.slots if slot.given_up]

    def reconfigure(self, rollout: RolloutConfig, seed: int) -> None:
        """Other limits and another seed for what is drawn from here on; the engines stay as they are."""
        self.rollout, self.seed = rollout, seed

    def calibrate(self, probe: Sequence[Sequence[int]], reference: Sequence[Sequence[float]]) -> None:
        """From now on an engine scores ``probe`` before it takes its first weights: what differs there is rounding.

        ``reference`` [n][len - 1]: log-probs by the learner with the weights that the engines are loaded with.
        """
        self._fleet.calibrate(Calibration(probe, reference))

    def publish(
        self, update: WeightUpdate, probe: Sequence[Sequence[int]], reference: Sequence[Sequence[float]]
    ) -> PublishReport:
        """Load new weights into all engines and check them on the probe (invariant 1).

        ``reference`` [n][len - 1]: the learner's log-probs of ``probe`` at temperature 1. Raises ``ParityError`` with
        both sides' numbers beyond what rounding explains, ``AllEnginesDead`` when no engine is left.
        """
        self.claim()
        return self._calls.run(self._fleet.publish(Publication(update, probe, reference, self.limits)))

    def withdraw(self) -> None:
        """Forget the weights published last: their learner is gone, and the copy with it. The next call publishes.

        An engine that is being started meanwhile waits for those, instead of failing again and again for the old ones.
        """
        self._calls.run(self._fleet.withdraw())

    def extend(
        self,
        groups: Sequence[Group],
        version: WeightVersion,
        on_progress: Progress | None = None,
        on_finished: Callable[[Group], None] | None = None,
        episodes: Episodes | None = None,
    ) -> list[Group]:
        """Grow each unfinished rollout by at most one stretch of ``rollout.segment_tokens`` under ``version``.

        Tokens that a rollout already has under ``version`` count against the stretch. Groups over the age cap are
        force-finished. Every piece of progress goes to ``on_progress``, and then every group that is finished to
        ``on_finished`` while others still grow; both in this thread, before the call returns. With ``episodes`` the
        rollouts' environments answer each turn.
        """
        if version != self.version:
            raise ValueError(f"asked to sample under version {version}, but version {self.version} was published")
        context = self.config.max_model_len
        ends = self.stop_token_ids if episodes is not None else ()
        groups = fold(groups, (), version, self.rollout, context, ends)
        sampling = training_sampling(self.rollout, self.stop_token_ids)
        stretches = {
            stretch.request.key: stretch
            for group in groups
            for rollout in group.rollouts
            if (stretch := next_stretch(rollout, version, self.rollout, context, sampling, self.seed, ends))
        }
        growing = Growing(groups, stretches.keys(), on_finished or (lambda _: None))

        def rested(done: Completion) -> None:
            growth = Growth(done.segments, done.stop, done.failures, done.score)
            growing.settle(done.key, lambda rollout: grown(rollout, growth, self.rollout, context, ends))

        turns = episodes.turns(groups) if episodes is not None else None
        order = [*stretches.values()]
        seats = self.config.max_concurrency * max(1, self.config.count)
        if len(order) > seats and self.config.kind == "vllm":  # what hf draws depends on the company, so on the order
            order = longest_first(order, groups)
        self._draw(order, on_progress, rested, turns)
        return growing.groups

    def generate(
        self,
        requests: Sequence[Request],
        on_progress: Progress | None = None,
        on_rest: Callable[[Completion], None] | None = None,
        turns: Turns | None = None,
    ) -> list[Completion]:
        """Draw every request to its end; completions in the order of the requests.

        Every piece of progress goes to ``on_progress``, and every request that has come to rest to ``on_rest``, in this
        thread. ``turns``: who answers when the policy has ended a turn. A request that failed ``rollout.max_failures``
        times is returned as it is, with its error. Raises ``AllEnginesDead`` when no engine is left.
        """
        found: dict[str, Completion] = {}

        def rested(done: Completion) -> None:
            found[done.key] = done
            if on_rest is not None:
                on_rest(done)

        self._draw([Stretch(request) for request in requests], on_progress, rested, turns)
        return [found[request.key] for request in requests]

    def _draw(
        self,
        stretches: Sequence[Stretch],
        on_progress: Progress | None,
        on_rest: Callable[[Completion], None],
        turns: Turns | None,
    ) -> None:
        def take(news: News) -> None:
            if isinstance(news, Completion):
                on_rest(news)
            elif on_progress is not None:
                on_progress(news)

        if stretches:
            stream = self.stream(turns)
            self._calls.run(self._fleet.free())  # no publish will come while this is all that goes on
            drawn(stream, stretches, take)

    def stream(self, turns: Turns | None = None) -> Stream:
        """Return a context in which requests come and go while the engines sample and take new weights.

        ``turns``: who answers when the policy has ended a turn, of any request that will be submitted. While it is open
        and not held, the engines do nothing else: ``extend``, ``generate``, ``score`` and ``publish`` raise
        ``RuntimeError``.
        """
        self.claim()
        return Stream(self._calls, self._fleet, self.limits, turns, self.rollout.max_failures)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the log-prob of each token but the first, at temperature 1, in nats; [n][len - 1]."""
        self.claim()
        return self._calls.run(self._fleet.score(sequences))

    def sleep(self) -> None:
        """Let all engines give their devices up, and start none until ``wake``. Idempotent.

        Until then the pool tells its statistics and closes; what needs an engine raises ``RuntimeError``, as this does
        while a stream is open and not held.
        """
        self._calls.run(self._fleet.sleep())

    def wake(self) -> None:
        """Let the engines take their devices again; they have weights when they are next used. Idempotent.

        One that died in its sleep is found here, and replaced when it is next used.
        """
        self._calls.run(self._fleet.wake())

    def stats(self) -> PoolStats:
        """Counters; an engine found dead here is replaced when it is next needed."""
        return self._calls.run(self._fleet.stats())

    def close(self) -> None:
        """Stop all engines. Idempotent; takes at most ``CLOSE_S`` seconds."""
        self._calls.close(self._fleet.close(), CLOSE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
