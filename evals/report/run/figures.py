"""The charts of the report as data, without their drawing. Pure functions from a run to panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from evals.report.run.data import RunData
from evals.report.run.lanes import COLORS
from rl.record.metrics import PHASES

Values = Sequence[float | None]


@dataclass(frozen=True)
class Series:
    """One quantity over iterations. All sequences are equally long."""

    name: str
    x: Sequence[float]
    """Iteration of each value."""
    y: Values
    color: int
    """Index into the page's palette."""
    low: Values | None = None
    """Lower ends of an interval around ``y``."""
    high: Values | None = None
    """Upper ends of it."""
    kind: Literal["line", "points", "faint"] = "line"
    """``points``: markers with error bars, joined. ``faint``: raw values behind a smoothed line."""
    legend: bool = True


@dataclass(frozen=True)
class Panel:
    """One chart."""

    title: str
    note: str
    """One sentence that says what the chart shows and in which unit."""
    format: Literal["percent", "number", "seconds", "count"]
    series: list[Series] = field(default_factory=list)
    stacked: bool = False
    log: bool = False
    """Logarithmic y axis (zeros are left out)."""
    span: tuple[float, float] | None = None
    """Fixed y axis; ``None``: from the data."""


@dataclass(frozen=True)
class Section:
    """Panels under one heading."""

    title: str
    panels: list[Panel]


def smooth(values: Values, weight: float = 0.15) -> list[float | None]:
    """Return the exponential moving average without start-up bias; gaps stay gaps."""
    total = norm = 0.0
    out: list[float | None] = []
    for value in values:
        if value is None:
            out.append(None)
            continue
        total = (1 - weight) * total + weight * value
        norm = (1 - weight) * norm + weight
        out.append(total / norm)
    return out


def sections(run: RunData) -> list[Section]:
    """Return all charts that the run has data for."""
    update = [_loss, _logratio, _gap, _entropy, _grad_norm, _update_rms, _held_back, _importance, _attention]
    parts = [
        ("Learning", [_accuracy, _length, _reward, _groups, _stops, _fates, _diversity]),
        ("Reward model", [_agreement, _alone, _labelled, _opinions]),
        ("Policy update", [*update, _length_weight]),
        (
            "Partial rollouts, speed and engines",
            [_resumed, _turns, _versions, _throughput, _time, _idle, _publish, _engines],
        ),
    ]
    found = [Section(title, [p for p in (make(run) for make in makers) if _has_data(p)]) for title, makers in parts]
    return [section for section in found if section.panels]


def _has_data(panel: Panel) -> bool:
    return any(value is not None for series in panel.series for value in series.y)


def _x(run: RunData) -> list[float]:
    return [row["iteration"] for row in run.rows]


def _line(run: RunData, name: str, key: str, color: int) -> Series:
    return Series(name, _x(run), run.column(key), color)


def _smoothed(run: RunData, name: str, key: str, color: int) -> list[Series]:
    raw = run.column(key)
    return [
        Series(name, _x(run), raw, color, kind="faint", legend=False),
        Series(name, _x(run), smooth(raw), color),
    ]


def _with_data(series: list[Series]) -> list[Series]:
    return [item for item in series if any(value is not None for value in item.y)]


def _nonzero(series: list[Series]) -> list[Series]:
    return [item for item in series if any(item.y)]


def _agreement(run: RunData) -> Panel:
    return Panel(
        "Agreement of reward model and rule",
        "Share of the responses judged by both on which they say the same; below the alarm line the policy may have "
        "learnt to please the model.",
        "percent",
        _watched(run, _smoothed(run, "with the rule", "reward/agreement", 0)),
        span=(0.0, 1.0),
    )


def _watched(run: RunData, series: list[Series]) -> list[Series]:
    """Return an agreement with the line of the alarm, where there is one."""
    if run.alarm is None or not _with_data(series):
        return _with_data(series)
    return [*series, Series("alarm", _x(run), [run.alarm.least] * len(run.rows), 3)]


