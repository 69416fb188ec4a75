"""Labelled responses as problems for a judge: the prompt is the judge's, the answer is the verdict that is right.

Splits go by the question, up to case and white space, which other rows may share: a judge is never held out on a
question that it was trained on.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from random import Random

from pydantic import ValidationError

from rewards.models.verdict import CORRECT, WRONG
from rollout.problems.config import VerdictsSource
from rollout.problems.source import ProblemError, ProblemList, Split, find_data
from rollout.problems.splits import owner
from rollout.reward_models.asking import JUDGE_TEMPLATE, judge_card, judge_messages
from rollout.reward_models.card import Card
from rollout.reward_models.labelled import RIGHT, Labelled, LabelledError, read_labelled
from rollout.reward_models.labelled import WRONG as IS_WRONG
from rollout.seeds import seed_of
from rollout.types import Problem

logger = logging.getLogger(__name__)
ANSWERS = {RIGHT: CORRECT, IS_WRONG: WRONG}
"""Label of a response -> verdict of a judge who is right."""


def card_of(config: VerdictsSource) -> Card:
    """Return the card of the judge that these problems train. Raises ``ProblemError`` for a template that cannot be."""
    try:
        return judge_card(config.template or JUDGE_TEMPLATE, sees=config.sees)
    except ValidationError as error:
        what = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ProblemError(f"{config.path}: the judge's {what} (problems.train.template)") from error


def load_verdicts(config: VerdictsSource, split: Split) -> ProblemList:
    """Return the labelled responses of ``config.path`` as a judge is asked about them; those without a verdict, or with
    both, are left out, and how many is logged.

    Raises ``ProblemError`` for what cannot be read, and for labels other than right and wrong.
    """
    card, path = card_of(config), find_data(config.path, os.environ.get("K15_DATA"))
    try:
        rows = read_labelled(path)
    except LabelledError as error:
        raise ProblemError(str(error)) from error
    known = [row for row in rows if row.label]
    if left_out := len(rows) - len(known):
        logger.info("%s: left out %d responses without a verdict", path, left_out)
    if not known:
        raise ProblemError(f"{path}: no response has a verdict; a judge is trained on some that are right or wrong")
    for row in known:
        if row.label not in ANSWERS:
            raise ProblemError(f"{row.place}: the label is {row.label!r}; a judge's are {RIGHT!r} and {IS_WRONG!r}")
    _check_both(path, known)
    kept = [row for row in known if not config.split or owner(row.question_key, "verdicts") == split]
    if config.shuffle is not None:
        Random(seed_of(config.shuffle, "verdicts")).shuffle(kept)
    problems: dict[str, Problem] = {}
    places: dict[str, str] = {}
    disputed: set[str] = set()
    for row in kept:  # the same response twice is one problem
        problem = problem_of(row, card)
        if problems.setdefault(problem.id, problem).answer != problem.answer:
            disputed.add(problem.id)
        places.setdefault(problem.id, row.place)
    if disputed:
        logger.info("%s: left out %d responses that are labelled right and wrong", path, len(disputed))
    chosen = [name for name in problems if name not in disputed][: config.limit]
    return ProblemList([problems[name] for name in chosen], str(path), [places[name] for name in chosen])


def problem_of(row: Labelled, card: Card) -> Problem:
    """Return one labelled response as the judge of ``card`` is asked about it."""
    digest = hashlib.sha256("\0".join((row.question, row.reference, row.response)).encode()).hexdigest()
    return Problem(
        id=f"verdicts:{digest[:16]}",
        messages=judge_messages(card, row.question, row.reference, row.response),
        answer=ANSWERS[row.label],
        verifier="verdict",
        source="verdicts",
        extra={"row": row.id},
    )


def _check_both(path: Path, rows: list[Labelled]) -> None:
    """Raises ``ProblemError`` when all labels are the same: such a judge would learn to say that, always."""
    if len(labels := {row.label for row in rows}) == 1:
        raise ProblemError(
            f"{path}: all {len(rows)} verdicts are {labels.pop()!r}; a judge has to see both right and wrong responses"
        )
