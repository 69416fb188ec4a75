"""``k15 grade FILE --judge PATH``: a rule and a reward model on a file of responses, in order."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

from evals.agreement import Verdicts, agreement, of_score
from evals.report.agreement import Judgement, write_page
from recipes.commands.grade import Fault, GradeError, Grading, opened, read_row, summary, text_of, tolerance_of
from recipes.commands.judging import JudgeError, Judges, own_site
from recipes.commands.malformed import Malformed
from rewards.math.grade import grade
from rewards.score import Score
from rollout.evidence.asking import FIELD, named_texts
from rollout.evidence.windows import EvidenceError
from rollout.grading import Answered, VerifierGrader
from rollout.plain import one_line
from rollout.progress import waiting
from rollout.reward_models.config import RewardModelConfig
from rollout.reward_models.evidence_judge import evidence_named
from rollout.reward_models.load import find
from rollout.strict_json import finite
from rollout.types import Message, Problem

AT_ONCE = 64
"""Lines that the grader is given together."""
AHEAD = 16
"""So many times as many lines are read ahead of it: a judge's engines need work."""
UNASKED = "(no question)"
"""Stands for the question where the reward model reads none."""
SHOWN = 8
"""Most texts of evidence that are named in the end."""
QUESTIONS = ("question", "problem", "prompt")
"""Names of the field with the question; of several the first counts."""


@dataclass(frozen=True)
class Line:
    """A line of the file that can be graded."""

    number: int
    row: dict[str, Any]
    answer: Answered


class Reader:
    """Reads lines as a rule and a reward model see them; those that cannot be graded are kept in ``left_out``."""

    def __init__(self, name: str, how: Grading, question: str | None, template: str) -> None:
        """``question``: the field with the question, if it is not one of ``QUESTIONS``; ``template``: the model's."""
        self.how, self.question, self.template = how, question, template
        self.left_out = Malformed(name)

    def lines(self, source: Iterable[bytes]) -> Iterator[Line]:
        """Yield the lines that can be graded."""
        for number, text in enumerate(source, 1):
            if not text.strip():
                continue
            try:
                row = read_row(text, self.how)
                yield Line(number, row, self._answered(row, number))
            except Fault as fault:
                self.left_out.add(number, fault.kind, fault.detail)

    def _answered(self, row: dict[str, Any], number: int) -> Answered:
        how = self.how
        needed = how.rule != "none" or "{reference}" in self.template
        gold = text_of(row, how.gold, "--gold-field") if needed or how.gold in row else ""
        prediction = text_of(row, how.prediction, "--prediction-field")
        extra = {
            "tolerance": tolerance_of(row, how.tolerance),
            "source": row.get("source"),
            "tokens": row.get("tokens"),
            FIELD: evidence_in(row),
        }
        name = str(row.get("id") or number)
        return Answered(Problem(name, (Message("user", self._question(row)),), gold, extra=extra), prediction)

    def _question(self, row: dict[str, Any]) -> str:
        name = self.question or next((name for name in QUESTIONS if name in row), QUESTIONS[0])
        if name not in row and "{question}" not in self.template:
            return UNASKED
        return text_of(row, name, "--question-field")


def template_of(config: RewardModelConfig) -> str:
    """Return what the reward model reads. The evidence of a window is no reference that a row has to have."""
    if config.evidence is None:
        return find(config.path).card.template
    return "{question}" if config.evidence.template is None else config.evidence.template.replace("{reference}", "")


def evidence_in(row: dict[str, Any]) -> dict[str, str]:
    """Return the texts of a row by which it is judged, by name. Raises ``Fault``."""
    try:
        return named_texts(row.get(FIELD) or {})
    except EvidenceError as error:
        raise Fault(str(error)) from error


def rule_of(how: Grading, workers: int) -> VerifierGrader:
    """Return the rule of the command line as a grader, on threads."""

    def verify(problem: Problem, text: str) -> Score:
        if how.rule == "none":
            return Score.ungradable("there is no rule")
        tolerance: Fraction | None = problem.extra["tolerance"]
        return grade(problem.answer, text, rule=how.rule, bare=how.bare, tolerance=tolerance, timeout_s=how.timeout_s)

    return VerifierGrader(verify, workers)


def judge_lines(lines: Iterator[Line], rule: VerifierGrader, judges: Judges) -> Iterator[tuple[Line, Score]]:
    """Yield the lines with their scores, in order; a bounded number is read ahead."""
    grading = judges.grading(rule)
    ahead: deque[tuple[list[Line], Future[list[Score]]]] = deque()

    def done() -> Iterator[tuple[Line, Score]]:
        part, scores = ahead.popleft()
        yield from zip(part, scores.result(), strict=True)

    while part := list(islice(lines, AT_ONCE)):
        answers = [line.answer for line in part]
        ahead.append((part, grading.submit(lambda answers=answers: answers)))  # type: ignore[misc]
        if len(ahead) >= AHEAD:
            yield from done()
    while ahead:
        yield from done()


