"""From a finished curation to what its page and ``summary.json`` show."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from recipes.curate.contamination import KINDS, MATCHES, Match, confirmed, read_matches
from recipes.curate.coverage import LEVEL, UNKNOWN
from recipes.curate.ledger import Drop, Fates
from recipes.curate.map import chosen_points, project
from recipes.curate.pipeline import EMBEDDED, TITLES, Passed
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


def results_of(
    work: Work,
    passed: Sequence[Passed],
    fates: Fates,
    kept: Numbers,
    marks: Mapping[str, Sequence[Any]],
    facts: Facts,
) -> CurateResults:
    """Return what there is to show; ``marks``: of the rows ``kept``, by name."""
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
        map=map_of(work, fates, kept, marks) if EMBEDDED & {*work.done} else None,
        contamination=next((contamination_of(work, one) for one in passed if _compared(one)), None),
    )
    return bounded(found)


def sources_of(work: Work, fates: Fates) -> tuple[Source, ...]:
    """Return where the rows of each source went."""
    owner = work.rows.column("source").to_numpy()
    found = []
    for index, (name, config) in enumerate(zip(work.names, work.config.sources, strict=True)):
        own = fates.stage[owner == index]
        dropped = {stage: int((own == at).sum()) for at, stage in enumerate(fates.stages)}
        lost = {stage: count for stage, count in dropped.items() if count}
        found.append(Source(name, config.path, len(own), lost, int((own < 0).sum())))
    return tuple(found)


def kept_of(work: Work, kept: Numbers, marks: Mapping[str, Sequence[Any]]) -> Kept:
    """Return what the set consists of."""
    if not len(kept):
        return Kept(0)
    domains, languages, answers = (work.rows.texts(kept, name).to_pylist() for name in ("domain", "language", "answer"))
    lengths = pc.utf8_length(work.rows.texts(kept)).to_numpy()
    levels = [UNKNOWN if level is None else int(level) for level in marks.get(LEVEL, [None] * len(kept))]
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


def samples_of(work: Work, fates: Fates) -> tuple[Sample, ...]:
    """Return some rows of each stage and reason, drawn by the seed."""
    dropped = fates.dropped
    if not len(dropped):
        return ()
    reasons = fates.drops.column("reason").combine_chunks().dictionary_encode()
    kinds = fates.stage[dropped] * np.int64(len(reasons.dictionary)) + reasons.indices.to_numpy()[fates.at[dropped]]
    _, firsts, owner = np.unique(kinds, return_index=True, return_inverse=True)
    rng = np.random.default_rng([work.config.seed, 0x5A])
    chosen: list[int] = []
    for kind in np.argsort(firsts):
        own = dropped[owner == kind]
        chosen += rng.choice(own, min(SAMPLES, len(own)), replace=False).tolist()
    told = [one for one in fates.of(np.array(chosen, np.int64)) if one is not None]
    others = [drop.other for _, drop in told if drop.other is not None]
    rows = work.rows.some([*chosen, *others], ["id", "source", "place", "statement", "answer"])
    return tuple(_sample(work, rows, stage, drop) for stage, drop in told)


def _sample(work: Work, rows: Mapping[int, Mapping[str, Any]], stage: str, drop: Drop) -> Sample:
    row, like = rows[drop.number], None if drop.other is None else rows[drop.other]
    other = None if like is None else Other("like", like["id"], work.names[like["source"]], like["statement"])
    return Sample(
        stage=stage,
        reason=drop.reason,
        id=row["id"],
        source=work.names[row["source"]],
        place=row["place"],
        statement=row["statement"],
        answer=row["answer"],
        detail=drop.detail,
        other=other,
    )


def _compared(one: Passed) -> bool:
    return one.name == "contamination" and not one.skipped


def contamination_of(work: Work, passed: Passed) -> Contamination:
    """Return what stands in which evaluation set; of the pairs the most alike."""
    assert work.config.contamination is not None
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
            reason=match.reason,
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
        drop=work.config.contamination.drop,
    )


def map_of(work: Work, fates: Fates, kept: Numbers, marks: Mapping[str, Sequence[Any]]) -> Map:
    """Return a sample of the embedded rows in two dimensions."""
    pool = work.embedded.pool
    owner = work.rows.column("source").to_numpy()[pool]
    strata = owner.astype(np.int64) * (len(fates.stages) + 1) + fates.stage[pool]
    numbers = np.array(chosen_points(pool.tolist(), strata.tolist(), POINTS, work.config.seed), np.int64)
    places = project(work.embedded.of(numbers), work.config.seed)
    rows = work.rows.some(numbers.tolist(), ["id", "source", "statement", "domain", "difficulty"])
    rates = dict(zip(kept.tolist(), marks["pass_rate"], strict=True)) if "pass_rate" in marks else {}
    points = []
    for number, (x, y), lost in zip(numbers.tolist(), places.tolist(), fates.of(numbers), strict=True):
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
                fate=lost[0] if lost else "",
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
