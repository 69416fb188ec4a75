"""The numbers of answer fusion: fused@k, and by how much it differs from maj@k on the same responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from evals.evaluate import Answer
from evals.stats import Ballot, average, paired, winners
from evals.votes import Same, ballot


@dataclass(frozen=True)
class Beyond:
    """fused@k less maj@k, problem by problem; see ``evals.stats.Paired``."""

    difference: float
    ci95: tuple[float, float]
    p: float
    better: int
    worse: int


@dataclass(frozen=True)
class Fused:
    """One way to fuse, on one benchmark."""

    pooling: str
    beta: float | None
    """``None``: the pooling's own."""
    k: int
    """Most responses of a problem."""
    mean: float
    """fused@k: share of the problems whose fused answer is right; without any context there is none."""
    ci95: tuple[float, float]
    problems: int
    contexts: float
    """Mean number of responses that an answer was fused from; the others had no answer."""
    silent: int
    """Problems without such a response; they count as wrong, as in maj@k."""
    ungradable: int
    """Problems that are left out, since the fused answer has no verdict."""
    beyond_maj: Beyond | None
    """``None`` where answers cannot be compared."""


def measured(
    fused: Mapping[str, Answer],
    contexts: Mapping[str, int],
    groups: Sequence[Sequence[Answer]],
    same: Same | None,
    pooling: str,
    beta: float | None,
) -> Fused | None:
    """Return the numbers of fused answers by problem; ``None`` when none of them has a verdict.

    ``contexts``: how many responses each was fused from; ``groups``: all responses, by problem.
    """
    kept = [group for group in groups if (one := fused.get(group[0].problem.id)) is None or one.score.gradable]
    if not kept:
        return None
    rows = [[(one := fused.get(group[0].problem.id)) is not None and one.score.correct] for group in kept]
    found = average(rows)
    beyond = None
    if same is not None:
        votes = [vote(ballot(group, same)) for group in kept]
        pair = paired(votes, rows)
        beyond = Beyond(pair.difference, (pair.low, pair.high), pair.p, pair.better, pair.worse)
    return Fused(
        pooling=pooling,
        beta=beta,
        k=max(len(group) for group in groups),
        mean=found.mean,
        ci95=(found.low, found.high),
        problems=len(kept),
        contexts=fmean(contexts.values()) if contexts else 0.0,
        silent=sum(group[0].problem.id not in fused for group in kept),
        ungradable=len(groups) - len(kept),
        beyond_maj=beyond,
    )


def vote(votes: Ballot) -> list[bool]:
    """Return for each answer that has the most votes whether it is right: more than one where there is a tie, one wrong
    one where nobody voted. The mean is maj@k.
    """
    return [name in votes.right for name in winners(votes.votes)] or [False]


def from_json(row: dict[str, Any]) -> Fused:
    """Return what was written to ``results.json``."""
    beyond = row["beyond_maj"]
    pair = Beyond(**{**beyond, "ci95": tuple(beyond["ci95"])}) if beyond else None
    return Fused(**{**row, "ci95": tuple(row["ci95"]), "beyond_maj": pair})


def told(found: Fused) -> str:
    """Return one line for the terminal."""
    low, high = (100 * limit for limit in found.ci95)
    how = found.pooling if found.beta is None else f"{found.pooling}, beta {found.beta:g}"
    line = f"fused@{found.k} ({how}) {100 * found.mean:.1f} % [{low:.1f}, {high:.1f}]"
    if (pair := found.beyond_maj) is not None:
        low, high = (100 * limit for limit in pair.ci95)
        line += (
            f"; against maj@{found.k} {100 * pair.difference:+.1f} points [{low:+.1f}, {high:+.1f}], p {pair.p:.2g}: "
            f"{pair.better} better, {pair.worse} worse"
        )
    return line + (f"; {found.silent} problems without an answer" if found.silent else "")