def told(line: Line, score: Score, how: Grading) -> dict[str, Any]:
    """Return a line with both verdicts."""
    verdicts = of_score(line.answer.problem.id, score)
    word = {True: "correct", False: "wrong", None: None}
    ours = {
        "verdict": score.verdict,
        "extracted": score.extracted,
        "reason": score.reason,
        "rule": word[verdicts.rule],
        "model": verdicts.probability,
        "opinion": score.opinion,
    }
    return {**line.row, **{how.prefix + name: value for name, value in ours.items()}}


def judgement(line: Line, score: Score) -> Judgement:
    """Return a line for the page."""
    problem = line.answer.problem
    tokens, difficulty = problem.extra["tokens"], line.row.get("difficulty")
    return Judgement(
        id=f"line {line.number}",
        verdicts=of_score(problem.id, score),
        question=problem.prompt,
        reference=problem.answer,
        response=line.answer.text,
        verdict=score.verdict,
        reason=score.reason,
        opinion=score.opinion,
        source=one_line(str(problem.extra["source"] or ""), 80),
        difficulty=float(difficulty) if isinstance(difficulty, int | float) else None,
        tokens=tokens if isinstance(tokens, int) else None,
    )


@dataclass(frozen=True)
class Files:
    """What the command reads and writes."""

    file: str
    """``-``: standard input."""
    out: Path | None
    """``None``: standard output."""
    page: Path | None
    """The page that shows how rule and model compare; ``None``: none."""


def run(files: Files, how: Grading, question: str | None, config: RewardModelConfig, workers: int | None) -> int:
    """Grade a file by rule and model; returns the exit code: 1 when lines were malformed.

    ``question``: see ``Reader``. Raises ``GradeError`` as ``recipes.commands.grade.run``
    does, also when the model cannot be opened.
    """
    file, out, page = files.file, files.out, files.page
    if out is not None and file != "-" and out.exists() and Path(file).exists() and out.samefile(file):
        raise GradeError(f"--out {out} is the input itself; name another file")
    started = time.monotonic()
    reader = Reader("standard input" if file == "-" else file, how, question, template_of(config))
    counts: Counter[str] = Counter()
    verdicts: list[Verdicts] = []
    judgements: list[Judgement] = []
    reasons: Counter[str] = Counter()
    pointers: Counter[str] = Counter()
    with opened(file, out) as (source, sink), ExitStack() as stack:
        lines = reader.lines(source)
        if (first := next(lines, None)) is None:  # before a model is started in vain
            raise GradeError(*(reader.left_out.lines() or [f"{reader.left_out.name}: holds no lines to grade"]))
        judges = opened_judges(config, stack)
        rule = rule_of(how, workers or len(os.sched_getaffinity(0)))
        stack.callback(rule.close)
        for line, score in judge_lines(chain([first], lines), rule, judges):
            counts[score.verdict] += 1
            if not score.gradable:
                reasons[score.reason] += 1
            if config.evidence is not None and (name := evidence_named(score.opinion)):
                pointers[name] += 1
            verdicts.append(of_score(line.answer.problem.id, score))
            if page is not None:
                judgements.append(judgement(line, score))
            print(json.dumps(finite(told(line, score, how)), allow_nan=False), file=sink)
    for fault in reader.left_out.lines():
        print(f"k15: {fault}", file=sys.stderr)
    counts["malformed"] = reader.left_out.total
    say(summary(counts, time.monotonic() - started), verdicts, reasons, pointed(pointers))
    if page is not None:
        show(page, reader.left_out.name, config, judgements)
    return 1 if reader.left_out.total else 0


def opened_judges(config: RewardModelConfig, stack: ExitStack) -> Judges:
    """Open the reward model of the command. Raises ``GradeError``."""
    try:
        with waiting("starting the reward model"):
            return Judges(config, *own_site(), stack)
    except JudgeError as error:
        raise GradeError(str(error)) from error


FEW = 3
"""Responses from which on it is told that a judge says the same of all."""


def say(summed: str, verdicts: list[Verdicts], reasons: Counter[str], decided: Sequence[str]) -> None:
    """Print how many are right, how both compare, and what evidence ``decided``, to standard error."""
    lines = [summed, *agreement(verdicts).lines, *decided]
    opinions = {one.model for one in verdicts if one.model is not None}
    if decided and len(verdicts) >= FEW and len(opinions) == 1:
        lines.append(
            "every response got the same verdict: see by evidence.each=true what the judge says of each window"
        )
    lines += [f"{count} ungradable: {one_line(reason, 200)}" for reason, count in reasons.most_common(3)]
    print("\n".join(lines), file=sys.stderr)


def pointed(pointers: Counter[str]) -> list[str]:
    """Return a line on which evidence decided how often."""
    total = pointers.total()
    parts = [f"{one_line(name, 60)} {100 * count / total:.0f} %" for name, count in pointers.most_common(SHOWN)]
    more = f", {len(pointers) - SHOWN} others" if len(pointers) > SHOWN else ""
    return [f"decided by {', '.join(parts)}{more}"] if parts else []


def show(page: Path, title: str, config: RewardModelConfig, judgements: list[Judgement]) -> None:
    """Write the page and say where it is. Raises ``GradeError``."""
    from recipes.commands.eval import facts

    try:
        write_page(page, title, {**facts(""), "model": config.path, "when": config.when}, judgements)
    except OSError as error:
        raise GradeError(f"cannot write {page}: {error.strerror}") from error
    print(f"page {page}", file=sys.stderr)
