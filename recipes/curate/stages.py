"""The stages as the pipeline calls them: from numbers of rows to an ``Outcome``.

The rules themselves are elsewhere, as functions of texts, vectors and answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recipes.curate.asking import Origin
from recipes.curate.contamination import (
    MATCHES,
    Detector,
    Pairs,
    confirmed,
    find,
    pairs_of,
    statements_of,
    vocabulary_of,
    write_matches,
)
from recipes.curate.coverage import LEVEL, UNKNOWN, choose, clusters_wanted, levels_of
from recipes.curate.difficulty import measure_difficulty
from recipes.curate.duplicates import Drop as Similar
from recipes.curate.duplicates import exact, near, stricter
from recipes.curate.formats import excluded
from recipes.curate.guess import filter_guesses
from recipes.curate.ledger import Drop, Outcome
from recipes.curate.likeness import Rarity
from recipes.curate.prints import Prints, concatenated, load_prints, prints, save_prints
from recipes.curate.reading import Ids, Reader, check_sources, numbered, pieces
from recipes.curate.reworded import by_embedding
from recipes.curate.rows import SHARD, Numbers, Rows
from recipes.curate.spread import cores
from recipes.curate.templates import templates
from recipes.curate.work import Work
from recipes.curate.writing import marks_for
from rollout.config import Config
from rollout.embedding.neighbours import Index
from rollout.embedding.neighbours import clusters as clusters_of
from rollout.types import Problem

PRINTS = "prints.npz"
RESULT = ("stage.json", "drops.parquet", "marks.parquet", "facts.json")
"""What a finished stage leaves; the rest of its folder is what it has asked of a model."""


def clear(folder: Path) -> None:
    """Remove a stage's result, and keep what has been asked of a model."""
    for name in RESULT:
        (folder / name).unlink(missing_ok=True)


def read(work: Work) -> Outcome:
    """Read all sources into ``rows/``. Raises ``ProblemError`` for one that cannot be used."""
    sources, rows, ids = work.config.sources, Rows(work.out / "rows"), Ids(work.names)
    shutil.rmtree(rows.folder, ignore_errors=True)  # of a process that was killed while it read
    work.view.stage("read and verify")
    reader = Reader(sources, work.config.read)
    shard = count = 0
    for table in work.spread(reader, pieces(sources, os.environ.get("K15_DATA"), SHARD)):
        rows.write(shard, numbered(table, count, ids))
        shard, count = shard + 1, count + table.num_rows
        work.view.advance(table.num_rows)
    check_sources((rows.read(one, ["source", "reason", "detail", "row"]) for one in range(shard)), sources)
    tables = (rows.read(one, ["number", "reason", "detail"]) for one in range(shard))
    lost = (table.filter(pc.not_equal(table.column("reason"), "")) for table in tables)
    drops = [Drop(**row) for table in lost for row in table.to_pylist()]
    facts = {"renamed": ids.renamed}
    return Outcome(drops, facts=facts, warnings=_renamed(ids.renamed))


def _renamed(count: int) -> Sequence[str]:
    if not count:
        return ()
    return (f"{count} rows have an id that another row has: they are called SOURCE/id in the set",)


@dataclass(frozen=True)
class Formats:
    """Judges the formats of a piece; sent to other processes."""

    exclude: tuple[str, ...]

    def __call__(self, piece: Sequence[tuple[int, str, str, str]]) -> list[Drop]:
        """Return the rows (number, statement, answer, verifier) that are left out; code is judged by its tests."""
        asked = (one[:3] for one in piece if one[3] != "code")
        found = ((number, excluded(said, answer, self.exclude)) for number, said, answer in asked)
        return [Drop(number, reason) for number, reason in found if reason]


def formats(work: Work, numbers: Numbers) -> Outcome:
    """Leave out formats that can be guessed or not be judged."""
    assert work.config.formats is not None
    work.view.stage("formats", len(numbers))
    columns = ("statement", "answer", "verifier")
    sizes: deque[int] = deque()

    def shards() -> Iterator[list[tuple[int, str, str, str]]]:
        for own, table in work.rows.chosen(numbers, columns):
            sizes.append(len(own))
            yield list(zip(own.tolist(), *(table.column(name).to_pylist() for name in columns), strict=True))

    drops: list[Drop] = []
    for some in work.spread(Formats(work.config.formats.exclude), shards()):
        drops += some
        work.view.advance(sizes.popleft())
    return Outcome(drops)


@dataclass(frozen=True)
class Print:
    """Takes the prints of a piece; sent to other processes."""

    ngram: int
    permutations: int

    def __call__(self, statements: Sequence[str]) -> Prints:
        """Return what the search for duplicates keeps of some statements."""
        return prints(statements, ngram=self.ngram, permutations=self.permutations)


