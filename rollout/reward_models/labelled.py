"""Responses with verdicts: what reward models are trained on, and compared with.

They come from JSON Lines, from Parquet, from the rollouts of a run and from the samples of an evaluation; every row is
checked before any is used.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from rollout.plain import lone_surrogate, one_line
from rollout.problems.jsonl import read_rows
from rollout.problems.source import ProblemError
from rollout.types import StopReason

logger = logging.getLogger(__name__)

RIGHT, WRONG = "right", "wrong"
QUESTION = ("question", "problem", "prompt")
REFERENCE = ("reference", "answer", "gold")
RESPONSE = ("response", "prediction")
LABEL = ("label", "verdict", "correct", "expected")
"""Names of columns; of several in a file the first counts."""
LONGEST = 2**20
"""Most characters of a text: more is no response that a model can read."""
WORDS = {
    **dict.fromkeys(("right", "correct", "true", "yes", "1"), RIGHT),
    **dict.fromkeys(("wrong", "incorrect", "false", "no", "0"), WRONG),
}
"""Verdicts in other words, in any case; every other text is the name of a class."""
UNGRADABLE = "ungradable"
_BY_HAND = ("label", "expected")
"""Columns that no run, evaluation or command of k15 writes."""
_CUT = (StopReason.LENGTH.value, StopReason.REPETITION.value, StopReason.ABORTED.value)
_OTHERS = ("id", "defect", "rollout", "sample", "benchmark", "stop", "opening", "last_turn")
_JUDGED = ("rule", "model", "score_parts")
"""Columns that tell whose verdict it is, where a reward model has judged (``rollout.reward_models.grader``)."""
BY_A_MODEL = "judged by a reward model alone"
_WHOLE = re.compile(r"^(-?[0-9]+)\.0+$")
_BATCH = 4096


class LabelledError(ValueError):
    """Labelled responses cannot be used; one line: file and row, what, what to do."""


@dataclass(frozen=True)
class Labelled:
    """One response to a question, and what is known of it."""

    id: str
    """Unique in its file."""
    question: str
    """The problem's text."""
    reference: str
    """Reference answer; may be empty."""
    response: str
    """What was answered, as graders see it (``rollout.models.prompts.Transcript.graded``): hostile text."""
    label: str
    """``right``, ``wrong``, another outcome (``rewards.models.outcomes``), or a class of one's own; empty: unknown."""
    place: str = ""
    """File and line, for messages."""

    @property
    def question_key(self) -> str:
        """What counts as the same question: its text up to case and white space."""
        return same_text(self.question)


def same_text(text: str) -> str:
    """Return what texts share that differ in case and white space alone."""
    return " ".join(text.casefold().split())


def numbered(row: Labelled, classes: Sequence[str]) -> Labelled:
    """Return ``row`` with 0 or 1 for its label where ``classes`` are numbers: a file that has no other ones was read as
    one of verdicts.
    """
    number = {WRONG: "0", RIGHT: "1"}.get(row.label, "")
    return replace(row, label=number) if number in classes and row.label not in classes else row


