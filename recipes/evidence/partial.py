"""Partial rollouts against whole ones."""

from __future__ import annotations

from typing import Any

from recipes.evidence.base import ITERATIONS, arm, held_out, policy
from recipes.evidence.base import SCALE as BASE
from recipes.evidence.bench.drawing import courses
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, all_of, estimate, shown
from recipes.evidence.bench.trial import Outcome
from rl.config import RunConfig

TITLE = "Partial rollouts learn as much in fewer steps of the engine"
PAPER = "k1.5 §2.6.2"
CLAIM = "Long responses that go on in a later iteration keep the others from waiting, at the same quality."
PUBLISHED = "no figure"
SCALE = f"{BASE} Time is counted in steps of the engine: trials beside each other have no seconds to compare."
SEGMENT = 64
MARGIN = 0.05
LONGER = 2
"""Times as many iterations with partial rollouts: each finishes some half of the responses, so tokens are as many."""


def arms(bench: Bench) -> Arms:
    """Train with whole responses and with segments of 64 tokens, on about as many tokens."""
    partial = [
        policy(seed, rollout={"segment_tokens": SEGMENT, "loss_on": "all"}, iterations=LONGER * ITERATIONS)
        for seed in bench.seeds
    ]
    return {"whole": arm(bench), "partial": partial}


def steps(outcome: Outcome) -> float:
    """Return the tokens that sampling draws one after the other: in an iteration those of its longest piece."""
    assert isinstance(outcome.trial.config, RunConfig)
    segment = outcome.trial.config.rollout.segment_tokens
    return sum(min(segment, row.get("length/max", segment)) for row in outcome.rows)


def tokens(outcome: Outcome) -> float:
    """Return all tokens drawn."""
    return float(outcome.summary["tokens_generated"])


def judge(results: Results) -> Judgement:
    """Compare the steps for a token, which is what waiting for long responses costs, and the accuracy in the end."""
    parts = {name: results.values(name, tokens) / results.values(name, steps) for name in ("whole", "partial")}
    gained = estimate(parts["partial"] / parts["whole"])
    drawn = estimate(results.values("partial", tokens) / results.values("whole", tokens))
    quality = estimate(results.values("partial", held_out) - results.values("whole", held_out))
    text = (
        f"A step of the engine draws {shown(gained, 2)} times as many tokens; held out the accuracy is "
        f"{shown(quality, 1, 100)} points above that of whole responses, on {shown(drawn, 2)} times as many tokens."
    )

    def draw(axes: Any) -> None:
        curves = {name: [course(one) for one in each if one.failed is None] for name, each in results.arms.items()}
        courses(axes, curves, "steps of the engine", "accuracy of the finished responses")

    rows = (
        Row("tokens for a step of the engine, partial over whole", gained),
        Row("held-out accuracy in the end, partial less whole", quality),
        Row("tokens drawn, partial over whole", drawn),
    )
    return Judgement(all_of([above(gained, 1.0), above(quality, -MARGIN)]), text, rows, draw)


def course(outcome: Outcome) -> tuple[list[float], list[float]]:
    """Return steps so far and the accuracy of each iteration."""
    assert isinstance(outcome.trial.config, RunConfig)
    segment, before, found = outcome.trial.config.rollout.segment_tokens, 0.0, []
    for row in outcome.rows:
        before += min(segment, row.get("length/max", segment))
        if "accuracy" in row:
            found.append((before, row["accuracy"]))
    return [x for x, _ in found], [y for _, y in found]
