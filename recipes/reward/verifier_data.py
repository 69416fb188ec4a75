"""Few labelled and many unlabelled responses as a verifier learns them: parted once, counted, as token ids."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from recipes.reward.data import Example, digest_of, each_alone, one_question, readable
from recipes.reward.verifier_config import LabelledSplitConfig
from recipes.reward.verifier_teaching import Texts
from rewards.models.outcomes import OUTCOMES
from rollout.reward_models.labelled import LabelledError, numbered, read
from rollout.reward_models.reading import Reader


@dataclass(frozen=True)
class Few:
    """The parts of the data; no question of a held-out response is in another, none of a labelled one in two."""

    classes: tuple[str, ...]
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    heldout: tuple[Example, ...]
    unlabelled: tuple[Example, ...]
    """Without labels, also where the file has some."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Why responses were left out -> how many."""

    @property
    def known(self) -> tuple[Example, ...]:
        """Return the labelled responses that evidence is taken from."""
        return self.train + self.validation

    def texts(self, part: Sequence[Example]) -> Texts:
        """Return a labelled part as it is taught."""
        labels = tuple(self.classes.index(example.row.label) for example in part)
        return Texts(tuple(example.ids for example in part), labels)

    @property
    def digest(self) -> str:
        """A hash of which response is where, with what label."""
        return digest_of((self.train, self.validation, self.heldout, self.unlabelled), *self.classes)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Return how many responses of each class the labelled parts have."""
        parts = {"train": self.train, "validation": self.validation, "heldout": self.heldout}
        return {name: per_class(part, self.classes) for name, part in parts.items()}


def per_class(part: Iterable[Example], classes: Sequence[str]) -> dict[str, int]:
    """Return how many responses each class has."""
    counts = Counter(example.row.label for example in part)
    return {label: counts[label] for label in classes}


def prepare(
    labelled: Path,
    unlabelled: Path,
    heldout: Path | None,
    classes: Sequence[str],
    keys: LabelledSplitConfig,
    reader: Reader,
) -> Few:
    """Return the responses of the files in their parts; those of ``heldout``, if any, are to judge on.

    ``classes``: their names; empty: those that labels name. Raises ``LabelledError`` where nothing can be learnt.
    """
    left_out: Counter[str] = Counter()
    known = _labelled(labelled, reader, left_out)
    names = tuple(classes) or ordered({example.row.label for example in known})
    if len(names) == 1:
        raise LabelledError(
            f"{labelled}: all {len(known)} labelled responses are {names[0]}: there is nothing to tell apart; label "
            f"others, too ({', '.join(OUTCOMES)}, or classes of your own)"
        )
    judges = None if heldout is None else _labelled(heldout, reader, left_out)
    if judges is not None:
        judges = [replace(example, row=numbered(example.row, names)) for example in judges]
    alone = one_question(known)
    if alone:
        known, judges = each_alone(known), None if judges is None else each_alone(judges)
    for example in (*known, *(judges or ())):
        if example.row.label not in names:
            raise LabelledError(
                f"{example.row.place}: the label {example.row.label!r} is none of the classes {', '.join(names)}"
            )
    if judges is not None:
        asked, before = {example.question for example in judges}, len(known)
        known = [example for example in known if example.question not in asked]
        left_out["to held-out questions"] += before - len(known)
    parts = parted(known, 0.0 if judges is not None else keys.heldout, keys)
    held = tuple(judges) if judges is not None else parts[0]
    _check_train(parts[2], names, labelled)
    many = _unlabelled(unlabelled, parts[1] + parts[2], held, reader, left_out, alone)
    return Few(names, parts[2], parts[1], held, many, +left_out)


def ordered(labels: Iterable[str]) -> tuple[str, ...]:
    """Return class names in a fixed order: outcomes as ``OUTCOMES`` has them, then others by name."""
    found = set(labels)
    return (*(name for name in OUTCOMES if name in found), *sorted(found - set(OUTCOMES)))


def parted(
    examples: Sequence[Example], heldout: float, keys: LabelledSplitConfig
) -> tuple[tuple[Example, ...], tuple[Example, ...], tuple[Example, ...]]:
    """Return held-out, validation and training examples.

    Questions are taken in an order of their text and the seed alone, into held-out until it has its share of each
    class, then into validation, then into training; each as long as it lacks a class of the question's responses.
    """
    totals = Counter(example.row.label for example in examples)
    by_question: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        by_question[example.question].append(example)
    order = sorted(by_question, key=lambda text: hashlib.sha256(f"{keys.seed}/{text}".encode()).digest())
    parts: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
    for part, share in ((0, heldout), (1, keys.validation)):
        lacking = Counter({label: round(share * count) for label, count in totals.items()})
        for question in list(order):
            if any(lacking[example.row.label] > 0 for example in by_question[question]):
                lacking.subtract(example.row.label for example in by_question[question])
                parts[part].extend(by_question[question])
                order.remove(question)
    for question in order:
        parts[2].extend(by_question[question])
    first, second, third = (tuple(part) for part in parts)
    return first, second, third


def _labelled(path: Path, reader: Reader, left_out: Counter[str]) -> list[Example]:
    reading = read(path)
    left_out.update(reading.left_out)
    rows = [row for row in reading.rows if row.label]
    left_out["without a label"] += len(reading.rows) - len(rows)
    if not rows:
        raise LabelledError(f"{path}: none of its {len(reading.rows)} responses has a label; give some")
    return readable(path, rows, reader, left_out)


def _unlabelled(
    path: Path, learnt: Iterable[Example], held: Iterable[Example], reader: Reader, left_out: Counter[str], alone: bool
) -> tuple[Example, ...]:
    """Return the responses of ``path`` without looking at labels.

    Those that are among the ``learnt`` ones are left out, and all to questions that responses of ``held`` answer: what
    judges is not learnt from, with a guessed label either.
    """
    reading = read(path, labels=False)
    left_out.update(reading.left_out)
    found = readable(path, reading.rows, reader, left_out)
    found = each_alone(found) if alone else found
    there, asked = {example.ids.tobytes() for example in learnt}, {example.question for example in held}
    other = [example for example in found if example.question not in asked]
    left_out["unlabelled, to held-out questions"] += len(found) - len(other)
    kept = tuple(example for example in other if example.ids.tobytes() not in there)
    left_out["unlabelled, and labelled elsewhere"] += len(other) - len(kept)
    if not kept:
        raise LabelledError(
            f"{path}: no unlabelled response is left: all {len(found)} are among the labelled ones, or answer held-out "
            "questions; give others, or train on labels alone with `k15 train reward`"
        )
    return kept


def _check_train(train: Sequence[Example], classes: Sequence[str], path: Path) -> None:
    counts = per_class(train, classes)
    if lacking := [label for label, count in counts.items() if not count]:
        raise LabelledError(
            f"{path}: no labelled response of the class {lacking[0]} is left to learn from; label more of them "
            "(some five at least), leave the class out, or take less with split.heldout and split.validation"
        )