def _alone(run: RunData) -> Panel:
    series = [
        *_smoothed(run, "right by the model alone", "reward/false_right", 3),
        *_smoothed(run, "right by the rule alone", "reward/false_wrong", 5),
    ]
    return Panel("Where they disagree", "Shares of the same responses.", "percent", _with_data(series))


def _labelled(run: RunData) -> Panel:
    return Panel(
        "Agreement of reward model and labels",
        "On held-out labelled responses (reward.model.labelled).",
        "percent",
        _watched(run, _smoothed(run, "with the labels", "reward/labelled_agreement", 0)),
        span=(0.0, 1.0),
    )


def _opinions(run: RunData) -> Panel:
    series = [
        _line(run, "asked about", "grader/model/asked", 0),
        _line(run, "no opinion", "grader/model/no_opinion", 3),
    ]
    return Panel("Opinions", "Responses that the reward model was asked about.", "count", _with_data(series))


def _accuracy(run: RunData) -> Panel:
    evals = run.evaluations
    train = run.column("accuracy")
    series = [
        # The interval belongs to the raw value of each iteration, so both are smoothed alike.
        Series("training", _x(run), train, 0, kind="faint", legend=False),
        Series(
            "training (smoothed, 95 %)",
            _x(run),
            smooth(train),
            0,
            low=smooth(run.column("accuracy/low")),
            high=smooth(run.column("accuracy/high")),
        ),
        Series(
            "held-out (95 %)",
            [item.iteration for item in evals],
            [item.accuracy.mean for item in evals],
            1,
            low=[item.accuracy.low for item in evals],
            high=[item.accuracy.high for item in evals],
            kind="points",
        ),
        Series(
            "held-out, greedy",
            [item.iteration for item in evals if item.greedy],
            [item.greedy.mean for item in evals if item.greedy],
            2,
            low=[item.greedy.low for item in evals if item.greedy],
            high=[item.greedy.high for item in evals if item.greedy],
            kind="points",
        ),
    ]
    note = "Share of correct responses: sampled training rollouts, and held-out problems with 95 % intervals."
    return Panel("Accuracy", note, "percent", _with_data(series), span=(0.0, 1.0))


def _length(run: RunData) -> Panel:
    evals = run.evaluations
    mean = Series(
        "mean (95 %)", _x(run), run.column("length/mean"), 0, run.column("length/low"), run.column("length/high")
    )
    held_out = Series(
        "held-out (95 %)",
        [item.iteration for item in evals],
        [item.tokens.mean for item in evals],
        1,
        low=[item.tokens.low for item in evals],
        high=[item.tokens.high for item in evals],
        kind="points",
    )
    series = [mean, _line(run, "median", "length/median", 3), _line(run, "longest", "length/max", 5), held_out]
    return Panel("Response length", "Tokens of finished responses.", "number", _with_data(series))


def _reward(run: RunData) -> Panel:
    names = sorted({key for row in run.rows for key in row if key.startswith("reward/part/")})
    series = [
        *_smoothed(run, "reward", "reward/mean", 0),
        *_smoothed(run, "length reward", "reward/length_mean", 4),
        *(_line(run, name.removeprefix("reward/part/"), name, 1 + i % 3) for i, name in enumerate(names)),
    ]
    note = "Means over unmasked rollouts; the verifier's parts by name."
    return Panel("Reward and its parts", note, "number", series)


def _groups(run: RunData) -> Panel:
    finished = run.column("groups/finished")
    right, wrong = run.column("groups/all_right"), run.column("groups/all_wrong")
    mixed = [None if n is None else n - (r or 0) - (w or 0) for n, r, w in zip(finished, right, wrong, strict=True)]
    series = [
        Series("all right", _x(run), _share(right, finished), 2),
        Series("mixed: carries the signal", _x(run), _share(mixed, finished), 0),
        Series("all wrong", _x(run), _share(wrong, finished), 3),
    ]
    return Panel("Groups", "Finished groups by outcome of their rollouts.", "percent", series, True, span=(0.0, 1.0))


