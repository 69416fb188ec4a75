"""The course of a pretraining as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any

from rl.record.metrics import Row
from rollout.files import replace_file
from rollout.plain import one_line

TRAINING = "#98a3b3"
COLORS = ("#2563eb", "#d9660a", "#0b8f60", "#d02f6b", "#7c3aed", "#7b8494")
SMOOTHED = 0.95
"""Weight of the past in the line of the training loss."""


def write_png(path: Path, rows: Sequence[Row], final: Mapping[str, float], title: str) -> None:
    """Write ``figure`` as a picture, atomically. Raises ``OSError``."""
    buffer = BytesIO()
    figure(rows, final, title).savefig(buffer, format="png")
    replace_file(path, buffer.getvalue())


def figure(rows: Sequence[Row], final: Mapping[str, float], title: str) -> Any:
    """Return a matplotlib figure: the loss of each step and the held-out losses against tokens, and the rate below.

    ``final``: held-out losses in the end, by the texts' names.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8.4, 5.4), dpi=150, layout="constrained")
    FigureCanvasAgg(drawn)
    above, below = drawn.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    read = [*accumulate(row["tokens"] for row in rows)]
    steps = [(x, row["loss"]) for x, row in zip(read, rows, strict=True) if "loss" in row]
    if steps:
        above.plot(*zip(*steps, strict=True), color=TRAINING, linewidth=0.6, alpha=0.5)
        above.plot(
            [x for x, _ in steps],
            smoothed([loss for _, loss in steps]),
            color="#14181f",
            linewidth=1.2,
            label="training",
        )
    start = [x - row["tokens"] for x, row in zip(read, rows, strict=True)]
    for number, (name, last) in enumerate(final.items()):
        key = f"heldout/{name}/loss"
        points = [(x, row[key]) for x, row in zip(start, rows, strict=True) if key in row] + [(read[-1], last)]
        color = COLORS[number % len(COLORS)]
        above.plot(*zip(*points, strict=True), "o-", color=color, markersize=4, label=f"{one_line(name, 30)}, held out")
    below.plot(read, [row["lr"] for row in rows], color="#14181f", linewidth=1.2)
    above.set(ylabel="nats per token")
    above.set_title(one_line(title, 80), parse_math=False, fontsize=10)
    if steps or final:
        above.legend(loc="upper right", fontsize=9, frameon=False)
    below.set(xlabel="tokens", ylabel="learning rate", ylim=(0, None))
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return drawn


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the running mean of values, the past weighing ``SMOOTHED``, from the first on without bias."""
    found, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = SMOOTHED * total + value, SMOOTHED * weight + 1
        found.append(total / weight)
    return found
