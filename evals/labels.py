"""Answers that are one of a few labels: what an engine may say, and the verdict on it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from rewards.response import after_thinking
from rewards.score import Score
from rollout.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rollout.constraints import OneOf


class LabelError(ValueError):
    """Labels between which a model cannot choose; one line."""


def one_of(tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], end: int) -> OneOf:
    """Return the constraint under which a response is one of these labels and ``end``, the token that ends a turn.

    Raises ``LabelError`` for labels that this tokenizer cannot tell apart or cannot write, and for fewer than two.
    """
    from rollout.constraints import OneOf

    if len(labels) < 2:
        raise LabelError(f"{len(labels)} labels to choose between; give at least two")
    written: dict[tuple[int, ...], str] = {}
    for label in labels:
        if not label.strip():
            raise LabelError(f"label {label!r} is empty; give each a text")
        tokens = tuple(tokenizer(label, add_special_tokens=False)["input_ids"])
        if tokens in written:
            raise LabelError(
                f"labels {written[tokens]!r} and {label!r} have the same tokens in {tokenizer.name_or_path!r}; "
                "change one of them"
            )
        said = str(tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))
        if end in tokens or said.strip() != label.strip():
            raise LabelError(f"label {label!r} cannot be written in tokens of {tokenizer.name_or_path!r}; change it")
        written[tokens] = label
    return OneOf(tuple((*tokens, end) for tokens in written))


def verify_label(problem: Problem, response: str) -> Score:
    """Right when the answer, after the thinking, is the problem's label, up to case, white space and a full stop."""
    said = " ".join(after_thinking(response).split()).removesuffix(".")
    if not said:
        return Score.wrong("no answer")
    right = said.casefold() == " ".join(problem.answer.split()).casefold()
    return Score.right(said) if right else Score.wrong("another label", said)


def in_turn(values: Sequence[str], random: Random) -> list[int]:
    """Return all indices so that their values take turns: a round holds each value that is left once, in an order of
    its own. Drawn from ``random`` round by round, so that what comes first does not depend on how many are taken.
    """
    left: dict[str, list[int]] = {}
    for index, value in enumerate(values):
        left.setdefault(value, []).append(index)
    found: list[int] = []
    for at in range(max(map(len, left.values()), default=0)):
        turn = [own[at] for own in left.values() if at < len(own)]
        random.shuffle(turn)
        found += turn
    return found
