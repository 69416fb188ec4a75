"""The numbers of an evaluation, as in ``results.json``.

The schema is stable. A field that changes its meaning or goes raises ``SCHEMA``; ``docs/evaluation.md`` describes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from evals.agreement import agreement, judged, of_score
from evals.benchmark import Benchmark
from evals.evaluate import Answer, by_problem
from evals.fused import Fused
from evals.fused import from_json as fused_from_json
from evals.result_windows import Beside, Voting, voting
from evals.stats import average, bootstrap, majority, passed, powers, rerun_error
from evals.votes import ballot
from rewards.stats import Estimate, bootstrap_ci
from rollout.files import replace_file
from rollout.types import StopReason

SCHEMA = "k15.eval/1"


class ResultsError(ValueError):
    """A results file cannot be used; one line."""


@dataclass(frozen=True)
class Rate:
    """A mean in [0, 1] with its interval."""

    mean: float
    ci95: tuple[float, float]
    problems: int
    """Number of problems behind it."""


@dataclass(frozen=True)
class Lengths:
    """Response lengths in tokens, over the responses whose length is known."""

    mean: float
    ci95: tuple[float, float]
    """Bootstrap interval over problems."""
    median: float
    longest: int


@dataclass(frozen=True)
class Slice:
    """The score of one part of a benchmark."""

    field: str
    """E.g. ``level``."""
    value: str
    score: Rate | None
    responses: int
    ungradable: float


@dataclass(frozen=True)
class Cell:
    """One context length and depth of a needle test."""

    length: int
    depth: int
    right: int
    graded: int


@dataclass(frozen=True)
class Speed:
    """Throughput of this process; there is none when all responses were in the record already."""

    responses: int
    tokens: int
    seconds: float
    """Wall time from the first request to the last response."""
    busy: float | None
    """Share of that time in which engines had work, mean over engines; ``None``: no engines of ours."""


@dataclass(frozen=True)
class Judged:
    """The verdicts of a reward model beside the rule's; see ``evals.agreement.Agreement``."""

    both_right: int
    both_wrong: int
    false_right: int
    """Right by the model alone."""
    false_wrong: int
    """Right by the rule alone."""
    only_rule: int
    only_model: int
    neither: int
    agreement: Rate | None
    """Share of the responses that both have judged on which they say the same."""
    kappa: float | None
    kappa95: tuple[float, float] | None


@dataclass(frozen=True)
class PerProblem:
    """One problem's responses, by sample."""

    id: str
    verdicts: tuple[str, ...]
    """``correct``, ``wrong`` or ``ungradable``."""
    tokens: tuple[int | None, ...]


@dataclass(frozen=True)
class BenchmarkResult:
    """One benchmark, one model, one setting."""

    name: str
    title: str
    origin: str
    """File or data set of the problems."""
    fingerprint: str
    """SHA-256 of what is asked and expected."""
    defects: int
    """Problems marked as defective that count in the score."""
    problems_in_data: int
    """Problems that were to be answered; fewer have answers when predictions were given for some only."""
    settings: dict[str, Any]
    """Settings asked for: samples, temperature, top_p, max_tokens, seed, shots, thinking, system, prompt."""
    published: str
    score: Rate | None
    """avg@n with the clustered Wilson interval; ``None`` when nothing could be graded."""
    bootstrap95: tuple[float, float] | None
    """avg@n's interval by the bootstrap over problems and samples."""
    rerun_error: float | None
    """Standard error of avg@n over other samples on the same problems; ``None`` with one response per problem."""
    pass_at: dict[str, Rate]
    """k -> unbiased pass@k."""
    maj_at: dict[str, Rate]
    """k -> maj@k; empty where answers cannot be compared."""
    responses: int
    tokens: Lengths | None
    truncated: float
    """Share of responses cut at ``max_tokens`` or the context."""
    repetition: float
    """Share of responses that were stopped for repetition."""
    ungradable: float
    """Share of responses that have no verdict: the grader failed, or they were aborted."""
    slices: tuple[Slice, ...]
    cells: tuple[Cell, ...]
    """Needle tests only."""
    speed: Speed | None
    first_prompt: str
    """The first problem's prompt as the model got it; for endpoints the messages, as JSON."""
    problems: tuple[PerProblem, ...]
    judge: Judged | None = None
    """Reward model against rule, where a reward model was to judge."""
    windows: Voting | None = None
    """Which windows of evidence spoke, where there were several."""
    beside: Beside | None = None
    """NBCE beside this way to use the same evidence."""
    fused: tuple[Fused, ...] = ()
    """fused@k beside maj@k, where answers were to be fused; one for each pooling."""


