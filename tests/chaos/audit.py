"""What a run may have lost, trained twice or miscounted: pure functions over its record and the ledgers of its strikes.

Each returns its complaints, one a line; ``audit`` is all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Self

from rl.config import RunConfig
from tests.chaos.ledger import Ledger, Record, Token, of_row


@dataclass(frozen=True)
class Extent:
    """How much a run has to have done."""

    iterations: int
    k: int
    """Rollouts of a group."""
    groups: int | None = None
    """Groups an iteration that a run which samples ahead admits on average; ``None``: as many as are finished."""

    @classmethod
    def of(cls, config: RunConfig) -> Self:
        """Return the extent of a run that ends as its configuration has it."""
        overlap = config.overlap
        ahead = overlap is not None and overlap.mode == "window" and overlap.max_staleness > 0
        return cls(config.iterations, config.rollout.k, config.rollout.groups if ahead else None)


def audit(record: Record, ledgers: Sequence[Ledger], extent: Extent) -> list[str]:
    """Return what is wrong with a finished run."""
    found = [*record.broken, *rows(record, extent.iterations), *groups(record, extent.k), *stitched(record)]
    found += [*batches(record, extent), *counts(record)]
    for ledger in ledgers:
        found += [f"{ledger.moment}: {line}" for line in kept(record, ledger)]
    return found


def kept(record: Record, ledger: Ledger) -> Iterator[str]:
    """Every token that the ledger holds is in the record, behind the same one, of the same version and log-prob."""
    going_on = {name: [*tokens, *record.later.get(name, ())] for name, tokens in record.unfinished.items()}
    have = {row["rollout"]: of_row(row) for row in record.rollouts} | going_on
    for rollout, drawn in ledger.tokens().items():
        now = have.get(rollout)
        if now is None:
            yield f"rollout {rollout}, which had {len(drawn)} tokens, is gone"
        elif (found := unbroken(drawn, now)) < len(drawn):
            yield f"of the {len(drawn)} tokens that {rollout} was given only {found} are there as they were"


def unbroken(drawn: Sequence[Token], now: Sequence[Token]) -> int:
    """Return how many of the first tokens of ``drawn`` stand side by side somewhere in ``now``: at best all."""

    def matches(start: int) -> int:
        pairs = zip(drawn, now[start:], strict=False)
        return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(drawn), len(now) - start))

    return max(map(matches, range(len(now))), default=0)


def rows(record: Record, iterations: int) -> Iterator[str]:
    """One row of metrics and one file of rollouts for each iteration, in order."""
    numbers = [row["iteration"] for row in record.rows]
    if numbers != list(range(iterations)):
        yield f"metrics.jsonl has the iterations {numbers} instead of 0 to {iterations - 1}"
    if list(record.files) != list(range(iterations)):
        yield f"rollouts/ has the iterations {list(record.files)} instead of 0 to {iterations - 1}"


def groups(record: Record, k: int) -> Iterator[str]:
    """Each rollout was trained on once, with all of its group."""
    for rollout, times in Counter(row["rollout"] for row in record.rollouts).items():
        if times > 1:
            yield f"rollout {rollout} was trained on {times} times"
    for rollout in record.unfinished.keys() & {row["rollout"] for row in record.rollouts}:
        yield f"rollout {rollout} was trained on, and is going on"
    for group, members in by(record.rollouts, "group").items():
        if len(members) != k:
            yield f"group {group} has {len(members)} rollouts instead of {k}"
        if len({row["iteration"] for row in members}) > 1:
            yield f"group {group} was trained on in several iterations"


def batches(record: Record, extent: Extent) -> Iterator[str]:
    """A run that samples ahead trains in every iteration, and on no more than it may admit."""
    if extent.groups is None:
        return
    for iteration in set(range(extent.iterations)) - by(record.rollouts, "iteration").keys():
        yield f"iteration {iteration} trained on no group"
    trained, most = len(by(record.rollouts, "group")), extent.iterations * extent.groups
    if trained > most:
        yield f"{trained} groups were trained on, of at most {most}"


def stitched(record: Record) -> Iterator[str]:
    """Versions of a rollout never decrease, none is of the future, and every token drawn has a log-prob."""
    for row in record.rollouts:
        versions = row["segment_versions"]
        if any(later < earlier for earlier, later in pairwise(versions)):
            yield f"rollout {row['rollout']} has the versions {versions}"
        if versions and versions[-1] > row["iteration"]:
            yield f"rollout {row['rollout']} of iteration {row['iteration']} has tokens of version {versions[-1]}"
        if len(row["token_ids"]) != sum(row["segment_lengths"]) or len(row["logprobs"]) != len(row["token_ids"]):
            yield f"rollout {row['rollout']} has {len(row['token_ids'])} tokens and {len(row['logprobs'])} log-probs"


def counts(record: Record) -> Iterator[str]:
    """The summary and the rows count what is there."""
    summary = record.summary
    if not summary:
        yield "summary.json is missing"
        return
    several = sum(len(set(row["segment_versions"])) > 1 for row in record.rollouts)
    drawn = sum(row["length"] for row in record.rollouts)
    drawn += sum(logprob is not None for tokens in record.unfinished.values() for _, _, logprob in tokens)
    for key, there in {
        "iterations": len(record.rows),
        "rollouts": len(record.rollouts),
        "partial_rollouts_resumed": several,
        "tokens_generated": drawn,
    }.items():
        if summary[key] != there:
            yield f"summary.json says {summary[key]} {key}, there are {there}"
    stored = Counter(row["iteration"] for row in record.rollouts)
    for row in record.rows:
        if row["rollouts/finished"] != stored[row["iteration"]]:
            yield (
                f"metrics.jsonl says that {row['rollouts/finished']} rollouts were finished in iteration "
                f"{row['iteration']}, there are {stored[row['iteration']]}"
            )


def by(found: Sequence[Mapping[str, Any]], key: str) -> dict[Any, list[Mapping[str, Any]]]:
    """Return the rows by the value of a column."""
    return {value: list(rows) for value, rows in groupby(sorted(found, key=lambda row: row[key]), lambda row: row[key])}
