"""An environment that tells the policy when its answer is wrong, and lets it try again."""

from __future__ import annotations

from rollout.environments.config import Retry
from rollout.environments.protocol import Conversation, End, Feed
from rollout.grading import Answered, Grader
from rollout.types import StopReason


class RetryEnvironment:
    """Asks the run's grader about each turn; the last turn is judged as any response is."""

    def __init__(self, config: Retry, grader: Grader) -> None:
        self.config, self.grader = config, grader

    async def step(self, conversation: Conversation) -> Feed | End:
        """See ``Environment``. A turn that the grader fails on ends the episode, ungradable."""
        if conversation.last:
            return End()
        (score,) = await self.grader.grade([Answered(conversation.problem, conversation.text, StopReason.EOS)])
        if score.correct:
            return End()
        if not score.gradable:
            return End(score)
        return Feed.text(self.config.feedback.replace("{reason}", score.reason))

    def close(self) -> None:
        """See ``Environment``; the grader is its own."""
        self.grader.close()
