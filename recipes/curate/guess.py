r"""The guess filter: what can be answered without reasoning is left out [2501.12599 §2.1].

Reasoning is prevented three times: by the prompt, by the template's switch for thinking, and by a small cap behind a
written beginning of the response, which leaves room for an answer only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from evals.evaluate import Answer
from evals.offline import GRADERS
from recipes.curate.asking import BOXED, Asker, Origin, Question
from recipes.curate.chunks import Reduction
from recipes.curate.config import GuessConfig
from rewards.math.extract import boxes
from rewards.response import after_thinking
from rollout.grading import Answered, Grader, VerifierGrader
from rollout.plain import one_line
from rollout.types import Problem, StopReason

GUESSABLE = BOXED | {"exact"}
"""Verifiers of answers so short that they can be guessed."""
STAGE = "guess"
Fate = Literal["kept", "guessed", "unfitting", "not asked"]


@dataclass(frozen=True, slots=True)
class Guess:
    """What came of the attempts at one problem."""

    id: str
    fate: Fate
    attempts: int = 0
    """Attempts that were judged."""
    right: int = 0
    ungradable: int = 0
    """Attempts that could not be judged, which say nothing."""
    unfinished: int = 0
    """Wrong ones that were cut before they said an answer."""
    detail: str = ""
    """The right guess; or why the problem was not asked, or none of the attempts judged."""

    @property
    def dropped(self) -> bool:
        """Whether the problem is left out: guessed, or it cannot be asked at all."""
        return self.fate in ("guessed", "unfitting")


@dataclass(frozen=True)
class GuessOutcome:
    """What came of the filter."""

    guesses: tuple[Guess, ...]
    """In the order of the problems."""

    @property
    def asked(self) -> int:
        """Problems with an attempt that was judged."""
        return sum(guess.attempts > 0 for guess in self.guesses)

    @property
    def guessed(self) -> int:
        """Problems of which one attempt was right."""
        return sum(guess.fate == "guessed" for guess in self.guesses)

    @property
    def note(self) -> str:
        """One line on problems to which the filter does not apply; empty when it applied to all."""
        reasons = Counter(guess.detail for guess in self.guesses if guess.fate == "not asked")
        return "; ".join(f"{count} problems were not asked for guesses: {reason}" for reason, count in reasons.items())

    @property
    def warning(self) -> str:
        """One line where the filter says more about the model or its settings than about the problems; else empty."""
        attempts = sum(guess.attempts for guess in self.guesses)
        failed = sum(guess.ungradable for guess in self.guesses)
        unfinished = sum(guess.unfinished for guess in self.guesses)
        if failed and not attempts:
            (reason, _), *_ = Counter(guess.detail for guess in self.guesses if guess.ungradable).most_common(1)
            return f"none of {failed} guesses could be judged, so nothing was filtered: {reason}"
        if self.asked > 1 and self.guessed == self.asked:
            return (
                f"all {self.asked} problems were guessed: they are too easy for this model, or guess.max_tokens leaves "
                "room to reason"
            )
        if unfinished > attempts / 2:
            return (
                f"{unfinished} of {attempts} guesses were cut before they said an answer, so the filter is weak; "
                "change guess.prefix or guess.prompt, or raise guess.max_tokens"
            )
        return ""


def filter_guesses(
    asker: Asker, problems: Sequence[Problem], config: GuessConfig, folder: Path, origin: Origin | None = None
) -> GuessOutcome:
    """Ask for guesses, on record in ``folder``, and return what came of them. ``origin`` and errors as of
    ``Asker.each``.
    """
    asked = [problem for problem in problems if problem.verifier in GUESSABLE]
    grader = GuessGrader(VerifierGrader(threads=GRADERS))
    found = asker.each(question(config), asked, folder, Reduction(Guess, guess_of, {}), grader, origin)
    by_id = {guess.id: guess for guess in found}
    return GuessOutcome(tuple(by_id.get(problem.id) or _not_asked(problem) for problem in problems))


def question(config: GuessConfig) -> Question:
    """Return how guesses are asked for."""
    return Question(
        stage=STAGE,
        samples=config.attempts,
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        prompt=config.prompt,
        thinking="off",
        prefix=config.prefix,
    )


def _not_asked(problem: Problem) -> Guess:
    why = f"answers of the verifier {problem.verifier!r} cannot be guessed" if problem.verifier else "no verifier"
    return Guess(problem.id, "not asked", detail=why)


def guessed(answers: Sequence[Answer]) -> dict[str, Guess]:
    """Return what came of graded attempts, by problem id."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.problem.id, []).append(answer)
    return {name: guess_of(group[0].problem, group) for name, group in groups.items()}


def guess_of(problem: Problem, answers: Sequence[Answer], refused: str = "") -> Guess:
    """Return what came of one problem's attempts; one right attempt is enough [2501.12599 §2.1].

    ``refused``: why it was not asked.
    """
    if refused:
        return Guess(problem.id, "unfitting", detail=refused)
    right = [answer for answer in answers if answer.score.correct]
    judged = [answer for answer in answers if answer.score.gradable]
    failed = [answer for answer in answers if not answer.score.gradable]
    detail = one_line(right[0].score.extracted or right[0].response.text) if right else ""
    if failed and not judged:
        detail = one_line(failed[0].score.reason)
    return Guess(
        id=problem.id,
        fate="guessed" if right else "kept",
        attempts=len(judged),
        right=len(right),
        ungradable=len(failed),
        unfinished=sum(not said(_answered(answer)) for answer in judged if not answer.score.correct),
        detail=detail,
    )


def _answered(answer: Answer) -> Answered:
    return Answered(answer.problem, answer.response.text, answer.response.stop)


class GuessGrader:
    """Hands what attempts say (``said``) to another grader."""

    def __init__(self, inner: Grader) -> None:
        self._inner = inner

    async def grade(self, answers: Sequence[Answered]) -> Any:
        """See ``Grader``."""
        return await self._inner.grade([_shortened(answer) for answer in answers])

    def counts(self) -> dict[str, float]:
        """See ``Grader``."""
        return self._inner.counts()

    def close(self) -> None:
        """See ``Grader``."""
        self._inner.close()


def _shortened(answer: Answered) -> Answered:
    """Return the attempt up to its answer, as one that ended there; one that said none, or was aborted, as it is.

    A response cut at the cap is wrong in training, whatever stands in it: its reasoning may have been cut. Here the cap
    is what keeps the model from reasoning, and the answer comes first.
    """
    text = said(answer)
    return replace(answer, text=text, stop=StopReason.EOS) if text else answer


def said(answer: Answered) -> str:
    r"""Return the text of an attempt up to the end of its answer; empty when it was cut before.

    That is the first box that closes, if the verifier reads boxes; without one the first line that has text, which must
    have ended. A box that is open when the model ends its response is closed, since it did not open it.
    """
    if answer.stop is StopReason.ABORTED:
        return ""
    whole = answer.stop is not StopReason.LENGTH
    if answer.problem.verifier in BOXED:
        text = answer.text
        closed = next((end for _, _, end in boxes(text) if end >= 0), -1)
        if closed >= 0:
            return text[: closed + 1]
        if "\\boxed" in text:
            closed_now = text.rstrip() + "}"
            return closed_now if whole and boxes(closed_now) else ""
    line, ends, _ = after_thinking(answer.text).lstrip().partition("\n")
    return line if whole or ends else ""
