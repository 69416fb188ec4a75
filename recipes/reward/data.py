"""Labelled responses as a head learns them: parted by question, counted, and as token ids."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from recipes.reward.config import SplitConfig
from rollout.reward_models.labelled import RIGHT, WRONG, Labelled, LabelledError, read, same_text
from rollout.reward_models.reading import Reader, Unreadable
from rollout.types import TokenIds

CLASSES = (WRONG, RIGHT)
READABLE = 0.5
"""Least share of the responses that the model must be able to read."""


@dataclass(frozen=True)
class Example:
    """One response as it is learnt."""

    row: Labelled
    ids: TokenIds
    alone: bool = False
    """Whether its text stands for itself: all of the data answer one question, as texts do that are classified."""

    @property
    def label(self) -> int:
        """Its place in ``CLASSES``."""
        return CLASSES.index(self.row.label)

    @property
    def question(self) -> str:
        """What counts as the same question."""
        return same_text(self.row.response) if self.alone else self.row.question_key


@dataclass(frozen=True)
class Parts:
    """The three parts of the data; no question is in two of them."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    heldout: tuple[Example, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Why responses were left out -> how many."""

    @property
    def digest(self) -> str:
        """A hash of which response is where, with what label."""
        return digest_of((self.train, self.validation, self.heldout))


def digest_of(parts: Iterable[Iterable[Example]], *told: str) -> str:
    """Return a hash of ``told`` and of which response is in which part, with what label, one response at a time."""
    found = hashlib.sha256(json.dumps(told).encode())
    for number, part in enumerate(parts):
        for one in part:
            found.update(json.dumps([number, one.row.id, one.row.label, len(one.ids)]).encode())
            found.update(np.ascontiguousarray(one.ids, "<i4").tobytes())
    return found.hexdigest()


def prepare(labelled: Path, heldout: Path | None, keys: SplitConfig, reader: Reader) -> Parts:
    """Return the responses of ``labelled`` in their parts; those of the file ``heldout``, if any, are to judge on.

    Raises ``LabelledError`` where nothing can be learnt from them.
    """
    left_out: Counter[str] = Counter()
    known = _examples(labelled, reader, left_out)
    judges = _examples(heldout, reader, left_out) if heldout is not None else None
    if one_question(known):
        known, judges = each_alone(known), None if judges is None else each_alone(judges)
    if judges is None:
        share = keys.heldout
    else:
        share, asked = 0.0, {example.question for example in judges}
        before = len(known)
        known = [example for example in known if example.question not in asked]
        left_out["to held-out questions"] += before - len(known)
    parts = parted(known, share, keys)
    found = Parts(parts[2], parts[1], tuple(judges) if judges is not None else parts[0], +left_out)
    for name, part in (("train", found.train), ("validation", found.validation), ("held-out", found.heldout)):
        _check(name, part, labelled, both=name != "held-out")
    return found


def one_question(examples: Iterable[Example]) -> bool:
    """Return whether all answer the same question: there is nothing to part by then but their texts."""
    return len({example.question for example in examples}) == 1


def each_alone(examples: Iterable[Example]) -> list[Example]:
    """Return ``examples`` as texts that stand for themselves."""
    return [replace(example, alone=True) for example in examples]


def parted(
    examples: Sequence[Example], heldout: float, keys: SplitConfig
) -> tuple[tuple[Example, ...], tuple[Example, ...], tuple[Example, ...]]:
    """Return held-out, validation and training examples.

    A question's place in the order that is cut depends on its text and the seed alone, so that further responses move
    none, and further questions only those where the order is cut.
    """
    keyed = {example.question for example in examples}
    order = sorted(keyed, key=lambda text: hashlib.sha256(f"{keys.seed}/{text}".encode()).digest())
    first = round(heldout * len(order)) if heldout else 0
    second = first + max(1, round(keys.validation * len(order)))
    chosen = (set(order[:first]), set(order[first:second]), set(order[second:]))
    held, valid, train = (tuple(one for one in examples if one.question in part) for part in chosen)
    return held, valid, train


def _examples(path: Path, reader: Reader, left_out: Counter[str]) -> list[Example]:
    """Return the responses of a file as the model reads them, and count the others in ``left_out``."""
    reading = read(path)
    left_out.update(reading.left_out)
    rows = [row for row in reading.rows if row.label]
    left_out["without a label"] += len(reading.rows) - len(rows)
    if not rows:
        raise LabelledError(
            f"{path}: none of {len(reading.rows)} responses has a label; give label, {RIGHT} or {WRONG}"
        )
    if strange := [row for row in rows if row.label not in CLASSES]:
        raise LabelledError(
            f"{strange[0].place}: the label is {strange[0].label!r}, and a head knows {RIGHT} and {WRONG} "
            f"({len(strange)} rows have others); `k15 train verifier` takes more classes"
        )
    return readable(path, rows, reader, left_out)


def readable(path: Path, rows: Sequence[Labelled], reader: Reader, left_out: Counter[str]) -> list[Example]:
    """Return ``rows`` of ``path`` as the model reads them, and count in ``left_out`` those that it cannot read.

    Raises ``LabelledError`` where those are too many.
    """
    found, faults = [], list[str]()
    for row in rows:
        try:
            found.append(Example(row, reader.read(row.question, row.reference, row.response)))
        except Unreadable as fault:
            left_out[fault.kind.replace("_", " ")] += 1
            faults.append(f"{row.place}: {fault}")
    if len(found) < READABLE * len(rows):
        raise LabelledError(
            f"{path}: the model cannot read {len(faults)} of {len(rows)} responses; the first: {faults[0]}: give "
            "--template in words that its tokenizer has, --max_tokens, or another --model"
        )
    return found


def _check(name: str, part: Iterable[Example], path: Path, both: bool) -> None:
    counts = balance(part)
    if not sum(counts.values()):
        raise LabelledError(
            f"{path}: no question is left for the {name} part: give responses to more questions, or change "
            "split.heldout and split.validation"
        )
    if both and not all(counts.values()):
        only = next(label for label, count in counts.items() if count)
        raise LabelledError(
            f"{path}: all {counts[only]} responses of the {name} part are {only}: a head learns from right and wrong "
            "ones; give both, to more questions"
        )


def balance(part: Iterable[Example]) -> dict[str, int]:
    """Return how many examples each class has."""
    counts = Counter(example.row.label for example in part)
    return {label: counts[label] for label in CLASSES}
