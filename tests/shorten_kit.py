"""Invented variants and answers, for the tests of long2short."""

from __future__ import annotations

from evals.evaluate import Answer, Response
from recipes.shorten.results import Change, Variant
from rewards.score import Score
from rewards.stats import Estimate
from rollout.types import Problem, StopReason


def variant(name: str, accuracy: float, tokens: float, spread: float = 0.03) -> Variant:
    return Variant(
        name=name,
        model=f"/models/{name}",
        accuracy=Estimate(accuracy, accuracy - spread, accuracy + spread, 200),
        tokens=Estimate(tokens, tokens - 5, tokens + 5, 200),
        median_tokens=tokens,
        truncated=0.01,
        ungradable=0.0,
        samples=4,
        change=None
        if name == "long"
        else Change(accuracy - 0.9, accuracy - 0.93, accuracy - 0.87, 0.5, tokens / 200 - 1),
        note=f"how {name} was made",
    )


ALL = [
    variant("long", 0.90, 200),
    variant("short", 0.30, 60),
    variant("merge", 0.60, 150),
    variant("rejection", 0.88, 130),
    variant("merge_rejection", 0.70, 120),
    variant("dpo", 0.89, 118),
    variant("rl", 0.91, 100),
]


def answer(problem: str, sample: int, tokens: int, score: Score, text: str = "") -> Answer:
    response = Response(text, StopReason.EOS, tokens, tuple(range(tokens)))
    return Answer(Problem.ask(problem, f"what is {problem}?", "1", "exact"), sample, response, score)
