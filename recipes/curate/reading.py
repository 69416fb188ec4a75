"""From sources as they are to rows that are problems: normalised, checked against their own graders, with a language.

Pieces of raw rows are read by other processes; nothing of a source is in memory but a few pieces.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from recipes.curate.config import ReadConfig, SourceConfig
from recipes.curate.domains import domain
from recipes.curate.hints import hint
from recipes.curate.languages import language_of
from recipes.curate.rows import SCHEMA
from recipes.curate.text import digest
from rewards.math.judge import unreadable
from rollout.grading import by_name
from rollout.parquet import storable
from rollout.plain import one_line
from rollout.problems.config import HubSource
from rollout.problems.hub import load_rows
from rollout.problems.jsonl import lines_of, matches, row_of
from rollout.problems.parquet import parquet_rows
from rollout.problems.rows import conversation_of, problem_of, text_of
from rollout.problems.source import ProblemError, find_data
from rollout.types import Problem

HUB = "hub:"
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))
_NEWLINES = str.maketrans({"\r": "\n", "\u2028": "\n", "\u2029": "\n", "\u0085": "\n", "\u00a0": " "})
_MOJIBAKE = ("\ufffd", "\u00e2\u20ac", "\u00c3\u00a9", "\u00c3\u00a8", "\u00c2\u00b0", "\u00c3\u2014", "\u00e2\u2030")
"""What stands where UTF-8 was read as something else, or the reverse."""
MOST_NESTED = 100
UNCHOSEN = "not chosen by where"
PROSE = 12
"""Words of an answer from which on it is a text, which nobody writes again letter for letter."""


@dataclass(frozen=True)
class Raw:
    """A row as its source has it."""

    source: int
    """Which source."""
    place: str
    """File and line, or data set and row."""
    name: str
    """An id for a row that has none."""
    content: bytes | Mapping[str, Any]
    """A line of JSON, or a row."""


@dataclass(frozen=True)
class Read:
    """A row once it has been read; ``reason`` says why it is no problem, empty when it is one."""

    problem: Problem | None
    row: Mapping[str, Any]
    statement: str = ""
    """As its source states it, without what a verifier adds."""
    language: str = ""
    reason: str = ""
    detail: str = ""


def names_of(sources: Sequence[SourceConfig]) -> tuple[str, ...]:
    """Return what sources are called in reports and, where rows do not say, in the set: files by their stem, and with
    the folders above it that tell two of one name apart.
    """
    candidates = [_names(source.path) for source in sources]
    names = [own[0] for own in candidates]
    for length in range(1, max(map(len, candidates), default=0)):
        counts = Counter(names)
        names = [
            own[min(length, len(own) - 1)] if counts[name] > 1 else name
            for own, name in zip(candidates, names, strict=True)
        ]
    counts = Counter(names)  # one file under several filters
    return tuple(f"{name}[{index}]" if counts[name] > 1 else name for index, name in enumerate(names))


def _names(path: str) -> list[str]:
    """Return what a source may be called, the shortest first."""
    if path.startswith(HUB):
        found = hub_source(path)
        return [found.path, ":".join(filter(None, [found.path, found.name, found.split]))]
    parts = Path(path).with_suffix("").parts or (path,)
    return ["/".join(parts[-length:]) for length in range(1, len(parts) + 1)]


def hub_source(path: str) -> HubSource:
    """Return the data set that a path names. Raises ``ProblemError``."""
    name, *rest = path.removeprefix(HUB).split(":")
    if not name or len(rest) > 2 or not all(rest):
        raise ProblemError(f"{path}: expected hub:NAME, hub:NAME:SPLIT or hub:NAME:CONFIGURATION:SPLIT")
    return HubSource(path=name, name=rest[0] if len(rest) == 2 else None, split=rest[-1] if rest else "train")


def raw_rows(source: SourceConfig, index: int, data_folder: str | None) -> Iterator[Raw]:
    """Yield the rows of a source. Raises ``ProblemError`` when it cannot be opened, or has none."""
    found = 0
    for place, name, content in _opened(source, data_folder):
        found += 1
        yield Raw(index, place, name, content)
    if not found:
        raise ProblemError(f"{source.path}: the file has no row; leave it out")


def _opened(source: SourceConfig, data_folder: str | None) -> Iterator[tuple[str, str, bytes | Mapping[str, Any]]]:
    if source.path.startswith(HUB):
        found = hub_source(source.path)
        for number, row in enumerate(load_rows(found)):
            yield f"{found.path}, row {number}", f"{Path(found.path).name}-{number}", row
        return
    path = file_of(source.path, data_folder)
    if path.is_dir():
        raise ProblemError(f"{path}: a directory; name its files")
    if path.suffix == ".parquet":
        for number, row in parquet_rows(path):
            yield f"{path}, row {number}", f"{path.stem}-{number}", row
        return
    for number, line in lines_of(path):
        yield f"{path}:{number}", f"{path.stem}-{number}", line


def file_of(path: str, data_folder: str | None) -> Path:
    """Return the file of a source that is one. Raises ``ProblemError``; what has a data set's name is told so."""
    try:
        return find_data(path, data_folder)
    except ProblemError as error:
        if len(Path(path).parts) == 2 and not Path(path).suffix and not path.startswith("."):
            raise ProblemError(f"{error}; for the data set of the hub: hub:{path}") from error
        raise


