"""What an overlapped run takes in and trains at a time, over scripted engines and a learner that learns nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from overlap_kit import Learner, Problems, config, run
from stream_kit import SCRIPT

from rl import overlap
from rl.buffer import Buffer
from rl.learner.stats import IterationStats
from rl.rewarding import ScoredGroup
from rollout.engine import Request
from rollout.types import Group, Rollout, WeightVersion
from tests.processes import PATIENCE_S


class ByAge(FakeEngine):
    """Draws of the three oldest groups that are not trained, and of those that the learner waits for: ``staleness``
    versions old. Under the last version it draws of three groups at a time.
    """

    def __init__(self, staleness: int, last: int) -> None:
        super().__init__(SCRIPT, chunk=1)
        self.staleness, self.last = staleness, last
        self.seen, self.trained = set[str](), set[str]()

    async def submit(self, requests: Sequence[Request]) -> None:
        self.seen |= {request.key.split("/")[0] for request in requests}
        await super().submit(requests)

    def _step(self, request: Request, drawn: list[int]) -> None:
        name, at_last = request.key.split("/")[0], self._draws == self.last
        there = {key.split("/")[0] for key in self._open} if at_last else self.seen - self.trained
        due = int(name[:6]) <= self._draws - self.staleness
        if due or name in sorted(there)[:3]:
            super()._step(request, drawn)


@pytest.mark.parametrize("staleness", [1, 2])
def test_batches_are_three_quarters_at_least_and_the_last_one_is_all_that_is_left(
    staleness: int, tmp_path: Path
) -> None:
    class Training(Learner):
        def train(self, groups: Sequence[Group], advantages: Any, version: WeightVersion) -> IterationStats:
            found.append(len(groups))
            engine.trained |= {group.id for group in groups}
            return super().train(groups, advantages, version)

    engine, found = ByAge(staleness, 3), list[int]()
    rollout = {"groups": 4, "k": 2, "segment_tokens": 40, "max_tokens": 40, "loss_on": "all", "repetition": None}
    done = run(config(overlap={"max_staleness": staleness}, rollout=rollout), tmp_path, Training(), engine)
    assert (found[0], min(found), len(found)) == (3, 3, 4)
    assert len(engine.seen) == sum(found)
    assert engine.seen == engine.trained, "each once, and none in vain"
    assert done.unfinished == ()
    assert (done.totals.rollouts, done.totals.tokens) == (sum(found) * 2, sum(found) * 2 * 40)


@pytest.mark.parametrize("staleness", [1, 2])
def test_engines_rest_while_a_learner_is_slower_than_they_are(
    staleness: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains until nothing is left to be drawn, in every iteration; no more is admitted than the bound allows."""

    class Counted(Buffer):
        def admit(self, groups: Iterable[Group]) -> None:
            super().admit(groups)
            sizes.append(len(self))

    class Slow(Learner):
        def train(self, groups: Sequence[Group], advantages: Any, version: WeightVersion) -> IterationStats:
            end = time.monotonic() + PATIENCE_S
            while engine._mail.tokens < problems.drawn * 2 * 40:
                assert time.monotonic() < end
                time.sleep(0.001)
            assert not engine._open
            return super().train(groups, advantages, version)

    sizes, problems, engine = list[int](), Problems(), FakeEngine(SCRIPT)
    monkeypatch.setattr(overlap, "Buffer", Counted)
    done = run(config(overlap={"max_staleness": staleness}), tmp_path, Slow(), engine, sampler=problems)
    assert done.iteration == 4
    assert max(sizes) == (staleness + 1) * 2
    assert engine._mail.tokens == done.totals.tokens == done.totals.rollouts * 40


@pytest.mark.parametrize("in_flight", [False, True])
def test_an_evaluation_has_the_engines_to_itself_under_the_weights_that_are_due(
    in_flight: bool, tmp_path: Path
) -> None:
    """It is due while responses are on their way, which go on behind the tokens that they have."""

    class Halting(FakeEngine):
        """Stops at 7 tokens of the two younger groups until an evaluation has been."""

        def __init__(self) -> None:
            super().__init__(SCRIPT, chunk=1, takes_in_flight=in_flight)
            self.drawn = Counter[str]()

        def _step(self, request: Request, drawn: list[int]) -> None:
            if request.key < "000000.0002" or self.drawn[request.key] < 7 or evaluated:
                self.drawn[request.key] += 1
                super()._step(request, drawn)

    def evaluate(i: int) -> None:
        before = engine.drawn.copy()
        time.sleep(0.05)  # it would draw on meanwhile
        assert (engine._open, engine.drawn) == ({}, before)
        evaluated.append((i, engine._version))

    def store(i: int, scored: Sequence[ScoredGroup], *_: Any) -> None:
        trained.update({rollout.id: rollout for item in scored for rollout in item.group.rollouts})

    engine, evaluated, trained = Halting(), list[tuple[int, WeightVersion]](), dict[str, Rollout]()
    asked = config(iterations=3, eval={"every": 1})
    run(asked, tmp_path, Learner(), engine, evaluate=evaluate, store=store)
    assert evaluated == [(1, 1), (2, 2)]
    younger = [f"000000.000{g}/{j}" for g in (2, 3) for j in (0, 1)]
    for key in younger:
        assert [(segment.version, len(segment)) for segment in trained[key].segments] == [(0, 7), (1, 33)]
    assert engine.drawn == Counter(dict.fromkeys(trained, 40)), "none twice"
