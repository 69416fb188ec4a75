"""The plots of findings, on matplotlib's axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np

from recipes.evidence.bench.finding import Floats, Judgement, estimate
from rollout.plain import one_line

COLORS = ("#2563eb", "#d9660a", "#0b8f60", "#d02f6b", "#7c3aed", "#7b8494", "#b58900", "#0e7490")


def png(judgement: Judgement, title: str) -> bytes:
    """Return a finding's plot as a picture; empty without one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if judgement.draw is None:
        return b""
    drawn = Figure(figsize=(7.2, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.add_subplot()
    judgement.draw(axes)
    axes.set_title(one_line(title, 100), fontsize=11, loc="left", parse_math=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = BytesIO()
    drawn.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def dots(axes: Any, arms: Mapping[str, Floats], label: str) -> None:
    """Draw each arm's values, a dot for each seed, and their mean with its interval across."""
    for place, (values, color) in enumerate(zip(arms.values(), _colors(len(arms)), strict=True)):
        one = estimate(values)
        known = values[np.isfinite(values)]
        spread = np.linspace(-0.12, 0.12, len(known)) if len(known) > 1 else np.zeros(len(known))
        axes.plot(place + spread, known, "o", color=color, alpha=0.55, markersize=5)
        if np.isfinite(one.low):
            error = [[one.mean - one.low], [one.high - one.mean]]
            axes.errorbar([place + 0.25], [one.mean], yerr=error, fmt="_", color=color, capsize=3)
        if np.isfinite(one.mean):
            axes.plot([place - 0.2, place + 0.2], [one.mean, one.mean], color=color, linewidth=2)
    axes.set_xticks(range(len(arms)), list(arms), fontsize=9, rotation=20 if len(arms) > 5 else 0)
    axes.set_xlim(-0.6, len(arms) - 0.4)
    axes.set_ylabel(label)


def courses(axes: Any, arms: Mapping[str, Sequence[tuple[Any, Any]]], x: str, y: str, markers: str = "") -> None:
    """Draw each arm's curves (x, y), one for each seed, thin, and their mean where all have the same x."""
    for (name, lines), color in zip(arms.items(), _colors(len(arms)), strict=True):
        for xs, ys in lines:
            axes.plot(xs, ys, color=color, linewidth=0.7, alpha=0.35)
        axes.plot([], [], color=color, linewidth=2, label=name)
        if lines and all(list(xs) == list(lines[0][0]) for xs, _ in lines):
            mean = np.mean([ys for _, ys in lines], axis=0)
            axes.plot(lines[0][0], mean, f"{markers}-", color=color, linewidth=2, markersize=4)
    axes.set(xlabel=x, ylabel=y)
    axes.legend(frameon=False, fontsize=9)


def _colors(count: int) -> list[str]:
    return [COLORS[number % len(COLORS)] for number in range(count)]
