"""The charts of a pretraining as data, over the tokens that were read. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from evals.report.page.choice import evenly
from evals.report.run.figures import Panel, Section, Series, Values, smooth
from recipes.pretrain.results import Result
from rl.pretraining_config import PretrainConfig
from rl.record.metrics import Row

POINTS = 400
"""Most steps that a line has."""
MEASURED = 100
"""Most measurements that a line of held-out losses has."""
PALETTE = 7
SMOOTHED = 100
"""Smoothed lines follow the steps as if there were so many of them, whatever their number."""


@dataclass(frozen=True)
class Course:
    """A pretraining as read from its folder."""

    name: str
    """Name of the folder."""
    facts: dict[str, Any]
    """``run.json``; empty when missing."""
    config: PretrainConfig | None
    """``None``: of another version."""
    config_text: str
    rows: Sequence[Row]
    """``metrics.jsonl``, by step."""
    result: Result | None
    """``None``: not finished."""
    parameters: int | None
    """Of the model; ``None`` when unknown."""
    notes: tuple[str, ...] = ()
    """What could not be read and is left out."""
    read: list[int] = field(init=False)
    """Tokens that were read after each step."""

    def __post_init__(self) -> None:
        """Add the tokens up."""
        object.__setattr__(self, "read", [*accumulate(row["tokens"] for row in self.rows)])

    @property
    def texts(self) -> list[str]:
        """Names of the texts that are measured."""
        if self.config is not None:
            return list(self.config.text)
        names = {
            found[1]: None for row in self.rows for key in row if (found := re.fullmatch("heldout/(.*)/loss", key))
        }
        return list(names | dict.fromkeys(self.result.heldout if self.result else ()))

    def measured(self) -> list[int]:
        """Return the steps before which there was a measurement, an even spread of them."""
        return evenly(
            [step for step, row in enumerate(self.rows) if any(key.startswith("heldout/") for key in row)], MEASURED
        )

    def shown(self) -> list[int]:
        """Return the steps that lines have: an even spread, the last one, and those after which was measured, so that
        one place of the pointer tells of all charts.
        """
        last = [len(self.rows) - 1] if self.rows else []
        return sorted({*evenly(range(len(self.rows)), POINTS), *last, *(step - 1 for step in self.measured() if step)})


def sections(course: Course) -> list[Section]:
    """Return all charts that there are data for."""
    parts = [("Loss", [_loss, _trailing]), ("Steps", [_rate, _grad_norm, _update_rms, _overload, _logits, _speed])]
    found = [Section(title, [panel for make in makers if _has_data(panel := make(course))]) for title, makers in parts]
    return [section for section in found if section.panels]


def _has_data(panel: Panel) -> bool:
    return any(value is not None for series in panel.series for value in series.y)


def _line(course: Course, name: str, key: str, color: int) -> list[Series]:
    return _of(course, name, [row.get(key) for row in course.rows], color, smoothed=False)


def _of(course: Course, name: str, values: Values, color: int, smoothed: bool = True) -> list[Series]:
    """Return a line over tokens, with its smoothed self before it; nothing where no step has it."""
    if not any(value is not None for value in values):
        return []
    steps = course.shown()
    x = [course.read[step] for step in steps]
    raw = [values[step] for step in steps]
    if not smoothed:
        return [Series(name, x, raw, color)]
    calm = smooth(values, min(0.3, max(0.01, SMOOTHED / len(values))))
    return [
        Series(name, x, raw, color, kind="faint", legend=False),
        Series(name, x, [calm[step] for step in steps], color),
    ]


def _held_out(course: Course, what: str) -> list[Series]:
    found = []
    for number, name in enumerate(course.texts):
        key = f"heldout/{name}/{what}"
        points = [
            (course.read[step] - course.rows[step]["tokens"], course.rows[step].get(key)) for step in course.measured()
        ]
        if course.result and course.rows and (end := course.result.heldout.get(name)):
            points.append((course.read[-1], end.loss if what == "loss" else end.positions[-1]))
        if points:
            x, y = zip(*points, strict=True)
            found.append(Series(name, x, y, number % PALETTE, kind="points"))
    return found


def _loss(course: Course) -> Panel:
    training = _of(course, "training", [row.get("loss") for row in course.rows], 5)
    note = "Nats per token: of the steps, smoothed, and of the held-out part of each text."
    return Panel("Training and held-out loss", note, "number", [*training, *_held_out(course, "loss")])


def _trailing(course: Course) -> Panel:
    note = "Nats per token at the last positions of a held-out sequence, where most of it can be looked back at."
    return Panel("Trailing loss", note, "number", _held_out(course, "trailing"))


def positions(course: Course) -> Panel | None:
    """Return the held-out losses by position, from the end of training; ``None`` when there are none."""
    if course.config is None or course.result is None:
        return None
    series = []
    for number, name in enumerate(course.texts):
        if (end := course.result.heldout.get(name)) is None:
            continue
        parts = np.array_split(np.arange(2, course.config.longest + 1), len(end.positions))
        middles = [round(float(part.mean())) for part in parts]
        series.append(Series(name, middles, end.positions, number % PALETTE, kind="points"))
    note = "Nats per token in stretches of a held-out sequence, at the end of training."
    return Panel("Loss by position", note, "number", series)


def _rate(course: Course) -> Panel:
    return Panel("Learning rate", "Of each step.", "number", _line(course, "learning rate", "lr", 0))


def _grad_norm(course: Course) -> Panel:
    series = _of(course, "norm", [row.get("grad_norm") for row in course.rows], 0)
    return Panel("Gradient norm", "Before clipping.", "number", series)


def _update_rms(course: Course) -> Panel:
    series = [*_line(course, "Muon", "update_rms/muon", 0), *_line(course, "AdamW", "update_rms/adamw", 1)]
    return Panel("Update size", "RMS of the update over the learning rate, by optimiser.", "number", series)


def _overload(course: Course) -> Panel:
    series = _of(course, "fullest expert", [row.get("experts/overload") for row in course.rows], 3)
    note = "By how much the fullest expert's tokens are above the mean, as a share of it; the worst layer of each step."
    return Panel("Overload of experts", note, "percent", series)


def _logits(course: Course) -> Panel:
    series = [
        *_line(course, "largest", "attention/largest_logit", 3),
        *_line(course, "heads above the bound", "attention/clipped_heads", 4),
    ]
    if series and course.config is not None and course.config.learner.qk_clip is not None:
        steps = series[0].x
        series.append(Series("bound", steps, [course.config.learner.qk_clip] * len(steps), 5))
    return Panel("Attention logits", "Largest of each step, and what QK-clip did.", "number", series)


def _speed(course: Course) -> Panel:
    speed = [row["tokens"] / row["seconds"] if row.get("seconds") else None for row in course.rows]
    note = "Tokens a second of the steps; held-out measurements do not count."
    return Panel("Throughput", note, "number", _of(course, "tokens a second", speed, 2))