@dataclass(frozen=True)
class Results:
    """A whole evaluation, as in ``results.json``."""

    model: str
    """The model, as the command named it."""
    facts: dict[str, Any]
    """Versions, revision, engine, date: provenance, not part of the schema."""
    benchmarks: tuple[BenchmarkResult, ...]
    schema: str = field(default=SCHEMA)


@dataclass(frozen=True)
class Context:
    """All that a result needs beside the answers."""

    benchmark: Benchmark
    origin: str
    fingerprint: str
    defects: int
    problems_in_data: int
    settings: dict[str, Any]
    pass_ks: tuple[int, ...] = ()
    """k asked for; empty: powers of two."""
    speed: Speed | None = None
    first_prompt: str = ""


def measure(context: Context, answers: Sequence[Answer]) -> BenchmarkResult:
    """Compute all numbers of a benchmark from its answers, of which there is at least one."""
    benchmark, groups = context.benchmark, by_problem(answers)
    rows = [[answer.score.correct for answer in group if answer.score.gradable] for group in groups]
    ks = context.pass_ks or powers(max(len(group) for group in groups))
    graded = any(rows)
    return BenchmarkResult(
        name=benchmark.name,
        title=benchmark.title,
        origin=context.origin,
        fingerprint=context.fingerprint,
        defects=context.defects,
        problems_in_data=context.problems_in_data,
        settings=context.settings,
        published=benchmark.published,
        score=_rate(average(rows)) if graded else None,
        bootstrap95=bootstrap(rows) if graded else None,
        rerun_error=rerun_error(rows),
        pass_at={str(k): _rate(found) for k in ks if (found := passed(rows, k))},
        maj_at=_votes(benchmark, groups, ks),
        responses=len(answers),
        tokens=_lengths(groups),
        truncated=_share(answers, StopReason.LENGTH),
        repetition=_share(answers, StopReason.REPETITION),
        ungradable=sum(not answer.score.gradable for answer in answers) / len(answers),
        slices=tuple(part for name in benchmark.breakdown for part in _slices(name, groups)),
        cells=_cells(groups) if benchmark.make else (),
        speed=context.speed,
        first_prompt=context.first_prompt,
        problems=tuple(_per_problem(group) for group in groups),
        judge=_judged(answers, "judge" in context.settings),
        windows=voting(answers),
    )


def _judged(answers: Sequence[Answer], asked: bool) -> Judged | None:
    """Return how reward model and rule compare; ``None`` where no reward model has judged. ``asked``: one was to, be it
    without an opinion on anything.
    """
    both = [of_score(answer.problem.id, answer.score) for answer in answers]
    if not asked and not judged(both):
        return None
    found = agreement(both)
    return Judged(
        found.both_right,
        found.both_wrong,
        found.false_right,
        found.false_wrong,
        found.only_rule,
        found.only_model,
        found.neither,
        _rate(found.agreement) if found.agreement else None,
        found.kappa,
        found.kappa95,
    )


def _rate(estimate: Estimate) -> Rate:
    return Rate(estimate.mean, (estimate.low, estimate.high), estimate.n)


def _votes(benchmark: Benchmark, groups: Sequence[Sequence[Answer]], ks: Sequence[int]) -> dict[str, Rate]:
    if benchmark.same is None or max(len(group) for group in groups) < 3:
        return {}
    same = benchmark.same
    ballots = [ballot(group, same) for group in groups]
    return {str(k): _rate(found) for k in ks if k > 1 and (found := majority(ballots, k))}


def _lengths(groups: Sequence[Sequence[Answer]]) -> Lengths | None:
    rows = [[tokens for answer in group if (tokens := answer.response.tokens) is not None] for group in groups]
    flat = [tokens for row in rows for tokens in row]
    if not flat:
        return None
    mean = bootstrap_ci([[float(tokens) for tokens in row] for row in rows])
    return Lengths(mean.mean, (mean.low, mean.high), float(median(flat)), max(flat))


def _share(answers: Sequence[Answer], stop: StopReason) -> float:
    return sum(answer.response.stop is stop for answer in answers) / len(answers)


