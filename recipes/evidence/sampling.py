"""Which problems are drawn: curriculum and prioritised sampling against uniform."""

from __future__ import annotations

from typing import Any

from recipes.evidence.base import along, arm, held_out
from recipes.evidence.bench.drawing import courses
from recipes.evidence.bench.finding import Bench, Floats, Judgement, Results, Row, above, estimate, shown
from recipes.evidence.bench.trial import Outcome, Trial

SET = {"train_size": 256}
"""A set that problems come back from: on a stream no success rate is ever used again."""
ARMS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "curriculum": {"sampling": {"kind": "curriculum", "switch_iteration": 8, "hard_quantile": 0.7}},
    "prioritised": {"sampling": {"kind": "prioritized", "initial_success": 0.3}},
}


def trials(bench: Bench, name: str) -> list[Trial]:
    """Return the runs of an arm."""
    return arm(bench, problems=SET, **ARMS[name])


def judged(results: Results, name: str) -> Judgement:
    """Compare an arm's held-out accuracy with uniform sampling's."""

    def gain(score: Any) -> Floats:
        return results.values(name, score) - results.values("uniform", score)

    end, during = estimate(gain(held_out)), estimate(gain(along))
    text = (
        f"Held out, {name} sampling is {shown(end, 1, 100)} points above uniform in the end, {shown(during, 1, 100)} "
        "on average from iteration 5 on."
    )
    curves = {each: [evaluations(one) for one in results.arms[each] if one.failed is None] for each in results.arms}

    def draw(axes: Any) -> None:
        courses(axes, curves, "iteration", "held-out accuracy", "o")

    rows = [Row(f"{each}, held out in the end", estimate(results.values(each, held_out))) for each in results.arms]
    return Judgement(above(end), text, (Row(f"{name} less uniform, in the end", end), *rows), draw)


def evaluations(outcome: Outcome) -> tuple[list[float], list[float]]:
    """Return the held-out accuracies by iteration."""
    from rl.record.log import read_evaluations

    found = read_evaluations(outcome.folder / "run")
    return [float(one.iteration) for one in found], [one.accuracy.mean for one in found]