def _stops(run: RunData) -> Panel:
    finished = run.column("rollouts/finished")
    reasons = [("by itself (eos)", "eos", 2), ("length cap", "length", 1), ("repetition", "repetition", 3)]
    reasons.append(("aborted", "aborted", 5))
    series = [Series(name, _x(run), _share(run.column(f"stop/{key}"), finished), c) for name, key, c in reasons]
    return Panel(
        "Why rollouts stopped", "Share of finished rollouts.", "percent", _nonzero(series), True, span=(0.0, 1.0)
    )


def _share(part: Values, whole: Values) -> list[float | None]:
    return [p / w if p is not None and w else None for p, w in zip(part, whole, strict=True)]


def _loss(run: RunData) -> Panel:
    series = [
        *_smoothed(run, "mean", "loss", 0),
        _line(run, "first step", "loss/first", 4),
        _line(run, "last step", "loss/last", 1),
    ]
    return Panel("Loss", "The objective as minimised, by step of the iteration.", "number", _with_data(series))


def _held_back(run: RunData) -> Panel:
    series = [_line(run, "saturated", "saturated", 3), _line(run, "clipped", "clip_share", 1)]
    note = "Saturated: sequences on which the regulariser outweighs the advantage. Clipped: by ratio."
    return Panel("Held back", note, "percent", _with_data(series))


def _importance(run: RunData) -> Panel:
    series = [
        _line(run, "mean weight", "importance/mean", 0),
        _line(run, "effective share", "importance/ess", 1),
        _line(run, "truncated", "importance/truncated", 3),
        _line(run, "effective share without truncation", "off_policy/ess", 4),
    ]
    return Panel("Importance weights", "Of the trained tokens.", "number", _with_data(series))


def _attention(run: RunData) -> Panel:
    series = [
        _line(run, "computed", "attention/density", 0),
        _line(run, "tokens that see all", "attention/full_share", 1),
    ]
    return Panel("Block attention", "Share of full causal attention.", "percent", _with_data(series))


def _fates(run: RunData) -> Panel:
    finished = run.column("rollouts/finished")
    fates = [("trained on", "trained", 0), ("ungradable or aborted", "masked", 3), ("too old", "stale", 1)]
    fates.append(("group too small", "small_groups", 5))
    series = [Series(name, _x(run), _share(run.column(f"sequences/{key}"), finished), c) for name, key, c in fates]
    note = "Finished rollouts: in the batch, or why not."
    return Panel("Trained or left out", note, "percent", _nonzero(series), True, span=(0.0, 1.0))


def _diversity(run: RunData) -> Panel:
    series = [
        *_smoothed(run, "all responses to a problem", "diversity/spread", 0),
        *_smoothed(run, "right ones", "diversity/right_spread", 2),
        *_smoothed(run, "wrong ones", "diversity/wrong_spread", 3),
        _line(run, "to different problems", "diversity/across", 4),
    ]
    note = "0: all are alike; 1: they differ in everything. The alarm goes by the last two."
    return Panel("Spread of responses", note, "percent", _with_data(series), span=(0.0, 1.0))


def _publish(run: RunData) -> Panel:
    series = [_line(run, "engines", "publish/seconds", 0), _line(run, "whole phase", "time/publish", 1)]
    note = "Wall seconds to bring new weights to the engines, parity probe included."
    return Panel("Publish", note, "seconds", _with_data(series))


def _engines(run: RunData) -> Panel:
    series = [
        _line(run, "serving", "engines/alive", 2),
        _line(run, "lost so far", "engines/failures", 3),
        _line(run, "given up", "engines/given_up", 5),
    ]
    return Panel("Engines", "Losses are counted from the start of the process.", "count", _with_data(series))