@dataclass(frozen=True)
class Reading:
    """The rows of a file or directory."""

    rows: tuple[Labelled, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Why rows were not taken -> how many."""

    @property
    def note(self) -> str:
        """What was left out, as one line; empty: nothing was."""
        return ", ".join(f"{count} {why}" for why, count in self.left_out.items())


def read_labelled(path: Path) -> tuple[Labelled, ...]:
    """Return the labelled responses of a JSON Lines or Parquet file, of a run's directory, or of an evaluation's.

    Rows without a verdict have the label ``""``. What is left out is logged. Raises ``LabelledError``.
    """
    reading = read(path)
    if reading.note:
        logger.info("%s: left out %s", path, reading.note)
    return reading.rows


def read(path: Path, labels: bool = True) -> Reading:
    """Return the labelled responses of ``path``, and what was left out: rows marked ``defect``, those that are
    ungradable, and rollouts that were cut off, about which no reward model is asked.

    Without ``labels`` none is looked at, and what could not be graded is there, too. Raises ``LabelledError``, also
    when nothing is left.
    """
    rows: list[Labelled] = []
    left_out: Counter[str] = Counter()
    taken: dict[str, int] = {}
    for place, default, row in _rows(path):
        row = by_the_rule(row)  # noqa: PLW2901
        if not labels:
            row = {name: value for name, value in row.items() if name not in LABEL}  # noqa: PLW2901
        why = _left_out(row, labels)
        if why:
            left_out[why] += 1
            continue
        try:
            one = labelled_of(row, default)
        except ValueError as error:
            raise LabelledError(f"{place}: {error}") from error
        rows.append(replace(one, id=_unique(one.id, taken), place=place))
    reading = Reading(tuple(_numbers_as_classes(rows)), dict(left_out))
    if not rows:
        left = f" (left out: {reading.note})" if left_out else ""
        raise LabelledError(f"{path}: holds no responses that can be used{left}; name a file with some")
    return reading


def labelled_of(row: Mapping[str, Any], default_id: str) -> Labelled:
    """Return one row. Raises ``ValueError`` naming the field at fault, without the place: the caller knows it."""
    last_turn = row.get("last_turn")
    response = _text(row, RESPONSE) if last_turn is None else _clean(last_turn, "last_turn")
    return Labelled(
        id=_id(row, default_id),
        question=_text(row, QUESTION, filled=True),
        reference=_text(row, REFERENCE, needed=False),
        response=_clean(row.get("opening") or "", "opening") + response,
        label=label_of(_first(row, LABEL)[1]),
    )


def label_of(value: Any) -> str:
    """Return a verdict as a label: true, 1 and ``correct`` are ``right``; false, 0 and ``incorrect`` ``wrong``; nothing
    is ``""``, any other text and whole number itself. 1.0 and "1.0" are 1.

    Raises ``ValueError`` for what is none of these.
    """
    if value is None:
        return ""
    if isinstance(value, float | Decimal):
        if not (math.isfinite(value) and value == int(value)):
            raise ValueError(f"the label is {value}: give true or false, 1 or 0, or the name of a class")
        value = int(value)
    if isinstance(value, int):
        value = str(int(value))
    if not isinstance(value, str):
        raise ValueError(f"the label is {type(value).__name__}, not a verdict: give true or false, or text")
    text = _WHOLE.sub(r"\1", _clean(value, "label").strip())
    return WORDS.get(text.casefold(), text)


def _numbers_as_classes(rows: Sequence[Labelled]) -> Sequence[Labelled]:
    """Return ``rows`` with 0 and 1 as classes where numbers beyond them are: they are no verdicts then."""
    if not any(row.label.removeprefix("-").isdecimal() for row in rows):
        return rows
    words = {WRONG: "0", RIGHT: "1"}
    return [replace(row, label=words.get(row.label, row.label)) for row in rows]


def _first(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, Any]:
    """Return the first of the columns that the row has, and its value; the first name and ``None`` without any."""
    return next(((name, row[name]) for name in names if row.get(name) is not None), (names[0], None))


def _text(row: Mapping[str, Any], names: Sequence[str], needed: bool = True, filled: bool = False) -> str:
    name, value = _first(row, names)
    if value is None and needed:
        if null := next((one for one in names if one in row), None):
            raise ValueError(f'{null} is null; fill it in, leave the row out, or give it "defect": true')
        raise ValueError(_lacking(names, row))
    text = _clean(value, name)
    if filled and not text.strip():
        raise ValueError(f"{name} is blank")
    return text


def _lacking(names: Sequence[str], there: Iterable[str]) -> str:
    """Return that there is no column of these names, and those ``there`` are."""
    found = one_line(", ".join(map(str, there)), 160) or "nothing"
    return f"no {', '.join(names[:-1])} or {names[-1]}; there is: {found}"


def _clean(value: Any, name: str) -> str:
    """Return a field as text, numbers as written. Raises ``ValueError`` for what no tokenizer takes."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        value = str(value)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {type(value).__name__}, not text: give it as one text")
    if len(value) > LONGEST:
        raise ValueError(f"{name} has {len(value)} characters, more than {LONGEST}; leave the row out")
    if found := lone_surrogate(value):
        raise ValueError(f'{name} has {found}: no tokenizer takes it; mend the row, or give it "defect": true')
    return value