def duplicates(work: Work, numbers: Numbers) -> Outcome:
    """Leave out what says the same as an earlier row, in another spelling or nearly the same words."""
    keys = work.config.duplicates
    assert keys is not None
    work.view.stage("duplicates", len(numbers))
    pieces_ = (table.column("statement").to_pylist() for _, table in work.rows.chosen(numbers, ["statement"]))
    found: list[Prints] = []
    for some in work.spread(Print(keys.ngram, keys.permutations), pieces_):
        found.append(some)
        work.view.advance(len(some))
    taken = concatenated(found)
    save_prints(work.out / "duplicates" / PRINTS, numbers, taken)
    statements, answers = work.rows.texts(numbers), work.rows.texts(numbers, "answer")
    rows = np.arange(len(numbers))
    same = exact(taken, statements, without_programs(answers, work.rows.texts(numbers, "verifier")), rows)
    rows = np.setdiff1d(rows, [drop.row for drop in same])
    close = near(taken, statements, answers, rows, least=keys.jaccard, ngram=keys.ngram)
    return Outcome(_numbered([*same, *close], numbers))


def without_programs(answers: pa.ChunkedArray, verifiers: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return answers [n] with none in the place of programs: two of them that differ do not contradict each other."""
    return pc.if_else(pc.equal(verifiers, "code"), "", answers)


def neighbours(work: Work, numbers: Numbers) -> Outcome:
    """Leave out what says the same as an earlier row in other words, and all but a few of a template."""
    keys = work.config.duplicates
    assert keys is not None
    vectors = work.embedded.of(numbers)
    work.view.stage("neighbours")
    taken = load_prints(work.out / "duplicates" / PRINTS, numbers)
    statements, answers = work.rows.texts(numbers), work.rows.texts(numbers, "answer")
    rows = np.arange(len(numbers))
    cosine = work.embedded.null.threshold(keys.quantile)
    reworded = by_embedding(
        taken,
        vectors,
        statements,
        answers,
        rows,
        cosine=cosine,
        neighbours=keys.neighbours,
        confirmed=keys.confirmed,
        ngram=keys.ngram,
    )
    rows = np.setdiff1d(rows, [drop.row for drop in reworded])
    formed = templates(
        taken,
        statements,
        answers,
        rows,
        cap=keys.template_cap,
        least=stricter(keys.jaccard),
        ngram=keys.ngram,
        seed=work.config.seed,
    )
    kept = np.isin(rows, [drop.row for drop in formed.drops], invert=True)
    facts = {"note": f"cosine of at least {cosine:.2f}, which 1 of {1 / (1 - keys.quantile):,.0f} random pairs has"}
    marks = {"template_size": formed.size[kept].astype(np.int64)}
    return Outcome(_numbered([*reworded, *formed.drops], numbers), marks, numbers[rows[kept]], facts)


def _numbered(drops: Sequence[Similar], numbers: Numbers) -> list[Drop]:
    """Return drops by position as drops by number."""
    return [
        Drop(int(numbers[one.row]), one.reason, one.detail, None if one.other is None else int(numbers[one.other]))
        for one in drops
    ]


@dataclass(frozen=True)
class Count:
    """Counts in how many statements the evaluation sets' words stand; sent to other processes."""

    empty: Rarity

    def __call__(self, statements: Sequence[str]) -> Rarity:
        """Return the counts of a piece."""
        found = Rarity(self.empty.counts, self.empty.n)
        found.count(statements)
        return found


@dataclass(frozen=True)
class Detect:
    """Looks for evaluation problems in a piece; sent to other processes."""

    detector: Detector

    def __call__(self, piece: tuple[Sequence[str], Sequence[str], np.ndarray]) -> Pairs:
        """Return the candidates among numbers (as texts), statements and vectors [n, k]."""
        names, statements, vectors = piece
        return pairs_of(find(self.detector, zip(names, statements, strict=True), vectors))


def contamination(work: Work, numbers: Numbers) -> Outcome:
    """Leave out what stands in an evaluation set, and write all pairs that were looked at."""
    keys = work.config.contamination
    assert keys is not None
    embedded, statements = work.embedded, statements_of(work.against)
    work.view.stage("count words", len(numbers))
    rarity = vocabulary_of(work.against, keys)
    pieces_ = (table.column("statement").to_pylist() for _, table in work.rows.chosen(numbers, ["statement"]))
    for some in work.spread(Count(rarity), pieces_):
        rarity.merge(some)
        work.view.advance(some.problems)
    work.view.stage("encode evaluation sets")
    index = Index(embedded.encode(statements))
    threshold = embedded.null.threshold(keys.quantile)
    detector = Detector(work.against, rarity, keys, index, threshold)
    work.view.stage("decontaminate", len(numbers))

    sizes: deque[int] = deque()

    def shards() -> Iterator[tuple[list[str], list[str], np.ndarray]]:
        for own, table in work.rows.chosen(numbers, ["statement"]):
            sizes.append(len(own))
            yield [str(n) for n in own], table.column("statement").to_pylist(), embedded.of(own)

    found = pairs_of([])
    for some in work.spread(Detect(detector), shards()):
        found = found.merge(some)
        work.view.advance(sizes.popleft())
    pairs = [*found.confirmed, *found.others]
    rows = work.rows.some([int(one.row) for one in pairs], ["id"])
    ids = {str(number): row["id"] for number, row in rows.items()}
    write_matches(work.out / "contamination" / MATCHES, pairs, ids)
    drops = [
        Drop(int(row), one.kind or "", f"{one.evaluation_set}: {one.problem}")
        for row, one in confirmed(one for one in found.confirmed if one.kind in keys.drop).items()
    ]
    facts = {"note": f"neighbours from a cosine of {threshold:.2f} on", "candidates": dict(found.counts)}
    return Outcome(drops, facts=facts)


def asked_folder(work: Work, stage: str, keys: Config, free: set[str]) -> Path:
    """Return where a stage's responses are on record: those under other keys, or of another model, are elsewhere.

    ``free``: keys that responses do not depend on.
    """
    assert work.asker is not None
    asker = work.asker
    told = [keys.model_dump(mode="json", exclude=free), asker.model.fingerprint, asker.seed, work.identity]
    return work.out / stage / f"asked-{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]}"


def origin(work: Work, numbers: Numbers, problems: Sequence[Problem]) -> Origin:
    """Return of which set some problems are: all rows of the sources."""
    ids = {problem.id: int(number) for problem, number in zip(problems, numbers, strict=True)}
    return Origin(ids, work.identity)


def guess(work: Work, numbers: Numbers) -> Outcome:
    """Leave out what the model guesses without reasoning."""
    keys = work.config.guess
    assert keys is not None
    assert work.asker is not None
    folder = asked_folder(work, "guess", keys, {"attempts"})
    problems = work.problems(numbers)
    found = filter_guesses(work.asker, problems, keys, folder, origin(work, numbers, problems))
    drops = [
        Drop(int(number), one.fate, one.detail)
        for number, one in zip(numbers, found.guesses, strict=True)
        if one.dropped
    ]
    return Outcome(drops, facts={"note": found.note}, warnings=[found.warning] if found.warning else [])


def difficulty(work: Work, numbers: Numbers) -> Outcome:
    """Measure pass rates, and leave out what is trivial or cannot be judged."""
    keys = work.config.difficulty
    assert keys is not None
    assert work.asker is not None
    folder = asked_folder(work, "difficulty", keys, {"samples", "easiest", "unsolved"})
    problems = work.problems(numbers)
    found = measure_difficulty(work.asker, problems, keys, folder, origin(work, numbers, problems))
    drops = [
        Drop(int(number), one.fate, one.detail)
        for number, one in zip(numbers, found.problems, strict=True)
        if one.dropped
    ]
    left = np.array([not one.dropped for one in found.problems], bool)
    rates = [None if one.rate is None else round(one.rate, 6) for one in found.problems if not one.dropped]
    owner = work.rows.texts(numbers, "source").to_pylist()
    full = [one for one in zip(found.problems, owner, strict=True) if one[0].gradable == keys.samples]
    counts = {name: [0] * (keys.samples + 1) for name in work.names}
    for one, source in full:
        counts[work.names[source]][one.right] += 1
    facts = {
        "rates": {
            "samples": keys.samples,
            "counts": counts,
            "unmeasured": len(numbers) - len(full),
            "easiest": keys.easiest,
            "unsolved_dropped": keys.unsolved == "drop",
        }
    }
    return Outcome(drops, {"pass_rate": rates}, numbers[left], facts, [found.warning] if found.warning else [])


def coverage(work: Work, numbers: Numbers) -> Outcome:
    """Note domain, cluster and level of each row, and choose where more are left than wanted."""
    keys = work.config.coverage
    assert keys is not None
    vectors = work.embedded.of(numbers)
    work.view.stage("coverage")
    clusters, _ = clusters_of(vectors, clusters_wanted(len(numbers), keys), seed=work.config.seed, threads=cores())
    noted = marks_for(numbers, [work.out / "difficulty"] if "difficulty" in work.done else [])
    rates = noted.get("pass_rate", [None] * len(numbers))
    said = work.rows.texts(numbers, "difficulty").to_pylist()
    sources = work.rows.texts(numbers, "source").to_pylist()
    levels = levels_of(rates, said, sources, keys.levels)
    size = len(numbers) if keys.size is None else min(keys.size, len(numbers))
    kept = choose(vectors, clusters, levels, size, keys, work.config.seed)
    drops = [
        Drop(int(number), "not chosen", f"cluster {c}, level {level}")
        for number, c, level in zip(numbers[~kept], clusters[~kept], levels[~kept], strict=True)
    ]
    marks = {
        "cluster": clusters[kept].astype("int64"),
        LEVEL: [None if v == UNKNOWN else int(v) for v in levels[kept]],
    }
    return Outcome(
        drops, marks, numbers[kept], facts={"clusters": int(clusters.max()) + 1}, warnings=_short(size, keys.size)
    )


def _short(size: int, wanted: int | None) -> Sequence[str]:
    if wanted is None or size == wanted:
        return ()
    return (f"coverage.size asks for {wanted:,} rows, and {size:,} are left: all are kept",)
