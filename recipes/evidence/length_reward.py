"""The length reward from the start, later, and never."""

from __future__ import annotations

from typing import Any

from recipes.evidence.base import SCALE as SCALE
from recipes.evidence.base import arm, held_out, learning, tokens
from recipes.evidence.bench.finding import Arms, Bench, Judgement, Results, Row, above, all_of, estimate, shown

TITLE = "A length reward from the start slows learning; later it shortens at little cost"
PAPER = "k1.5 §2.3.3"
CLAIM = "The length penalty may slow training at first, so it is warmed up: first none, then a constant one."
PUBLISHED = "no figure"
WEIGHT = 0.3
STARTS = {"early": 0, "late": 12}
LOSS = 0.05
"""What the late one may cost, in accuracy."""


def arms(bench: Bench) -> Arms:
    """Train without it, and with it from two iterations on."""
    found = {"never": arm(bench)}
    for name, start in STARTS.items():
        found[name] = arm(bench, reward={"length": {"weight": WEIGHT, "start_iteration": start}})
    return found


def judge(results: Results) -> Judgement:
    """Compare the learning of early and late, and the tokens and accuracy of late and never."""
    slowed = estimate(results.values("late", learning) - results.values("early", learning))
    shorter = estimate(1 - results.values("late", tokens) / results.values("never", tokens))
    cost = estimate(results.values("late", held_out) - results.values("never", held_out))
    ruling = all_of([above(slowed), above(shorter), above(cost, -LOSS)])
    text = (
        f"Over all iterations late is {shown(slowed, 1, 100)} points above early; it saves {shown(shorter, 0, 100)} % "
        f"of the tokens, and its accuracy is {shown(cost, 1, 100)} points from that without."
    )
    lengths = {name: results.values(name, tokens) for name in ("never", "late", "early")}

    def draw(axes: Any) -> None:
        for number, name in enumerate(lengths):
            axes.plot(lengths[name], results.values(name, held_out), "o", label=name, color=f"C{number}")
        axes.set(xlabel="held-out tokens of a response", ylabel="held-out accuracy")
        axes.legend(frameon=False)

    rows = [Row(f"{name}, held-out accuracy", estimate(results.values(name, held_out))) for name in lengths]
    rows += [Row(f"{name}, tokens", estimate(values), "tokens") for name, values in lengths.items()]
    return Judgement(ruling, text, (Row("learning, late less early", slowed), *rows), draw)
