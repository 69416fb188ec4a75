"""The token-efficiency plot as a picture: accuracy against tokens, after k1.5's Figure 7."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np

from recipes.shorten.efficiency import pareto
from recipes.shorten.results import TITLES, Variant
from rewards.stats import Estimate
from rollout.files import replace_file
from rollout.plain import one_line

COLORS = {
    "long": "#14181f",
    "short": "#7b8494",
    "merge": "#d9660a",
    "rejection": "#0b8f60",
    "merge_rejection": "#7c3aed",
    "dpo": "#d02f6b",
    "rl": "#2563eb",
}
"""The colours of the page: ``c0`` to ``c5`` of its style sheet."""
SIDES = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
PLACES = [(r * x, r * y) for r, (x, y) in product((8, 16, 27, 40, 55), SIDES)]
"""Places of a label, in points from its variant's mark, nearest first."""


def limits(estimates: Sequence[Estimate], ceiling: float = float("inf")) -> tuple[float, float]:
    """Return the ends of an axis that shows all intervals; it starts at 0 unless its lower half would then be empty."""
    if not estimates:
        return 0.0, 1.0
    low, high = min(e.low for e in estimates), max(e.high for e in estimates)
    margin = max(0.08 * (high - low), 0.02 * high) or 1.0
    return 0.0 if low <= high / 2 else low - margin, min(ceiling, high + margin)


def write_png(path: Path, variants: Sequence[Variant], title: str) -> None:
    """Write ``figure`` as a picture of 1260 x 810 pixels, atomically. Raises ``OSError``."""
    buffer = BytesIO()
    figure(variants, title).savefig(buffer, format="png")
    replace_file(path, buffer.getvalue())


