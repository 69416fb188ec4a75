"""Difficulty by pass rate [2501.12599 §2.1]: how often the model is right, stored with each problem; the trivial ones
are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from evals.evaluate import Answer
from recipes.curate.asking import Asker, Origin, Question
from recipes.curate.chunks import Reduction
from recipes.curate.config import DifficultyConfig
from rollout.plain import one_line
from rollout.types import Problem, StopReason

STAGE = "difficulty"
CUT = 0.5
"""Share of responses cut at the cap from which on pass rates say more about the cap than about the problems."""
Fate = Literal["kept", "trivial", "unsolved", "ungradable", "unfitting"]


@dataclass(frozen=True, slots=True)
class Difficulty:
    """What came of the responses to one problem."""

    id: str
    fate: Fate
    right: int = 0
    gradable: int = 0
    """Responses that could be judged; the others say nothing, and are no wrong ones."""
    responses: int = 0
    cut: int = 0
    """Responses cut at the length cap: wrong ones, as in training."""
    tokens: int = 0
    """Tokens of all responses."""
    reason: str = ""
    """Why the problem was not asked, or the commonest reason for which responses are not right."""

    @property
    def rate(self) -> float | None:
        """Pass rate: right responses of those that could be judged; ``None`` without any."""
        return self.right / self.gradable if self.gradable else None

    @property
    def dropped(self) -> bool:
        """Whether the problem is left out; one that cannot be judged would be masked in training, too."""
        return self.fate != "kept"

    @property
    def detail(self) -> str:
        """The fate's reason in words."""
        if self.fate == "unfitting":
            return self.reason
        if self.fate == "ungradable":
            return f"none of {self.responses} responses could be judged: {self.reason}"
        told = f"{self.right} of {self.gradable} right"
        lost = self.responses - self.gradable
        return told + (f", {lost} could not be judged" if lost else "")


@dataclass(frozen=True)
class DifficultyOutcome:
    """What came of all problems."""

    problems: tuple[Difficulty, ...]
    """In their order."""

    @property
    def warning(self) -> str:
        """One line where pass rates say more about the model or its settings than about the problems; else empty."""
        rated = [one for one in self.problems if one.gradable]
        responses = sum(one.responses for one in self.problems)
        cut = sum(one.cut for one in self.problems)
        if responses and not rated:
            return f"none of {responses} responses could be judged: {_commonest(self.problems)}"
        if not rated:
            return ""
        if not any(one.right for one in rated):
            return (
                f"the model is never right: 0 of {responses} responses to {len(rated)} problems, {_commonest(rated)}; "
                "pass rates tell nothing apart: take a stronger model, or mend difficulty.prompt, "
                "difficulty.max_tokens or the verifier"
            )
        if all(one.fate == "trivial" for one in rated):
            return (
                f"the model is right too often: all {len(rated)} problems are trivial (a pass rate of "
                "difficulty.easiest or more): take harder problems, a weaker model, or raise difficulty.easiest"
            )
        if cut > CUT * responses:
            return (
                f"{cut} of {responses} responses were cut at difficulty.max_tokens and count as wrong: raise it, or "
                "problems look harder than they are"
            )
        return ""


def measure_difficulty(
    asker: Asker, problems: Sequence[Problem], config: DifficultyConfig, folder: Path, origin: Origin | None = None
) -> DifficultyOutcome:
    """Draw responses, on record in ``folder``, and return the pass rates. ``origin`` and errors as of
    ``Asker.each``.
    """
    by = {"easiest": config.easiest, "unsolved": config.unsolved}
    reduction = Reduction(Difficulty, partial(difficulty_of, config), by)
    return DifficultyOutcome(tuple(asker.each(question(config), problems, folder, reduction, origin=origin)))


def question(config: DifficultyConfig) -> Question:
    """Return how problems are asked."""
    return Question(
        stage=STAGE,
        samples=config.samples,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        prompt=config.prompt,
        system=config.system,
    )


def difficulties(answers: Sequence[Answer], config: DifficultyConfig) -> dict[str, Difficulty]:
    """Return what came of graded responses, by problem id."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.problem.id, []).append(answer)
    return {name: difficulty_of(config, group[0].problem, group) for name, group in groups.items()}


def difficulty_of(
    config: DifficultyConfig, problem: Problem, answers: Sequence[Answer], refused: str = ""
) -> Difficulty:
    """Return what came of one problem's responses; ``refused``: why it was not asked."""
    if refused:
        return Difficulty(problem.id, "unfitting", reason=refused)
    judged = [answer for answer in answers if answer.score.gradable]
    right = sum(answer.score.correct for answer in judged)
    reasons = Counter(answer.score.reason for answer in judged or answers if not answer.score.correct)
    return Difficulty(
        id=problem.id,
        fate=_fate(config, right, len(judged)),
        right=right,
        gradable=len(judged),
        responses=len(answers),
        cut=sum(answer.response.stop is StopReason.LENGTH for answer in answers),
        tokens=sum(answer.response.tokens or 0 for answer in answers),
        reason=one_line(reasons.most_common(1)[0][0]) if reasons else "",
    )


def _fate(config: DifficultyConfig, right: int, gradable: int) -> Fate:
    if not gradable:
        return "ungradable"
    if right / gradable >= config.easiest:
        return "trivial"
    if not right and config.unsolved == "drop":
        return "unsolved"
    return "kept"


def _commonest(problems: Sequence[Difficulty]) -> str:
    """Return the reason that most problems have."""
    (reason, _), *_ = Counter(one.reason for one in problems).most_common(1)
    return f"mostly: {reason}" if reason else "all wrong"
