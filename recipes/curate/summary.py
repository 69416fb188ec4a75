"""From a finished curation to what its page and ``summary.json`` show."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.curate.contamination import KINDS, MATCHES, Match, confirmed, read_matches
from recipes.curate.coverage import UNKNOWN
from recipes.curate.ledger import drops_of
from recipes.curate.map import chosen_points, project
from recipes.curate.pipeline import TITLES, Passed
from recipes.curate.results import (
    PAIRS,
    POINTS,
    SAMPLES,
    Contamination,
    CurateResults,
    EvaluationSet,
    Facts,
    Kept,
    Map,
    Other,
    Pair,
    PassRates,
    Point,
    Sample,
    Source,
    Stage,
    bounded,
)
from recipes.curate.rows import Numbers
from recipes.curate.work import Work

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
_INTEGER = re.compile(r"[-+]?\d[\d,]*")
_NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*|[-+]?\\d?frac\{?\d+\}?\{?\d+\}?|[-+]?\d+/\d+")


@dataclass(frozen=True)
class Fate:
    """Of one row that was dropped."""

    stage: str
    reason: str
    detail: str
    other: int | None


def results_of(
    work: Work,
    passed: Sequence[Passed],
    kept: Numbers,
    marks: Mapping[str, Sequence[Any]],
    facts: Facts,
) -> CurateResults:
    """Return what there is to show; ``marks``: of the rows ``kept``, by name."""
    fates = fates_of(work.out, passed)
    found = CurateResults(
        facts=facts,
        warnings=tuple(warning for one in passed for warning in one.warnings),
        stages=tuple(
            Stage(
                one.name,
                TITLES[one.name],
                one.entered,
                dict(one.reasons),
                one.seconds,
                str(one.facts.get("note", "")),
                one.skipped,
            )
            for one in passed
        ),
        sources=sources_of(work, fates),
        kept=kept_of(work, kept, marks),
        samples=samples_of(work, fates),
        pass_rates=next((_rates(one.facts["rates"]) for one in passed if "rates" in one.facts), None),
        map=map_of(work, fates, kept, marks)
        if len(work.pool) and (work.out / "vectors" / "state.json").exists()
        else None,
        contamination=next((contamination_of(work, one) for one in passed if _compared(one)), None),
    )
    return bounded(found)


def fates_of(out: Path, passed: Sequence[Passed]) -> dict[int, Fate]:
    """Return the fates of all rows that were dropped, by number."""
    found: dict[int, Fate] = {}
    for one in passed:
        if not one.skipped:
            for row in drops_of(out / one.name).to_pylist():
                found[row["number"]] = Fate(one.name, row["reason"], row["detail"], row["other"])
    return found


def sources_of(work: Work, fates: Mapping[int, Fate]) -> tuple[Source, ...]:
    """Return where the rows of each source went."""
    owner = work.rows.column("source").to_numpy()
    counts: dict[int, Counter[str]] = {}
    for number, fate in fates.items():
        counts.setdefault(int(owner[number]), Counter())[fate.stage] += 1
    found = []
    for index, (name, config) in enumerate(zip(work.names, work.config.sources, strict=True)):
        rows, dropped = int((owner == index).sum()), counts.get(index, Counter())
        found.append(Source(name, config.path, rows, dict(dropped), rows - dropped.total()))
    return tuple(found)


def kept_of(work: Work, kept: Numbers, marks: Mapping[str, Sequence[Any]]) -> Kept:
    """Return what the set consists of."""
    if not len(kept):
        return Kept(0)
    domains, languages, answers = (work.rows.texts(kept, name).to_pylist() for name in ("domain", "language", "answer"))
    lengths = np.array([len(text) for text in work.rows.texts(kept).to_pylist()])
    levels = [UNKNOWN if level is None else int(level) for level in marks.get("level", [None] * len(kept))]
    known = sorted({level for level in levels if level != UNKNOWN})
    columns = [*known, *([UNKNOWN] if UNKNOWN in levels else [])]
    crossed = Counter(zip(domains, levels, strict=True))
    return Kept(
        rows=len(kept),
        levels=tuple("unknown" if one == UNKNOWN else f"level {one + 1}" for one in columns),
        domains={name: tuple(crossed[name, level] for level in columns) for name, _ in Counter(domains).most_common()},
        languages=dict(Counter(language or "unclear" for language in languages).most_common()),
        answers=dict(Counter(map(kind_of, answers)).most_common()),
        lengths=tuple((q, int(np.quantile(lengths, q))) for q in QUANTILES),
    )


def kind_of(answer: str) -> str:
    """Return what an answer is, for counting."""
    plain = answer.replace(" ", "").replace("\\!", "").strip("$")
    if _INTEGER.fullmatch(plain):
        return "integer"
    if _NUMBER.fullmatch(plain):
        return "decimal or fraction"
    return "expression" if any(sign in plain for sign in "\\=^+*_/()[]<>") or any(map(str.isdigit, plain)) else "words"


def samples_of(work: Work, fates: Mapping[int, Fate]) -> tuple[Sample, ...]:
    """Return some rows of each stage and reason, drawn by the seed."""
    groups: dict[tuple[str, str], list[int]] = {}
    for number in sorted(fates):
        groups.setdefault((fates[number].stage, fates[number].reason), []).append(number)
    rng = np.random.default_rng([work.config.seed, 0x5A])
    chosen = [int(n) for own in groups.values() for n in rng.choice(own, min(SAMPLES, len(own)), replace=False)]
    others = [other for number in chosen if (other := fates[number].other) is not None]
    rows = work.rows.some([*chosen, *others], ["id", "source", "place", "statement", "answer"])
    return tuple(_sample(work, rows, number, fates[number]) for number in chosen)


def _sample(work: Work, rows: Mapping[int, Mapping[str, Any]], number: int, fate: Fate) -> Sample:
    row, like = rows[number], None if fate.other is None else rows[fate.other]
    other = None if like is None else Other("like", like["id"], work.names[like["source"]], like["statement"])
    return Sample(
        stage=fate.stage,
        reason=fate.reason,
        id=row["id"],
        source=work.names[row["source"]],
        place=row["place"],
        statement=row["statement"],
        answer=row["answer"],
        detail=fate.detail,
        other=other,
    )


def _compared(one: Passed) -> bool:
    return one.name == "contamination" and not one.skipped


def contamination_of(work: Work, passed: Passed) -> Contamination:
    """Return what stands in which evaluation set; of the pairs the most alike."""
    counts: Mapping[str, int] = passed.facts["candidates"]
    every = sorted(read_matches(work.out / "contamination" / MATCHES), key=lambda match: match.strength, reverse=True)
    confirmed_, others = ([match for match in every if bool(match.kind) is found] for found in (True, False))
    texts = {
        (one.name, name): statement
        for one in work.against
        for name, statement in zip(one.ids, one.statements, strict=True)
    }
    shown = [*confirmed_[:PAIRS], *others[:PAIRS]]
    rows = work.rows.some([int(match.row) for match in shown], ["id", "source", "statement"])

    def pair(match: Match) -> Pair:
        row = rows[int(match.row)]
        return Pair(
            set=match.evaluation_set,
            kind=match.kind or "",
            id=row["id"],
            source=work.names[row["source"]],
            statement=row["statement"],
            evaluation_id=match.problem,
            evaluation_statement=texts[match.evaluation_set, match.problem],
            cosine=match.cosine,
            overlap=match.overlap,
        )

    strongest = confirmed(confirmed_)
    sets = []
    for one in work.against:
        own = [match for match in confirmed_ if match.evaluation_set == one.name]
        kinds = Counter(match.kind for match in strongest.values() if match.evaluation_set == one.name)
        candidates = counts.get(one.name, 0)
        found = {str(kind): kinds[kind] for kind in KINDS}
        sets.append(EvaluationSet(one.name, len(one), candidates, found, len({match.problem for match in own})))
    return Contamination(
        sets=tuple(sets),
        confirmed=tuple(map(pair, confirmed_[:PAIRS])),
        candidates=tuple(map(pair, others[:PAIRS])),
        confirmed_total=len(confirmed_),
        candidates_total=sum(counts.values()) - len(confirmed_),
    )


def map_of(work: Work, fates: Mapping[int, Fate], kept: Numbers, marks: Mapping[str, Sequence[Any]]) -> Map:
    """Return a sample of the embedded rows in two dimensions."""
    pool = work.embedded.pool
    owner = work.rows.column("source").to_numpy()[pool]
    strata = [
        f"{source} {fates[int(n)].stage if int(n) in fates else ''}" for source, n in zip(owner, pool, strict=True)
    ]
    numbers = np.array(chosen_points(pool.tolist(), strata, POINTS, work.config.seed), np.int64)
    places = project(work.embedded.of(numbers), work.config.seed)
    rows = work.rows.some(numbers.tolist(), ["id", "source", "statement", "domain", "difficulty"])
    rates = dict(zip(kept.tolist(), marks["pass_rate"], strict=True)) if "pass_rate" in marks else {}
    points = []
    for number, (x, y) in zip(numbers.tolist(), places.tolist(), strict=True):
        row = rows[number]
        points.append(
            Point(
                x=x,
                y=y,
                id=row["id"],
                source=work.names[row["source"]],
                text=row["statement"],
                domain=row["domain"],
                difficulty=rates.get(number) if rates else row["difficulty"],
                fate=fates[number].stage if number in fates else "",
            )
        )
    return Map(
        tuple(points), len(pool), "t-SNE of whitened embeddings", "pass rate" if rates else "difficulty of the source"
    )


def _rates(facts: Mapping[str, Any]) -> PassRates:
    counts = {name: tuple(values) for name, values in facts["counts"].items()}
    return PassRates(
        samples=facts["samples"],
        counts=counts,
        unmeasured=facts["unmeasured"],
        easiest=facts["easiest"],
        unsolved_dropped=facts["unsolved_dropped"],
    )
