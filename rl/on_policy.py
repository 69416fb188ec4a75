"""The k1.5 loop, strictly on policy and overlapped: finished groups enter the gradient while others are sampled.

Every token is drawn under the weights that are trained, as in ``rl.loop``, and there is one optimiser step an
iteration. What overlaps are the learner's forward and backward passes with the sampling of the rest [2511.18871].
Groups are added up in the order in which they are finished, so the last bits of a gradient differ from run to run.
"""

from __future__ import annotations

from rl.config import RunConfig
from rl.iteration import advantages_of, iterations, tell, trained_on
from rl.overlap import LOOK_S, Learnt, Overlapped, opened
from rl.parts import Parts
from rl.record.log import Timer
from rl.rewarding import ScoredGroup
from rl.state.checkpoint import RunState


def train(config: RunConfig, state: RunState, parts: Parts) -> RunState:
    """Run iterations from ``state`` on; returns the state after the last one. See ``rl.iteration.iterations``."""
    with opened(Streamed, config, state, parts) as run:
        return iterations(config, state, parts, run.iterate)


class Streamed(Overlapped):
    """The driver of a strictly on-policy run."""

    def _train(self, i: int, timer: Timer) -> Learnt:
        """Hand groups to the learner as they are graded, and take the step when all rollouts rest."""
        parts = self.parts
        fed: list[ScoredGroup] = []
        parts.watch.stage("generate", self.buffer.under_way)
        with timer("generate"):
            while self.buffer.under_way or self.buffer.finished:
                self.heed()
                if names := self._graded():
                    fed += self._accumulate(i, names)
                else:
                    self.take(self.stream.news(LOOK_S), parts.watch.advance)
        parts.journal.chose(i, [item.group.id for item in fed])
        parts.watch.stage("train")
        scored = sorted(fed, key=lambda item: item.group.id)
        tell(scored, parts)  # in this order, so that a run that goes through it again draws the same problems
        weights = trained_on(self.config, scored, [advantages_of(item, parts.objective) for item in scored], i)
        with self._stored(i, scored, weights, timer), timer("train"):
            stats = self._learner("train", parts.policy.close_iteration, i)
        return Learnt(scored, weights, stats)

    def _graded(self) -> list[str]:
        """Return the ids of the groups that the learner can have."""
        waiting = self.parts.rewarder.waiting
        return [group.id for group in self.buffer.finished if group.id not in waiting]

    def _accumulate(self, i: int, names: list[str]) -> list[ScoredGroup]:
        """Add the gradients of graded groups, and return these."""
        parts = self.parts
        scored = parts.rewarder.collect(i, names)
        self.buffer.remove(names)
        values = [advantages_of(item, parts.objective) for item in scored]
        groups = [item.group for item in scored]
        self._learner("accumulate", parts.policy.accumulate, groups, values, i, advance=parts.watch.advance)
        return scored
