"""Programs judged by Ray actors, everything else as before: the judge service as a grader."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

from rewards.reference import Reference
from rewards.score import Score
from rewards.verify import WHOLE
from rollout.grading import Answered, Grader, unanswered
from rollout.user_code import named

if TYPE_CHECKING:
    from rewards.code.service import ServiceStatistics

COUNTED = ("accepted", "finished", "ungradable", "retried", "restarts", "waited_s", "judging_s")
"""Statistics of the service that only grow."""


class Judges(Protocol):
    """``rewards.code.service.JudgeService``."""

    def submit(self, response: str, reference: Reference, wait_s: float | None = None) -> Future[Score]:
        """Return the score to come; blocks while the service has as much work as it accepts."""

    def statistics(self) -> ServiceStatistics:
        """Counts up to now."""

    def close(self) -> None:
        """Stop at once."""


class JudgeGrader:
    """Gives programs to ``judges``, other answers to ``others``."""

    def __init__(self, judges: Judges, others: Grader) -> None:
        self.judges = judges
        self.others = others
        self._door = ThreadPoolExecutor(
            1, thread_name_prefix="judges"
        )  # one waits at the full queue, all others behind

    async def grade(self, answers: Sequence[Answered]) -> Sequence[Score]:
        """See ``Grader``."""
        is_program = [answer.problem.verifier in WHOLE for answer in answers]
        rest = [answer for answer, program in zip(answers, is_program, strict=True) if not program]
        programs = [answer for answer, program in zip(answers, is_program, strict=True) if program]
        judged, graded = await asyncio.gather(
            asyncio.gather(*(self._judge(answer) for answer in programs)), self.others.grade(rest)
        )
        by_kind = {True: iter(judged), False: iter(graded)}
        return [next(by_kind[program]) for program in is_program]

    async def _judge(self, answer: Answered) -> Score:
        if (settled := unanswered(answer.stop)) is not None:
            return settled
        problem = answer.problem
        reference = Reference(problem.answer, problem.prompt, problem.extra)
        loop = asyncio.get_running_loop()
        try:
            future = await loop.run_in_executor(self._door, self.judges.submit, answer.text, reference)
            return await asyncio.wrap_future(future)
        except Exception as error:  # noqa: BLE001  the named boundary to graders: counted as ungradable
            return Score.ungradable(named(error))

    def counts(self) -> dict[str, float]:
        """Return the service's statistics as ``judges_<name>``, beside those of ``others``."""
        counted = {f"judges_{name}": float(value) for name, value in asdict(self.judges.statistics()).items()}
        return self.others.counts() | {name: counted[name] for name in (f"judges_{each}" for each in COUNTED)}

    def close(self) -> None:
        """Stop judging; what waits is ungradable."""
        self.judges.close()
        self._door.shutdown(wait=False, cancel_futures=True)
        self.others.close()