def _slices(name: str, groups: Sequence[Sequence[Answer]]) -> list[Slice]:
    """Return one slice per value of a field, numbers in order; problems without the field are in none."""
    parts: dict[str, list[Sequence[Answer]]] = {}
    for group in groups:
        value = group[0].problem.extra.get(name)
        if value is not None and value != "":
            parts.setdefault(str(value), []).append(group)
    found = []
    for value, members in sorted(parts.items(), key=lambda item: _natural(item[0])):
        rows = [[a.score.correct for a in group if a.score.gradable] for group in members]
        count = sum(len(group) for group in members)
        lost = count - sum(len(row) for row in rows)
        found.append(Slice(name, value, _rate(average(rows)) if any(rows) else None, count, lost / count))
    return found


def _natural(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return float("inf"), text


def _cells(groups: Sequence[Sequence[Answer]]) -> tuple[Cell, ...]:
    cells: dict[tuple[int, int], list[Answer]] = {}
    for group in groups:
        extra = group[0].problem.extra
        cells.setdefault((int(extra["length"]), int(extra["depth"])), []).extend(group)
    return tuple(
        Cell(length, depth, sum(a.score.correct for a in members), sum(a.score.gradable for a in members))
        for (length, depth), members in sorted(cells.items())
    )


def _per_problem(group: Sequence[Answer]) -> PerProblem:
    return PerProblem(
        group[0].problem.id,
        tuple(answer.score.verdict for answer in group),
        tuple(answer.response.tokens for answer in group),
    )


def write_results(path: Path, results: Results) -> None:
    """Write ``results.json``, atomically. Raises ``OSError``."""
    data = asdict(results)
    ordered = {"schema": data.pop("schema"), **data}
    replace_file(path, (json.dumps(ordered, indent=1, allow_nan=False) + "\n").encode())


def read_results(path: Path) -> Results:
    """Read what ``write_results`` wrote; ``path`` is the file or its folder.

    Raises ``ResultsError`` when it is missing, no such file or of another schema.
    """
    file = path / "results.json" if path.is_dir() else path
    try:
        data = json.loads(file.read_bytes())
    except OSError as error:
        raise ResultsError(f"{file}: cannot be read: {error.strerror}; name the --out folder of `k15 eval`") from error
    except ValueError as error:
        raise ResultsError(f"{file}: not JSON ({error})") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise ResultsError(f"{file}: schema {found!r}, this k15 reads {SCHEMA!r}; evaluate again")
    try:
        benchmarks = tuple(_benchmark_from_json(row) for row in data["benchmarks"])
        return Results(data["model"], data["facts"], benchmarks)
    except (KeyError, TypeError) as error:
        raise ResultsError(f"{file}: not a complete results file ({type(error).__name__}: {error})") from error


def _benchmark_from_json(row: dict[str, Any]) -> BenchmarkResult:
    row = dict(row)
    for key in ("pass_at", "maj_at"):
        row[key] = {k: _rate_from_json(value) for k, value in row[key].items()}
    row["score"] = _rate_from_json(row["score"]) if row["score"] else None
    row["bootstrap95"] = tuple(row["bootstrap95"]) if row["bootstrap95"] else None
    if row["tokens"]:
        row["tokens"] = Lengths(**{**row["tokens"], "ci95": tuple(row["tokens"]["ci95"])})
    row["speed"] = Speed(**row["speed"]) if row["speed"] else None
    row["cells"] = tuple(Cell(**cell) for cell in row["cells"])
    row["slices"] = tuple(
        Slice(**{**part, "score": _rate_from_json(part["score"]) if part["score"] else None}) for part in row["slices"]
    )
    row["problems"] = tuple(
        PerProblem(item["id"], tuple(item["verdicts"]), tuple(item["tokens"])) for item in row["problems"]
    )
    row["fused"] = tuple(fused_from_json(one) for one in row.get("fused", ()))
    if found := row.get("judge"):
        agreed = _rate_from_json(found["agreement"]) if found["agreement"] else None
        between = tuple(found["kappa95"]) if found["kappa95"] else None
        row["judge"] = Judged(**{**found, "agreement": agreed, "kappa95": between})
    if found := row.get("windows"):
        row["windows"] = Voting(tuple(found["tokens"]), tuple(found["first"]), found["found"])
    if found := row.get("beside"):
        row["beside"] = Beside(**{**found, "ci95": tuple(found["ci95"])})
    return BenchmarkResult(**row)


def _rate_from_json(row: dict[str, Any]) -> Rate:
    low, high = row["ci95"]
    return Rate(row["mean"], (low, high), row["problems"])
