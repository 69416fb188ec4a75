"""The token-efficiency plot as a picture: accuracy against tokens, after k1.5's Figure 7."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipes.shorten.efficiency import pareto
from recipes.shorten.results import TITLES, Variant

COLORS = {
    "long": "#14181f",
    "short": "#7b8494",
    "merge": "#d9660a",
    "rejection": "#0b8f60",
    "merge_rejection": "#7c3aed",
    "dpo": "#d02f6b",
    "rl": "#2563eb",
}


def write_png(path: Path, variants: Sequence[Variant], title: str) -> None:
    """Draw ``variants`` with their 95 % intervals, the front, and arrows from the long model. Raises ``OSError``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 5.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    long = next((one for one in variants if one.name == "long"), None)
    _front(axes, variants)
    for one in variants:
        x, y, color = one.tokens.mean, 100 * one.accuracy.mean, COLORS[one.name]
        if long is not None and one.name not in ("long", "short"):
            axes.annotate(
                "",
                (x, y),
                (long.tokens.mean, 100 * long.accuracy.mean),
                arrowprops={"arrowstyle": "-|>", "color": color, "alpha": 0.35, "shrinkA": 6, "shrinkB": 6},
            )
        across = [[x - one.tokens.low], [one.tokens.high - x]]
        along = [[y - 100 * one.accuracy.low], [100 * one.accuracy.high - y]]
        style: dict[str, Any] = {"fmt": "o", "color": color, "capsize": 3, "markersize": 7, "zorder": 3}
        axes.errorbar([x], [y], yerr=along, xerr=across, label=TITLES[one.name], **style)
    axes.set_xlabel("mean response tokens (95 % interval)")
    axes.set_ylabel("held-out accuracy, avg@n, % (95 % interval)")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    axes.legend(loc="best", fontsize=9)
    figure.savefig(path)


def _front(axes: Any, variants: Sequence[Variant]) -> None:
    """A step line: what accuracy can be had for at most so many tokens."""
    names = pareto(variants)
    points = sorted((one.tokens.mean, 100 * one.accuracy.mean) for one in variants if one.name in names)
    axes.step(*zip(*points, strict=True), where="post", color="#98a3b3", linestyle="--", label="Pareto front", zorder=1)
