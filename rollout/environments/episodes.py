"""Episodes: between the pool, which knows tokens, and an environment, which knows messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rewards.score import Score
from rollout.engine import NO_TOKENS
from rollout.environments.config import Episode
from rollout.environments.protocol import Conversation, End, Environment, Feed
from rollout.grading import LoopThread
from rollout.models.prompts import PromptError, Transcript
from rollout.models.turns import Feeder
from rollout.pool.board import Reply, Turns
from rollout.types import Group, Problem, Rollout, Segment, StopReason, joined
from rollout.user_calls import AsyncCalls, TookTooLong, TooManyHang, within
from rollout.user_code import UserCodeError, named
from rollout.user_reward import plain_score


@dataclass(frozen=True)
class Counts:
    """Counters since the start."""

    answers: int = 0
    """Turns that the environment answered with more to read."""
    failures: int = 0
    """Answers that failed or took too long; the rollouts are ungradable."""
    clipped: int = 0
    """Episodes that ended because the answer did not fit the context."""


class Episodes:
    """Asks the environment about turns, on an event loop of its own, which user code may block.

    ``transcript`` reads the policy's turns, ``limits`` bounds an episode. Close it.
    """

    def __init__(self, environment: Environment, transcript: Transcript, limits: Episode) -> None:
        self.environment = environment
        self.transcript = transcript
        self.limits = limits
        self.feeder = Feeder(transcript.tokenizer, transcript.arguments)
        self.counts = Counts()
        """Changed on the environments' thread only."""
        self._thread = LoopThread("environments")
        self._calls = AsyncCalls("the environment")
        self._turn = asyncio.Semaphore(limits.concurrency)

    def turns(self, groups: Sequence[Group]) -> Turns:
        """See ``rollout.pool.pool.Episodes``."""
        by_key = {rollout.id: (group.problem, rollout) for group in groups for rollout in group.rollouts}
        return self.turns_of(by_key.__getitem__)

    def turns_of(self, asked_about: Callable[[str], tuple[Problem, Rollout] | None]) -> Turns:
        """Return the function that answers turns; ``asked_about`` gives problem and rollout of a key, as they were when
        the request was made, or ``None`` when it was given up meanwhile: that is the end of the episode.
        """

        async def answer(key: str, added: Sequence[Segment], left: int) -> Reply:
            if (found := asked_about(key)) is None:
                return Reply()
            problem, rollout = found
            grown = rollout.append(added, None)
            return await asyncio.wrap_future(self._thread.start(self._answer(problem, grown, left)))

        return answer

    async def _answer(self, problem: Problem, rollout: Rollout, left: int) -> Reply:
        """Ask the environment about the newest turn; ``left``: tokens of the context behind the rollout."""
        try:
            conversation = self.conversation(problem, rollout)
            async with self._turn:
                found = await self._step(conversation)
            if isinstance(found, End):
                return Reply(score=found.score and plain_score(found.score))
            if conversation.last:
                return Reply()
            tokens = self.feeder.fitting(found.messages, self.limits.feed_tokens)
        except Exception as error:  # noqa: BLE001  the named boundary to environments: counted as ungradable
            self._count(failures=1)
            told = isinstance(error, UserCodeError | TooManyHang | PromptError)
            return Reply(score=Score.ungradable(f"environment: {error if told else named(error)}"))
        if len(tokens) >= left:  # a turn needs at least one more
            self._count(clipped=1)
            return Reply(NO_TOKENS, StopReason.LENGTH)
        self._count(answers=1)
        return Reply(tokens)

    async def _step(self, conversation: Conversation) -> Feed | End:
        """Return the environment's answer. Raises what it raises, and ``UserCodeError`` when it takes too long."""
        try:
            found, error = await within(self._calls.start(self.environment.step, (conversation,)), self.limits.seconds)
        except TookTooLong:
            await self._calls.leave()
            raise UserCodeError(f"no answer within {self.limits.seconds:g} s") from None
        if error is not None:
            raise error
        answer: Feed | End = found
        return answer

    def _count(self, **more: int) -> None:
        now = self.counts
        self.counts = replace(now, **{name: getattr(now, name) + count for name, count in more.items()})

    def conversation(self, problem: Problem, rollout: Rollout) -> Conversation:
        """Return a rollout, which ends with a turn of the policy, as its environment sees it."""
        said, fed = [], []
        before, turn = [rollout.prompt.token_ids], list[Segment]()
        for segment in (*rollout.segments, None):
            if segment is not None and segment.sampled:
                turn.append(segment)
                continue
            own = [part.token_ids for part in turn]
            said.append(self.transcript.graded(joined(before, "int32"), joined(own, "int32")))
            before, turn = [*before, *own], []
            if segment is not None:
                fed.append(self.transcript.decode(segment.token_ids))
                before.append(segment.token_ids)
        return Conversation(problem, tuple(said), tuple(fed), rollout.turns >= self.limits.turns)

    def close(self) -> None:
        """End the loops, and close the environment."""
        self._thread.close()
        self._calls.close()
        self.environment.close()
