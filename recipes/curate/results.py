"""What a curation found: the contents of ``summary.json``, and all that its page shows.

Counts are of all rows; rows themselves are here in bounded numbers only (``bounded``), so that both files stay small
whatever the size of the sources.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rollout.files import replace_file
from rollout.plain import clip, one_line, visible
from rollout.strict_json import dumps

SCHEMA = "k15.curate/1"
POINTS = 4_000
"""Most points of the map."""
POINT_TEXT = 140
"""Characters of a statement that a point shows."""
SAMPLES = 8
"""Most rows that are shown of one stage and reason."""
SAMPLES_TOTAL = 400
"""Most of them over all stages and reasons."""
PAIRS = 100
"""Most pairs of training and evaluation problem in each of the two lists."""
TEXT = 1_200
"""Characters of a statement; beyond it head and tail are shown."""
SHORT = 300
"""Characters of an answer, a detail, a name."""
NOTE = 60
"""Characters of what ``clip`` says of those that it left out."""
WARNINGS = 50
"""Most warnings."""


class CurateResultsError(ValueError):
    """A summary cannot be read; one line."""


@dataclass(frozen=True)
class Facts:
    """What was done, with what."""

    command: str
    """As it was called."""
    k15: str
    """Version."""
    created: str
    """Date and time, ISO 8601."""
    seed: int
    seconds: float
    """Wall time of all stages."""
    model: str | None = None
    """Whose guesses and pass rates these are; ``None``: no model was asked."""
    encoder: str | None = None
    """What made the embeddings; ``None``: no stage needed them."""
    git_revision: str | None = None
    versions: tuple[tuple[str, str], ...] = ()
    """Of libraries, by name."""
    settings: tuple[tuple[str, str], ...] = ()
    """Other things worth knowing, e.g. how the prompt was made."""


@dataclass(frozen=True)
class Stage:
    """One stage of the funnel."""

    name: str
    """As in the keys: ``duplicates``."""
    title: str
    """For people: ``Duplicates``."""
    entered: int
    """Rows that reached it."""
    reasons: dict[str, int]
    """Rows that it dropped, by reason; a row has one reason."""
    seconds: float = 0.0
    note: str = ""
    """What there is to say of it, e.g. the threshold that it took."""
    skipped: str = ""
    """Why it did not happen; empty: it did."""

    @property
    def dropped(self) -> int:
        """Rows that end here."""
        return sum(self.reasons.values())


@dataclass(frozen=True)
class Source:
    """Where rows came from, and where they went."""

    name: str
    origin: str
    """File or data set."""
    rows: int
    dropped: dict[str, int]
    """Rows by the name of the stage that dropped them."""
    kept: int


@dataclass(frozen=True)
class PassRates:
    """How often the model is right, over all problems that it was asked."""

    samples: int
    """n: responses per problem."""
    counts: dict[str, tuple[int, ...]]
    """Problems by source and number of right responses, 0 to n: each list has n + 1 entries."""
    unmeasured: int = 0
    """Problems with fewer than n graded responses; they are in no bar."""
    easiest: float | None = None
    """Problems with at least this pass rate were dropped; ``None``: none was for that."""
    unsolved_dropped: bool = False
    """Whether problems without a right response were dropped."""


@dataclass(frozen=True)
class Point:
    """One row on the map."""

    x: float
    y: float
    id: str
    source: str
    text: str
    """Beginning of the statement."""
    domain: str = ""
    """Empty: not known."""
    difficulty: float | None = None
    """In the unit that ``Map.difficulty`` names."""
    fate: str = ""
    """Name of the stage that dropped the row; empty: kept."""


@dataclass(frozen=True)
class Map:
    """A sample of the rows in two dimensions, near to each other where their texts are alike."""

    points: tuple[Point, ...]
    total: int
    """Rows of which the points are a sample."""
    method: str
    """How it was made, e.g. ``t-SNE of whitened embeddings``."""
    difficulty: str = "pass rate"
    """What ``Point.difficulty`` is: ``pass rate`` (0 hard, 1 easy), or a level of the source (higher is harder)."""


@dataclass(frozen=True)
class Other:
    """The row because of which a row was dropped."""

    relation: str
    """What the dropped row is to it: ``near duplicate of``, ``reworded evaluation problem of``."""
    id: str
    source: str
    statement: str
    similarity: float | None = None
    measure: str = ""
    """Of the similarity: ``cosine``, ``Jaccard``."""


@dataclass(frozen=True)
class Sample:
    """A row that a stage dropped."""

    stage: str
    """Name of the stage."""
    reason: str
    id: str
    source: str
    place: str
    """Where it stands: ``file.jsonl:17``."""
    statement: str
    answer: str
    detail: str = ""
    """More than the reason says, e.g. the guess that was right."""
    other: Other | None = None


@dataclass(frozen=True)
class EvaluationSet:
    """What was found of one evaluation set among the rows."""

    name: str
    problems: int
    candidates: int
    """Pairs that were looked at closely."""
    confirmed: dict[str, int]
    """Rows by kind of what was confirmed: same, contains, renumbered, reworded."""
    hit: int
    """Different evaluation problems with at least one confirmed row."""


@dataclass(frozen=True)
class Pair:
    """A row beside an evaluation problem."""

    set: str
    kind: str
    """Of what was confirmed; empty: a candidate that was not."""
    id: str
    source: str
    statement: str
    evaluation_id: str
    evaluation_statement: str
    cosine: float | None = None
    """Of the whitened embeddings."""
    overlap: float | None = None
    """How sure it is that both say the same, 0 to 1."""
    reason: str = ""
    """Why it was not confirmed."""


@dataclass(frozen=True)
class Contamination:
    """Rows against evaluation sets."""

    sets: tuple[EvaluationSet, ...]
    confirmed: tuple[Pair, ...]
    """A sample of the pairs that were confirmed."""
    candidates: tuple[Pair, ...]
    """A sample of those that were not, the most alike first."""
    confirmed_total: int
    candidates_total: int
    drop: tuple[str, ...] | None = None
    """Kinds whose rows are dropped, others are shown only; ``None``: all are."""


@dataclass(frozen=True)
class Kept:
    """The set that came out."""

    rows: int
    levels: tuple[str, ...] = ()
    """Names of the levels of difficulty, from the easiest on."""
    domains: dict[str, tuple[int, ...]] | None = None
    """Rows by domain and level, one count per level; ``None``: not computed."""
    languages: dict[str, int] | None = None
    answers: dict[str, int] | None = None
    """Rows by kind of answer, e.g. ``integer``."""
    lengths: tuple[tuple[float, int], ...] = ()
    """(quantile, characters of the statement), e.g. (0.5, 230)."""


@dataclass(frozen=True)
class CurateResults:
    """All of it."""

    facts: Facts
    warnings: tuple[str, ...]
    stages: tuple[Stage, ...]
    """In order; each takes what the one before left."""
    sources: tuple[Source, ...]
    kept: Kept
    samples: tuple[Sample, ...] = ()
    pass_rates: PassRates | None = None
    """``None``: no model was asked."""
    map: Map | None = None
    """``None``: rows were not embedded."""
    contamination: Contamination | None = None
    """``None``: there was no evaluation set to compare with."""


@dataclass(frozen=True)
class _File:
    schema: str
    results: CurateResults


def bounded(results: CurateResults) -> CurateResults:
    """Return the results with as many rows and as much text of each as the bounds above allow.

    Samples keep their order; of each stage and reason the first ``SAMPLES``. Doing it twice changes nothing.
    """
    contamination = results.contamination
    if contamination is not None:
        contamination = replace(
            contamination,
            confirmed=tuple(_pair(one) for one in contamination.confirmed[:PAIRS]),
            candidates=tuple(_pair(one) for one in contamination.candidates[:PAIRS]),
        )
    points = results.map
    if points is not None:
        drawable = (one for one in points.points if math.isfinite(one.x) and math.isfinite(one.y))
        points = replace(points, points=tuple(_point(one) for one in _first(drawable, POINTS)))
    return replace(
        results,
        facts=replace(results.facts, command=_clip(results.facts.command, TEXT)),
        warnings=tuple(one_line(line, 2 * SHORT) for line in results.warnings[:WARNINGS]),
        samples=tuple(_sample(one) for one in _spread(results.samples)),
        map=points,
        contamination=contamination,
    )


def _spread(samples: Iterable[Sample]) -> list[Sample]:
    """Return the first samples of each stage and reason; where those are too many, fewer of each."""
    ordered = sorted(samples, key=lambda one: (one.stage, one.reason))  # stable
    groups = [list(own) for _, own in groupby(ordered, key=lambda one: (one.stage, one.reason))]
    size = max(
        (n for n in range(1, SAMPLES + 1) if sum(min(n, len(own)) for own in groups) <= SAMPLES_TOTAL), default=1
    )
    return [one for own in groups[:SAMPLES_TOTAL] for one in own[:size]]


def _first(items: Iterable[Point], count: int) -> list[Point]:
    return [item for item, _ in zip(items, range(count), strict=False)]


def _point(one: Point) -> Point:
    return replace(
        one,
        x=round(one.x, 4),
        y=round(one.y, 4),
        id=one_line(one.id, 80),
        source=one_line(one.source, 80),
        domain=one_line(one.domain, 80),
        text=one_line(one.text, POINT_TEXT),
    )


def _sample(one: Sample) -> Sample:
    other = one.other and replace(one.other, statement=_clip(one.other.statement, TEXT), id=_clip(one.other.id, SHORT))
    return replace(
        one,
        id=_clip(one.id, SHORT),
        place=_clip(one.place, SHORT),
        statement=_clip(one.statement, TEXT),
        answer=_clip(one.answer, SHORT),
        detail=_clip(one.detail, SHORT),
        other=other,
    )


def _pair(one: Pair) -> Pair:
    return replace(
        one,
        id=_clip(one.id, SHORT),
        statement=_clip(one.statement, TEXT),
        evaluation_id=_clip(one.evaluation_id, SHORT),
        evaluation_statement=_clip(one.evaluation_statement, TEXT),
        reason=_clip(one.reason, SHORT),
    )


def _clip(text: str, limit: int) -> str:
    """Show hidden characters, and clip what is longer than the limit with the note that clipping leaves: once
    clipped, a text stays as it is.
    """
    shown = visible(text)
    return shown if len(shown) <= limit + NOTE else clip(shown, limit)


def write_results(path: Path, results: CurateResults) -> None:
    """Write ``summary.json``, atomically; ``?`` stands for lone surrogates, which UTF-8 has not. Raises ``OSError``."""
    text = dumps(asdict(_File(SCHEMA, results)), indent=1, ensure_ascii=False) + "\n"
    replace_file(path, text.encode(errors="replace"))


def read_results(path: Path) -> CurateResults:
    """Read what ``write_results`` wrote, and nothing else. Raises ``CurateResultsError``."""
    try:
        raw = path.read_bytes()
        data: Any = json.loads(raw)
    except OSError as error:
        raise CurateResultsError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CurateResultsError(f"{path}: not JSON ({error})") from error
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise CurateResultsError(f"{path}: schema {schema!r}, this k15 reads {SCHEMA!r}; curate again")
    try:
        found = TypeAdapter(_File).validate_json(raw, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CurateResultsError(f"{path}: not a complete summary: {where}: {first['msg']}") from error
    if json.loads(dumps(asdict(found))) != data:
        raise CurateResultsError(f"{path}: has keys that no summary has; curate again with this k15")
    return found.results
