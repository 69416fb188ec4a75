"""The reliability diagram of a calibrated model as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from rewards.models.calibration import Bin
from rollout.files import replace_file
from rollout.plain import one_line

BEFORE, AFTER = "#98a3b3", "#2563eb"


def write_png(path: Path, before: Sequence[Bin], after: Sequence[Bin], title: str) -> None:
    """Write ``figure`` as a picture, atomically. Raises ``OSError``."""
    buffer = BytesIO()
    figure(before, after, title).savefig(buffer, format="png")
    replace_file(path, buffer.getvalue())


def figure(before: Sequence[Bin], after: Sequence[Bin], title: str) -> Any:
    """Return a matplotlib figure: the share that is right against the probability said, with 95 % intervals, before and
    after calibration, and beneath it how many responses were said to be so likely right.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(6.2, 6.6), dpi=150, layout="constrained")
    FigureCanvasAgg(drawn)
    above, below = drawn.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    above.plot([0, 1], [0, 1], color="#14181f", linestyle="--", linewidth=1, label="perfectly calibrated")
    _reliability(above, before, BEFORE, "as trained")
    _reliability(above, after, AFTER, "with its temperature")
    above.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="share that is right, 95 % interval")
    above.set_title(one_line(title, 80), parse_math=False, fontsize=10)
    above.legend(loc="upper left", fontsize=9, frameon=False)
    middles, widths = [(one.low + one.high) / 2 for one in after], [0.9 * (one.high - one.low) for one in after]
    below.bar(middles, [one.count for one in after], widths, color=AFTER, alpha=0.6)
    below.set(xlabel="probability of being right", ylabel="responses")
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return drawn


def _reliability(axes: Any, held: Sequence[Bin], color: str, label: str) -> None:
    low = [max(0.0, one.seen - one.ci95[0]) for one in held]
    high = [max(0.0, one.ci95[1] - one.seen) for one in held]
    axes.errorbar(
        [one.said for one in held],
        [one.seen for one in held],
        yerr=[low, high],
        fmt="o-",
        color=color,
        capsize=3,
        markersize=5,
        linewidth=1.2,
        label=label,
        clip_on=False,
    )