def figure(variants: Sequence[Variant], title: str) -> Any:
    """Return a matplotlib figure: ``variants`` with their 95 % intervals, the front, and arrows from the long model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8.4, 5.4), dpi=150, layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.add_subplot()
    axes.set_xlim(*limits([one.tokens for one in variants]))
    axes.set_ylim(*(100 * end for end in limits([one.accuracy for one in variants], 1.0)))
    axes.set_xlabel(f"mean response tokens, 95 % interval{_start(axes.get_xlim()[0], '')}")
    axes.set_ylabel(f"held-out accuracy, 95 % interval{_start(axes.get_ylim()[0], ' %')}")
    axes.yaxis.set_major_formatter("{x:.3g} %")
    axes.set_title(one_line(title, 80), parse_math=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if not variants:
        axes.text(0.5, 0.5, "no variant was judged", ha="center", va="center", transform=axes.transAxes)
    _front(axes, variants)
    _arrows(axes, variants)
    for one in variants:
        _cross(axes, one)
    drawn.draw_without_rendering()  # fixes the layout, so that labels can be measured
    _labels(axes, variants)
    return drawn


def _start(low: float, unit: str) -> str:
    return f" (from {low:.3g}{unit}, not from 0)" if low > 0 else ""


def _at(variant: Variant) -> tuple[float, float]:
    return variant.tokens.mean, 100 * variant.accuracy.mean


def _front_path(axes: Any, variants: Sequence[Variant]) -> list[tuple[float, float]]:
    """Return the corners of the step line: the best accuracy for at most so many tokens."""
    names = pareto(variants)
    points = sorted({_at(one) for one in variants if one.name in names})
    if not points:
        return []
    ends = [x for x, _ in points[1:]] + [axes.get_xlim()[1]]
    return [corner for (x, y), end in zip(points, ends, strict=True) for corner in ((x, y), (end, y))]


def _front(axes: Any, variants: Sequence[Variant]) -> None:
    path = _front_path(axes, variants)
    if path:
        axes.plot(*zip(*path, strict=True), color="#98a3b3", linestyle="--", label="Pareto front", zorder=1)
        axes.legend(loc="lower right", fontsize=9, frameon=False)


def _moves(variants: Sequence[Variant]) -> list[tuple[Variant, Variant]]:
    """Return the long model with each variant that was made from it."""
    long = [one for one in variants if one.name == "long"]
    return list(product(long, (one for one in variants if one.name not in ("long", "short"))))


def _arrows(axes: Any, variants: Sequence[Variant]) -> None:
    for long, one in _moves(variants):
        style = {"arrowstyle": "-|>", "color": COLORS[one.name], "alpha": 0.5, "shrinkA": 7, "shrinkB": 7}
        axes.annotate("", _at(one), _at(long), arrowprops=style, zorder=2)


def _cross(axes: Any, one: Variant) -> None:
    x, y = _at(one)
    # An interval by resampling can miss its mean by a rounding error, and matplotlib takes no negative length.
    across = [[max(0.0, x - one.tokens.low)], [max(0.0, one.tokens.high - x)]]
    along = [[max(0.0, y - 100 * one.accuracy.low)], [max(0.0, 100 * one.accuracy.high - y)]]
    style: dict[str, Any] = {"fmt": "o", "capsize": 3, "markersize": 7, "zorder": 3, "clip_on": False}
    axes.errorbar([x], [y], yerr=along, xerr=across, color=COLORS[one.name], **style)


def _labels(axes: Any, variants: Sequence[Variant]) -> None:
    """Draw each title beside its mark, with a line to it."""
    from matplotlib.patheffects import withStroke
    from matplotlib.text import Text

    obstacles, frame, scale = _obstacles(axes, variants), axes.get_window_extent().extents, axes.figure.dpi / 72
    for one in variants:
        mark, color = axes.transData.transform(_at(one)), COLORS[one.name]
        leader = {"arrowstyle": "-", "color": color, "alpha": 0.6, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 5}
        label = axes.annotate(TITLES[one.name], _at(one), (0, 0), textcoords="offset points", arrowprops=leader)
        halo = [withStroke(linewidth=3, foreground="white")]
        label.set(color=color, fontsize=9.5, fontweight="bold", in_layout=False, zorder=5, path_effects=halo)
        size = Text.get_window_extent(label).size  # without the line
        corner = _place(mark, size, scale, frame, obstacles)
        label.set_position((corner - mark) / scale)
        obstacles = np.vstack([obstacles, _filled(corner, size)])


def _place(mark: Any, size: Any, scale: float, frame: np.ndarray, obstacles: np.ndarray) -> np.ndarray:
    """Return the lower left corner [2] of a label of ``size`` [2] where it covers least, all in pixels; inside
    ``frame`` [4].
    """
    shift = {-1: 1.0, 0: 0.5, 1: 0.0}
    costs, corners = [], []
    for nearness, place in enumerate(PLACES):
        corner = mark + scale * np.array(place) - size * [shift[int(np.sign(way))] for way in place]
        covered = ((obstacles[:, :2] > corner - 3) & (obstacles[:, :2] < corner + size + 3)).all(axis=1)
        outside = (corner < frame[:2]).any() or (corner + size > frame[2:]).any()
        costs.append(nearness + 1000 * outside + obstacles[covered, 2].sum())
        corners.append(corner)
    return corners[int(np.argmin(costs))]


def _filled(corner: Any, size: Any) -> np.ndarray:
    """Return a rectangle as obstacles [n, 3]."""
    grid = product(np.linspace(0, 1, 24), np.linspace(0, 1, 5))
    return np.array([(*(corner + size * step), 20.0) for step in grid])


def _obstacles(axes: Any, variants: Sequence[Variant]) -> np.ndarray:
    """Return what labels should not cover, as points in pixels with weights [n, 3]: marks, crosses, the front,
    arrows.
    """
    lines: list[tuple[list[tuple[float, float]], float]] = [(_front_path(axes, variants), 2.0)]
    lines += [([_at(long), _at(one)], 0.3) for long, one in _moves(variants)]
    for one in variants:
        x, y = _at(one)
        lines.append(([(one.tokens.low, y), (one.tokens.high, y)], 4.0))
        lines.append(([(x, 100 * one.accuracy.low), (x, 100 * one.accuracy.high)], 4.0))
    rows = [np.empty((0, 3))]
    for corners, weight in lines:
        pixels = axes.transData.transform(corners) if corners else []
        for (x0, y0), (x1, y1) in pairwise(pixels):
            steps = np.linspace(0, 1, max(2, int(np.hypot(x1 - x0, y1 - y0) / 4)))[:, None]
            along = np.hstack([x0 + steps * (x1 - x0), y0 + steps * (y1 - y0)])
            rows.append(np.hstack([along, np.full_like(steps, weight)]))
    rows += [_filled(axes.transData.transform(_at(one)) - 9, np.array([18, 18])) for one in variants]
    return np.vstack(rows)
