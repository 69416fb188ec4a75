"""The gradient of an iteration whose sequences come one by one, while others are still sampled [2511.18871]."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from rl.learner.batch import Batch, concatenated
from rl.learner.passes import Passed, Passes, opens, with_signal
from rl.objectives.protocol import Objective


class Accumulation:
    """Runs sequences forward and backward as soon as they fill a micro-batch of every share.

    Gradients are sums: what they are divided by is known when all sequences have come. Weights do not change meanwhile,
    so that every pass gives what it would have given at the end.
    """

    def __init__(self, passes: Passes, objective: Objective) -> None:
        self._passes, self._objective = passes, objective
        self._arrived: list[Batch] = []
        self._waiting: list[Batch] = []
        """Sequences that fill no micro-batch yet, those of each arrival."""
        self.passed: list[Passed] = []
        """What the passes so far told."""
        self.reference_s = 0.0
        """Seconds of reference passes."""

    def add(self, batch: Batch) -> None:
        """Take sequences, and run those that wait as often as they fill a micro-batch of every share."""
        self._arrived.append(batch)
        self._waiting.append(with_signal(batch, self._objective) if opens(self._objective) else batch)
        waiting, unit = concatenated(self._waiting), self._objective.unit
        while units := filling(
            waiting.lengths.view(-1, unit).sum(1).tolist(), self._passes.count, self._passes.max_tokens
        ):
            self._run(waiting.select(range(units * unit)))
            waiting = waiting.select(range(units * unit, len(waiting)))
        self._waiting = [waiting]

    def finish(self) -> Batch:
        """Run what still waits, and return all that has come.

        Sequences without advantage, which have no gradient in a first step, are run only if there are no others.
        """
        everything, waiting = concatenated(self._arrived), concatenated(self._waiting)
        last = waiting if len(waiting) or self.passed else everything
        if len(last):
            self._run(last)
        self._waiting = []
        return everything

    def _run(self, minibatch: Batch) -> None:
        opening = opens(self._objective)
        if self._objective.needs.reference and not opening:
            began = time.perf_counter()
            minibatch = replace(minibatch, reference_logprobs=self._passes.logprobs(minibatch, self._objective))
            self.reference_s += time.perf_counter() - began
        self.passed.append(self._passes.backward(minibatch, self._objective, opening=opening))


def filling(sizes: Sequence[int], shares: int, max_tokens: int) -> int:
    """Return how many of the units of ``sizes`` tokens, in their order, fill a micro-batch of each of ``shares``.

    That is as many as fit, each into the emptiest, before one does not; 0 while all fit: more are waited for. A unit
    longer than ``max_tokens`` takes a micro-batch to itself.
    """
    room = [max_tokens] * shares
    for count, size in enumerate(sizes):
        emptiest = max(range(shares), key=room.__getitem__)
        if min(size, max_tokens) > room[emptiest]:
            return count
        room[emptiest] -= min(size, max_tokens)
    return 0
