"""A vote of windows: each answers by itself, and the answer that most of them give is the one (``--beside vote``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from evals.evaluate import Ask, Done, Key, Response, Spoke
from evals.pooled import PoolResponder, Reading
from evals.votes import Same, classes
from rollout.grading import Answered, Verify, verdict
from rollout.pool.board import Completion
from rollout.seeds import seed_of
from rollout.types import Problem, StopReason

SILENT = (StopReason.LENGTH, StopReason.ABORTED, StopReason.REPETITION)
"""Ends of responses that have no vote."""


@dataclass(frozen=True)
class Ballot:
    """One window's answer."""

    text: str
    """The answer that was read out of the response; empty: no vote."""
    sure: float
    """See ``sureness``."""


def elected(ballots: Sequence[Ballot], same: Same) -> int:
    """Return the index of the winner: of the answers that most give, equal ones being one, the surest response; of as
    many votes the surest decides, and where nobody has one, too. The first of equals.
    """
    votes = classes([ballot.text for ballot in ballots], same)
    counts = Counter(vote for vote in votes if vote is not None)
    most = max(counts.values(), default=0)
    able = [k for k, vote in enumerate(votes) if vote is None or counts[vote] == most]
    if most:
        able = [k for k in able if votes[k] is not None]
    return max(able, key=lambda k: (ballots[k].sure, -k))


@dataclass(frozen=True)
class VoteResponder:
    """A ``Responder`` that draws one response from each window of a problem and hands over the elected one."""

    drawing: PoolResponder
    """How a response is drawn; its ``render`` is not used."""
    windows: Callable[[Problem], Sequence[Reading]]
    """What is read for each window."""
    verify: Verify
    """Reads the answer out of a response."""
    same: Same

    def respond(self, asks: Sequence[Ask], done: Done) -> None:
        """See ``Responder``. Raises ``AllEnginesDead``."""
        readings = {ask.problem.id: self.windows(ask.problem) for ask in asks}
        waiting = {
            f"{ask.problem.id}#{ask.sample}@{k + 1}": (ask, k)
            for ask in asks
            for k in range(len(readings[ask.problem.id]))
        }
        drawn: dict[Key, dict[int, Completion]] = {ask.key: {} for ask in asks}

        def rest(completion: Completion) -> None:
            ask, k = waiting[completion.key]
            own, read = drawn[ask.key], readings[ask.problem.id]
            own[k] = completion
            if len(own) == len(read):
                del drawn[ask.key]
                done(ask, self.elect(ask.problem, read, [own[k] for k in range(len(read))]))

        requests = [
            self.drawing.request(key, readings[ask.problem.id][k], seed_of(ask.seed, "window", k))
            for key, (ask, k) in waiting.items()
        ]
        self.drawing.pool.generate(requests, on_rest=rest)

    def elect(self, problem: Problem, readings: Sequence[Reading], drawn: Sequence[Completion]) -> Response:
        """Return the elected response. One that an engine gave up makes all of it aborted, to be tried once more."""
        responses = [self.drawing.response(*pair) for pair in zip(readings, drawn, strict=True)]
        lost = next((one for one in responses if one.stop is StopReason.ABORTED), None)
        if lost is not None:
            return lost
        ballots = [
            Ballot(self.answer(problem, response), sureness(completion, self.drawing.constraint is not None))
            for response, completion in zip(responses, drawn, strict=True)
        ]
        winner = elected(ballots, self.same)
        shares = tuple(float(k == winner) for k in range(len(responses)))
        return replace(responses[winner], spoke=Spoke(winner + 1, shares, readings[winner].holder))

    def answer(self, problem: Problem, response: Response) -> str:
        """Return the answer that a response gives; empty without one. Whether it is right plays no part."""
        if response.stop in SILENT:
            return ""
        return verdict(Answered(problem, response.text, response.stop), self.verify).extracted


def sureness(completion: Completion, restricted: bool) -> float:
    """Return the mean log-probability of the tokens that were drawn, in nats; -inf without any. Of a ``restricted``
    response the sum: most of a label's tokens are forced, which says nothing about how sure it is.
    """
    logprobs = [float(value) for segment in completion.segments for value in segment.logprobs]
    if not logprobs:
        return float("-inf")
    return sum(logprobs) if restricted else sum(logprobs) / len(logprobs)
