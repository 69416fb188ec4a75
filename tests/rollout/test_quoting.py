"""A grader that looks at quotes: parts beside a verdict that stays what it was."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rewards.score import Score
from rollout.grading import Answered, Grading, VerifierGrader
from rollout.quoting import MISQUOTES, SHARE, Quoting
from rollout.types import Problem, StopReason

PROBLEM = Problem.ask("p", "Tom has 48 eggs and sells 5.", "43", "exact")
FAITHFUL, WRONG = "48 - 5 = 43", "84 - 5 = 79"


def scores(grader: Quoting, *answers: Answered) -> list[Score]:
    with Grading(grader) as grading:
        return grading.submit(lambda: answers).result()


def verify(problem: Problem, text: str) -> Score:
    if "?" in text:
        raise RuntimeError("no idea")
    return Score(0.25, "43" in text, {"format": 1.0}, "", text)


def test_two_parts_are_added_and_nothing_else_changes() -> None:
    answers = [Answered(PROBLEM, text) for text in (FAITHFUL, WRONG, "43")]
    found = scores(Quoting(VerifierGrader(verify)), *answers)
    plain = [verify(PROBLEM, answer.text) for answer in answers]
    assert [score.parts for score in found] == [
        {"format": 1.0, MISQUOTES: 0.0, SHARE: 0.0},
        {"format": 1.0, MISQUOTES: 1.0, SHARE: pytest.approx(1 / 3)},
        {"format": 1.0, MISQUOTES: 0.0, SHARE: 0.0},
    ]
    for with_parts, without in zip(found, plain, strict=True):
        assert (with_parts.reward, with_parts.correct, with_parts.reason, with_parts.extracted) == (
            without.reward, without.correct, without.reason, without.extracted
        )  # fmt: skip


def test_of_what_is_ungradable_nothing_is_said() -> None:
    answers = [Answered(PROBLEM, f"{WRONG}?"), Answered(PROBLEM, WRONG, StopReason.ABORTED)]
    for score in scores(Quoting(VerifierGrader(verify)), *answers):
        assert not score.gradable
        assert score.parts == {}


class Short:
    """A grader that loses a score."""

    async def grade(self, answers: Sequence[Answered]) -> Sequence[Score]:
        return [Score.right()] * (len(answers) - 1)

    def counts(self) -> dict[str, float]:
        return {"calls": 7.0}

    def close(self) -> None:
        pass


def test_the_other_graders_counts_and_failures_come_through() -> None:
    grader = Quoting(Short())
    assert grader.counts() == {"calls": 7.0}
    (score, _) = scores(grader, Answered(PROBLEM, FAITHFUL), Answered(PROBLEM, WRONG))
    assert score.reason.endswith("the grader gave 1 scores for 2 responses")