def _logratio(run: RunData) -> Panel:
    mean, std = run.column("logratio/mean"), run.column("logratio/std")

    def shifted(sign: int) -> list[float | None]:
        return [m + sign * s if m is not None and s is not None else m for m, s in zip(mean, std, strict=True)]

    series = [Series("mean ± std", _x(run), mean, 0, shifted(-1), shifted(1))]
    series.append(_line(run, "largest |value|", "logratio/max", 5))
    note = "log π/πᵢ of whole responses at the last step, in nats: how far the iteration had moved the policy by then."
    return Panel("Log-ratio", note, "number", _with_data(series))


def _gap(run: RunData) -> Panel:
    series = [_line(run, "probe, largest", "probe/max_gap", 3), _line(run, "rollouts, largest", "gap/max", 1)]
    series.append(_line(run, "rollouts, mean", "gap/mean", 0))
    note = "|engine − learner| log-probability per token, in nats, log scale."
    return Panel("Engine and learner agree", note, "number", _with_data(series), log=True)


def _entropy(run: RunData) -> Panel:
    return Panel("Entropy", "Next-token entropy, in nats.", "number", _smoothed(run, "entropy", "entropy", 0))


def _grad_norm(run: RunData) -> Panel:
    series = _smoothed(run, "norm", "grad_norm", 0)
    return Panel("Gradient norm", "Before clipping, mean over the iteration's steps.", "number", series)


def _update_rms(run: RunData) -> Panel:
    series = [_line(run, "Muon", "update_rms/muon", 0), _line(run, "AdamW", "update_rms/adamw", 1)]
    note = "RMS of the update over the learning rate, by optimiser."
    return Panel("Update size", note, "number", _with_data(series))


def _length_weight(run: RunData) -> Panel:
    series = [_line(run, "w", "length_weight", 4)]
    return Panel("Length-reward weight", "Off during its warm-up, then constant.", "number", _with_data(series))


def _resumed(run: RunData) -> Panel:
    series = [
        _line(run, "continued from before", "rollouts/resumed", 1),
        _line(run, "left unfinished", "rollouts/unfinished", 4),
        _line(run, "finished", "rollouts/finished", 0),
    ]
    return Panel("Partial rollouts", "Rollouts per iteration.", "count", _with_data(series))


def _turns(run: RunData) -> Panel:
    series = [_line(run, "most", "turns/max", 5), _line(run, "mean", "turns/mean", 0)]
    note = "Turns of the policy in a finished rollout; between them its environment answers."
    return Panel("Turns", note, "number", _with_data(series))


def _versions(run: RunData) -> Panel:
    series = [
        _line(run, "most", "rollouts/versions_max", 5),
        _line(run, "mean", "rollouts/versions_mean", 0),
        _line(run, "mean token age", "staleness/mean", 3),
        _line(run, "mean age of trained rollouts", "staleness/oldest_mean", 4),
    ]
    note = "Weight versions inside a finished rollout, and the age of its tokens in versions."
    return Panel("Weight versions per rollout", note, "number", _with_data(series))


def _throughput(run: RunData) -> Panel:
    series = [
        *_smoothed(run, "sampled", "throughput/sampled", 0),
        *_smoothed(run, "trained", "throughput/trained", 1),
    ]
    return Panel("Throughput", "Tokens per second of the phase.", "number", series)


def _idle(run: RunData) -> Panel:
    series = [_line(run, "engines", "idle/engines", 0), _line(run, "learner", "idle/learner", 1)]
    note = "Part of each iteration's wall time with nothing to do; of several engines the mean."
    return Panel("Idle", note, "percent", _with_data(series), span=(0.0, 1.0))


def _time(run: RunData) -> Panel:
    series = [_line(run, phase, f"time/{phase}", COLORS[what]) for phase, what in PHASES.items()]
    return Panel("Time per phase", "Wall seconds of each iteration.", "seconds", _nonzero(series), stacked=True)