def _id(row: Mapping[str, Any], default: str) -> str:
    if row.get("rollout"):
        return str(row["rollout"])
    if row.get("sample") is not None and row.get("benchmark"):
        return "/".join(str(row[name]) for name in ("benchmark", "problem", "sample") if name in row)
    return default if row.get("id") in (None, "") else _clean(row["id"], "id")


def _unique(name: str, taken: dict[str, int]) -> str:
    """Return ``name``, numbered where it was taken before: several responses to a problem often share its id."""
    found = name
    while found in taken:
        taken[name] += 1
        found = f"{name}#{taken[name]}"
    taken[found] = 1
    return found


def by_the_rule(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row of a run, an evaluation or of ``k15 grade`` with the rule's verdict on it, not a reward model's:
    one that only a model has judged has none. What somebody has labelled since keeps that label.
    """
    if any(row.get(name) is not None for name in _BY_HAND):
        return row
    parts = {part.get("name"): part.get("value") for part in _objects(row.get("score_parts"))}
    if "rule" in row and isinstance(row.get("model"), float):
        rule = row["rule"]
    elif "model" in parts:
        rule = parts.get("rule")
    else:
        return row
    names = [name for name in LABEL if name in row]
    return {**row, **dict.fromkeys(names, rule), **({} if rule is not None else {BY_A_MODEL: True})}


def _left_out(row: Mapping[str, Any], labels: bool) -> str:
    if labels and row.get(BY_A_MODEL):
        return BY_A_MODEL
    if row.get("defect"):
        return "marked as defect"
    if row.get("stop") in _CUT:
        return "cut off"
    label = _first(row, LABEL)[1]
    unknown = labels and "rollout" in row and label is None  # the run's grader failed on it
    return UNGRADABLE if unknown or label == UNGRADABLE else ""


def _objects(value: Any) -> list[Mapping[str, Any]]:
    """Return the objects of a list; of what is none, nothing: the column may be somebody else's."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _rows(path: Path) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield where it is, a name and the columns of each row. Raises ``LabelledError``."""
    for file in _files(path):
        if file.suffix == ".parquet":
            yield from _parquet(file)
            continue
        try:
            for number, row in read_rows(file):
                yield f"{file}:{number}", f"{file.stem}-{number}", row
        except ProblemError as error:
            raise LabelledError(str(error)) from error


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise LabelledError(f"{path}: no such file or directory")
    if not path.is_dir():
        return [path]
    if found := sorted((path / "rollouts").glob("[0-9]*.parquet")):
        return found
    if (path / "samples.parquet").is_file():
        return [path / "samples.parquet"]
    raise LabelledError(
        f"{path}: neither a run with rollouts/*.parquet nor an evaluation with samples.parquet; name such a directory, "
        "or a JSON Lines or Parquet file"
    )


def _parquet(file: Path) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = {*QUESTION, *REFERENCE, *RESPONSE, *LABEL, *_OTHERS, *_JUDGED}
    try:
        with pq.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            for needed in (QUESTION, RESPONSE):  # told here: rows have those columns alone that are read
                if not any(name in names for name in needed) and not (needed is RESPONSE and "last_turn" in names):
                    raise LabelledError(f"{file}: {_lacking(needed, names)}")
            ids = {"problem"} if "rollout" in names and "prompt" in names else set[str]()  # a run's own: no text
            columns = [name for name in names if name in wanted - ids]
            number = 0
            for batch in opened.iter_batches(_BATCH, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{file}, row {number}", f"{file.stem}-{number}", row
    except (pa.ArrowException, OSError) as error:
        raise LabelledError(f"{file}: not a readable Parquet file ({error}); name another") from error