def pieces(sources: Sequence[SourceConfig], data_folder: str | None, size: int) -> Iterator[tuple[Raw, ...]]:
    """Yield the rows of all sources, ``size`` at a time."""
    every = (raw for index, source in enumerate(sources) for raw in raw_rows(source, index, data_folder))
    while piece := tuple(islice(every, size)):
        yield piece


@dataclass(frozen=True)
class Reader:
    """Reads a piece of raw rows into a table of ``rows.SCHEMA``, without its numbers; sent to other processes."""

    sources: tuple[SourceConfig, ...]
    config: ReadConfig

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the sources."""
        return names_of(self.sources)

    def __call__(self, piece: Sequence[Raw]) -> pa.Table:
        """Return one row for each raw one."""
        found = [(raw, self.read(raw)) for raw in piece]
        return pa.Table.from_pylist([_stored(raw, one) for raw, one in found], SCHEMA)

    def read(self, raw: Raw) -> Read:
        """Return what a raw row is, or why it is no problem."""
        source = self.sources[raw.source]
        try:
            row: Mapping[str, Any] = row_of("", raw.content) if isinstance(raw.content, bytes) else raw.content
        except ProblemError as error:
            return Read(None, {}, reason="unreadable", detail=str(error).removeprefix(": "))
        if too_deep(row):
            return Read(None, {}, reason="unreadable", detail="nested too deeply")
        if not all(matches(row.get(name), wanted) for name, wanted in source.where.items()):
            return Read(None, row, reason=UNCHOSEN)
        row = normalised(renamed(row, source.columns))
        if row.get("defect"):
            return Read(None, row, reason="marked as a defect", detail=str(row["defect"]))
        try:
            problem = problem_of(row, source.verifier, raw.name, self.names[raw.source])
        except ValueError as error:
            return Read(None, row, reason="no problem or answer", detail=str(error))
        return self._checked(problem, row)

    def _checked(self, problem: Problem, row: Mapping[str, Any]) -> Read:
        said = statement_of(row)
        if len(said) > self.config.max_chars:
            return Read(problem, row, said, "", "too long", f"{len(said)} characters")
        if any(one in said for one in _MOJIBAKE):
            return Read(problem, row, said, "", "broken encoding")
        language = language_of(said)
        if language and self.config.languages and language not in self.config.languages:
            return Read(problem, row, said, language, "language", language)
        reason, detail = uncheckable(problem) if self.config.check_answers else ("", "")
        return Read(problem, row, said, language, reason, detail)


def too_deep(value: Any, left: int = MOST_NESTED) -> bool:
    """Return whether lists and objects stand in each other deeper than ``left``; what writes them recurses."""
    if not isinstance(value, list | Mapping):
        return False
    inner = value.values() if isinstance(value, Mapping) else value
    return left == 0 or any(too_deep(one, left - 1) for one in inner)


def renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Return a row under our names: ``columns`` says which of theirs is which of ours. What it names counts alone, also
    where a row lacks it.
    """
    others = {key: value for key, value in row.items() if key not in {*columns, *columns.values()}}
    return others | {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}


