"""What a person sees while a run goes on: a live terminal view, or lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rl.metrics import IterationMetrics
from rollout.plain import one_line

_BLOCKS = "▁▂▃▄▅▆▇█"
_ROWS = 10
_WARNINGS = 3


def sparkline(values: Sequence[float], low: float = 0.0, high: float = 1.0) -> str:
    """One block character per value, scaled to [low, high]; values outside are clipped."""
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round(top * min(max((v - low) / (high - low), 0.0), 1.0))] for v in values)


def clock(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def iteration_line(m: IterationMetrics, total: int) -> str:
    """An iteration on one plain line, for logs."""
    parts = [
        f"it {m.iteration + 1}/{total}",
        f"accuracy {_rate(m.accuracy)}",
        f"reward {_number(m.reward_mean)}",
        f"tokens {_number(m.length_mean, 0)}",
        f"log-ratio {_number(m.logratio_mean)}±{_number(m.logratio_std)}",
        f"{_number(m.throughput_sampled, 0)} tok/s",
        f"unfinished {m.rollouts_unfinished}",
        f"{_number(m.time_total, 1)} s",
    ]
    trouble = [(m.rollouts_ungradable, "ungradable"), (m.stop_aborted, "aborted"), (m.steps_skipped, "steps skipped")]
    return "  ".join(parts + [f"{count} {what}" for count, what in trouble if count])


@dataclass(frozen=True)
class _Stage:
    name: str
    total: int
    done: int = 0


class LiveView:
    """The view of one run. All text from outside is made visible and put on one line before it is shown.

    With ``live`` and a terminal it redraws in place; otherwise it prints one line per iteration, evaluation and
    warning. Used as a context manager, or closed with ``close``.
    """

    def __init__(
        self, run: str, model: str, iterations: int, start: int = 0, live: bool = True, console: Console | None = None
    ) -> None:
        """``run`` and ``model`` head the view; of ``iterations`` in all, ``start`` are already done."""
        self._run, self._model = one_line(run, 80), one_line(model, 80)
        self._total, self._start, self._done = iterations, start, start
        self._console = console or Console(highlight=False)
        self._began = self._last = time.monotonic()
        self._spent: list[float] = []
        self._stage: _Stage | None = None
        self._tokens = 0
        self._rows: list[IterationMetrics] = []
        self._evaluations: list[tuple[str, float, float, float]] = []
        self._warnings: list[str] = []
        self._closed = False
        self._live: Live | None = None
        if live and self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(self, console=self._console, refresh_per_second=4)
            self._live.start()
        else:
            self._say(f"{self._run}: {self._model}, iterations {start}..{iterations}")

    def __enter__(self) -> LiveView:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stage(self, name: str, total: int) -> None:
        """A phase begins: ``total`` units of it are to come (rollouts, steps, responses)."""
        self._stage = _Stage(one_line(name, 40), total)

    def advance(self, n: int) -> None:
        """``n`` more units of the current phase are done."""
        if self._stage:
            self._stage = _Stage(self._stage.name, self._stage.total, self._stage.done + n)

    def iteration(self, metrics: IterationMetrics) -> None:
        """An iteration is complete."""
        now = time.monotonic()
        self._spent, self._last = [*self._spent[-19:], now - self._last], now
        self._done = metrics.iteration + 1
        self._tokens += metrics.tokens_sampled
        self._rows = [*self._rows[-(_ROWS - 1) :], metrics]
        self._stage = None
        if not self._live:
            self._say(iteration_line(metrics, self._total))

    def evaluation(self, name: str, mean: float, low: float, high: float) -> None:
        """A held-out evaluation: accuracy and its 95 % interval, in [0, 1]."""
        self._evaluations = [*self._evaluations, (one_line(name, 20), mean, low, high)]
        self._stage = None
        if not self._live:
            self._say(f"held-out {one_line(name, 20)}: {_rate(mean)} [{_rate(low)}, {_rate(high)}]")

    def warn(self, text: str) -> None:
        """Something went wrong that the run survives."""
        line = one_line(text)
        self._warnings = [*self._warnings[-(_WARNINGS - 1) :], line]
        if not self._live:
            self._say(f"warning: {line}")

    def close(self) -> None:
        """Leave the last picture standing. Idempotent."""
        if self._live:
            self._stage, self._closed = None, True
            self._live.stop()
            self._live = None

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def __rich__(self) -> RenderableType:
        """The whole picture; called from the refresh thread, so it only reads."""
        parts: list[RenderableType] = [self._progress()]
        if self._rows:
            parts += [Text(), self._table()]
        if self._evaluations:
            parts += [Text(), self._held_out()]
        parts += [Text(f"! {line}", style="yellow", no_wrap=True, overflow="ellipsis") for line in self._warnings]
        title = Text.assemble((self._run, "bold"), f"  {self._model}")
        return Panel(Group(*parts), title=title, title_align="left", border_style="cyan", padding=(0, 1))

    def _progress(self) -> Table:
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(width=12, no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(justify="right", no_wrap=True)
        elapsed = clock(time.monotonic() - self._began)
        left = (self._total - self._done) * sum(self._spent) / len(self._spent) if self._spent else None
        eta = "" if left is None or self._done >= self._total else f"  about {clock(left)} left"
        grid.add_row(
            Text("iterations", style="bold"),
            ProgressBar(total=max(1, self._total), completed=self._done),
            Text(f"{self._done}/{self._total}  {elapsed}{eta}"),
        )
        stage = self._stage
        if stage:
            grid.add_row(
                Text(stage.name),
                ProgressBar(total=max(1, stage.total), completed=min(stage.done, stage.total)),
                Text(f"{stage.done}/{stage.total}  {self._tokens:,} tokens"),
            )
        else:
            grid.add_row(
                Text("stopped" if self._closed else "waiting", style="dim"), "", Text(f"{self._tokens:,} tokens")
            )
        return grid

    def _table(self) -> Table:
        table = Table(box=None, expand=True, padding=(0, 1), header_style="dim")
        columns = _COLUMNS if self._console.width >= 88 else _COLUMNS[:6]
        for name, _ in columns:
            table.add_column(name, justify="right", no_wrap=True)
        rows = self._rows[-max(1, min(_ROWS, self._console.height - 12)) :]
        for m in rows:
            table.add_row(*(cell(m) for _, cell in columns), style="bold" if m is rows[-1] else "")
        return table

    def _held_out(self) -> Text:
        name, mean, low, high = self._evaluations[-1]
        return Text.assemble(
            ("held-out ", "dim"),
            (sparkline([item[1] for item in self._evaluations[-40:]]), "green"),
            f"  {name} ",
            (_rate(mean), "bold green"),
            f" [{_rate(low)}, {_rate(high)}]",
        )


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


_COLUMNS: tuple[tuple[str, Callable[[IterationMetrics], str]], ...] = (
    ("it", lambda m: str(m.iteration + 1)),
    ("accuracy", lambda m: _rate(m.accuracy)),
    ("reward", lambda m: _number(m.reward_mean)),
    ("tokens", lambda m: _number(m.length_mean, 0)),
    ("tok/s", lambda m: _number(m.throughput_sampled, 0)),
    ("unfinished", lambda m: str(m.rollouts_unfinished)),
    ("resumed", lambda m: str(m.rollouts_resumed)),
    ("log-ratio", lambda m: f"{_number(m.logratio_mean)}±{_number(m.logratio_std)}"),
    ("s", lambda m: _number(m.time_total, 1)),
)
"""Columns of the table, the dispensable ones last."""