def normalised(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with its texts in one form of Unicode, without invisible characters and outer white space."""
    return {key: _normal(value) if key in ("problem", "answer", "messages") else value for key, value in row.items()}


def _normal(value: Any) -> Any:
    if isinstance(value, str):
        lines = value.replace("\r\n", "\n").translate(_NEWLINES).translate(_INVISIBLE)
        return unicodedata.normalize("NFC", lines).strip()
    if isinstance(value, list):
        return [_normal(one) for one in value]
    return {key: _normal(one) for key, one in value.items()} if isinstance(value, dict) else value


def statement_of(row: Mapping[str, Any]) -> str:
    """Return what a row that is a problem states: of a conversation all that is said, but for system messages. Two may
    end with the same words and ask for different things.
    """
    if "problem" in row:
        return text_of(row, "problem")
    return "\n\n".join(message.content for message in conversation_of(row) if message.role != "system")


def uncheckable(problem: Problem) -> tuple[str, str]:
    """Return why its verifier cannot judge a problem, and details; two empty texts when it can.

    The reference itself is graded as a response. Of code that is its reference solution, where there is one.
    """
    response = own_response(problem)
    if response is None:
        return "", ""
    if problem.verifier == "math":
        if len(problem.answer.split()) > PROSE:
            return "answer is prose", problem.answer[:200]
        if why := unreadable(problem.answer):
            return "answer has no value", why
    score = by_name(problem, response)
    if not score.gradable:
        return "answer cannot be graded", score.reason
    return ("", "") if score.correct else ("answer is not right by its own grader", score.reason)


def own_response(problem: Problem) -> str | None:
    """Return the response that states the reference; ``None`` where a verifier has no such form, or code no
    solution.
    """
    answer = reference_of(problem)
    if problem.verifier == "math":
        return f"\\boxed{{{answer}}}"
    if problem.verifier == "gsm8k":
        return f"#### {answer}"
    if problem.verifier == "exact":
        return answer
    if problem.verifier == "code" and any(sign in answer for sign in ("\n", "def ", "print(", "lambda")):
        return f"```python\n{answer}\n```"
    return None


def reference_of(problem: Problem) -> str:
    """Return what is compared with other answers: of a rationale that ends in one, that."""
    return problem.answer.rpartition("####")[2].strip() if problem.verifier == "gsm8k" else problem.answer


def _stored(raw: Raw, one: Read) -> dict[str, Any]:
    problem = one.problem
    return {
        "number": -1,
        "source": raw.source,
        "place": raw.place,
        "id": storable(problem.id if problem else str(one.row.get("id") or raw.name)),
        "statement": storable(one.statement if problem else _text(one.row.get("problem"))),
        "answer": storable(reference_of(problem) if problem else _text(one.row.get("answer"))),
        "verifier": problem.verifier if problem else "",
        "difficulty": problem.difficulty if problem else None,
        "language": one.language,
        "domain": domain(one.statement, one.row) if problem else "",
        "row": json.dumps(one.row, default=str),
        "reason": one.reason,
        "detail": storable(one.detail[:500]),
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


class Ids:
    """Makes ids unique over all sources, row by row; remembers 64 bits of each."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._seen: set[int] = set()
        self.renamed = 0
        """Rows whose id another one had."""

    def unique(self, name: str, source: int, number: int) -> str:
        """Return ``name``, or where it is taken ``SOURCE/name``, or that with the row's number."""
        own = f"{self._names[source]}/{name}"
        tried = chain((name, own), (f"{own}#{number}{'#' * more}" for more in count()))
        free = next(one for one in tried if digest(one) not in self._seen)
        self._seen.add(digest(free))
        self.renamed += free != name
        return free


def numbered(table: pa.Table, first: int, ids: Ids) -> pa.Table:
    """Return a piece with the numbers of its rows, from ``first`` on, and unique ids."""
    rows = zip(table.column("id").to_pylist(), table.column("source").to_pylist(), strict=True)
    names = [ids.unique(name, source, first + index) for index, (name, source) in enumerate(rows)]
    numbers = pa.array(range(first, first + table.num_rows), pa.int64())
    table = table.set_column(0, SCHEMA.field("number"), numbers)
    return table.set_column(SCHEMA.get_field_index("id"), SCHEMA.field("id"), pa.array(names, pa.string()))


def check_sources(tables: Iterator[pa.Table], sources: Sequence[SourceConfig]) -> None:
    """Raises ``ProblemError`` for a source of which no row is a problem, with the commonest reason."""
    reasons: dict[int, Counter[str]] = {}
    first: dict[tuple[int, str], tuple[str, Mapping[str, Any]]] = {}
    good: set[int] = set()
    for table in tables:
        columns = (table.column(name).to_pylist() for name in ("source", "reason", "detail"))
        for at, (source, reason, detail) in enumerate(zip(*columns, strict=True)):
            if not reason:
                good.add(source)
            elif source not in good:
                reasons.setdefault(source, Counter())[reason] += 1
                if (source, reason) not in first:
                    first[source, reason] = detail, json.loads(table.column("row")[at].as_py())
    for index, source in enumerate(sources):
        if index not in good:
            reason, most = reasons[index].most_common(1)[0]
            detail, row = first[index, reason]
            told = one_line(f"{reason}: {detail}" if detail else reason)
            raise ProblemError(
                f"{source.path}: none of its {reasons[index].total()} rows is a problem that can be used; {most} of "
                f"them: {told}; the first of these has {one_line(', '.join(row)) or 'no field'}: {_advice(row, reason)}"
            )


def _advice(row: Mapping[str, Any], reason: str) -> str:
    if not row:
        return "a source is JSON Lines, one problem in each line, or Parquet; mend it, or leave it out"
    if reason == UNCHOSEN:
        return "mend the source's where, or leave the source out"
    if options := hint(row):
        return f"try {one_line(options)}"
    named = "name other columns (--columns '{problem: THEIRS, answer: THEIRS}')"
    return f"{named} or another verifier, or leave the source out"
