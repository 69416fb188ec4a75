"""The live view of a run: a picture on a terminal, or lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rl.record.finding import Finding
from rl.record.metrics import Row
from rollout.plain import one_line
from rollout.progress import Bar, Clock, Lines, console_on, grid, is_picture, row, spell

_BLOCKS = "▁▂▃▄▅▆▇█"
_ROWS = 10
_WARNINGS = 3
_FINDING_LINES = 4
"""Lines of the picture kept free for each finding."""


def sparkline(values: Sequence[float], low: float = 0.0, high: float = 1.0) -> str:
    """Return one block character per value, scaled to [low, high]; values outside are clipped."""
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round(top * min(max((v - low) / (high - low), 0.0), 1.0))] for v in values)


def iteration_line(row: Row, total: int) -> str:
    """Return an iteration as one plain line, for logs."""
    parts = [
        f"it {round(row['iteration']) + 1}/{total}",
        f"accuracy {_rate(row.get('accuracy'))}",
        f"reward {_number(row.get('reward/mean'))}",
        f"tokens {_number(row.get('length/mean'), 0)}",
        f"loss {_number(row.get('loss'))}",
        f"log-ratio {_number(row.get('logratio/mean'))}±{_number(row.get('logratio/std'))}",
        f"{_number(row.get('throughput/sampled'), 0)} tok/s",
        f"unfinished {_number(row.get('rollouts/unfinished'), 0)}",
        f"{_number(row.get('time/total'), 1)} s",
    ]
    return "  ".join(parts + trouble(row))


def trouble(row: Row) -> list[str]:
    """Return the troubles of an iteration, with their numbers; none when all is well."""
    return [f"{row[name]:.0f} {words}" for name, words in _TROUBLE if row.get(name)]


class LiveView:
    """The view of one run. All text from outside is made visible and put on one line before it is shown.

    With ``live`` and a terminal it redraws in place; otherwise it prints a line per iteration, evaluation, finding and
    warning, and ``rollout.progress.Lines`` in between. Used as a context manager, or closed with ``close``.
    """

    def __init__(
        self,
        run: str,
        model: str,
        iterations: int,
        start: int = 0,
        live: bool = True,
        console: Console | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Make the view; ``run`` and ``model`` head it; of ``iterations`` in all, ``start`` are already done."""
        self._run, self._model = one_line(run, 80), one_line(model, 80)
        self._total, self._done = iterations, start
        self._console = console or console_on("stdout")
        self._clock = clock
        self._began = clock()
        self._spent: list[float] = []
        self._tokens = 0
        self._rows: list[Row] = []
        self._evaluations: list[tuple[str, float, float, float]] = []
        self._findings: list[str] = []
        self._warnings: list[str] = []
        self._notes: list[str] = []
        self._closed = False
        if live and is_picture(self._console):
            self._view: Bar | Lines = Bar(self._console, clock, picture=self)
        else:
            self._view = Lines(self._console, clock, self._outlook)
        self._log(f"{self._run}: {self._model}, iterations {start}..{iterations}")
        self._view.__enter__()

    def __enter__(self) -> LiveView:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stage(self, name: str, total: int | None = None, earlier: int = 0) -> None:
        """Begin a phase; see ``rollout.progress.Progress``."""
        self._view.stage(name, total, earlier)

    def advance(self, n: int, tokens: int = 0) -> None:
        """Count ``n`` more units of the current phase as done."""
        self._view.advance(n, tokens)

    def say(self, text: str) -> None:
        """Set the text beside the current phase."""
        self._view.say(text)

    def iteration(self, row: Row) -> None:
        """An iteration is complete; its metrics by name."""
        self._view.end()
        if "time/total" in row:
            self._spent = [*self._spent[-19:], row["time/total"]]
        self._done = round(row["iteration"]) + 1
        self._tokens += round(row.get("tokens/sampled", 0))
        self._rows = [*self._rows[-(_ROWS - 1) :], row]
        self._log(iteration_line(row, self._total))

    def evaluation(self, name: str, mean: float, low: float, high: float) -> None:
        """Show a held-out evaluation: accuracy and its 95 % interval, in [0, 1]."""
        self._evaluations = [*self._evaluations, (one_line(name, 20), mean, low, high)]
        self._view.end()
        self._log(f"held-out {one_line(name, 20)}: {_rate(mean)} [{_rate(low)}, {_rate(high)}]")

    def finding(self, finding: Finding) -> None:
        """Show that the run cannot work as it is, or has not worked; stays in the picture."""
        line = one_line(finding.text, 600)
        self._findings = [*self._findings, line]
        self._log(f"attention: {line}")

    def warn(self, text: str) -> None:
        """Show a fault that the run survives."""
        line = one_line(text)
        self._warnings = [*self._warnings[-(_WARNINGS - 1) :], line]
        self._log(f"warning: {line}")

    def note(self, text: str) -> None:
        """Show the outcome of a stage, and end that."""
        self._notes = [*self._notes, one_line(text)]
        self._view.end()
        self._log(self._notes[-1])

    def close(self) -> None:
        """Leave the last picture standing. Idempotent."""
        self._view.end()
        self._closed = True
        self._view.close()

    def _left(self) -> float | None:
        """Return the seconds that the rest of the iterations takes; ``None`` before the first and after the last
        one.
        """
        open_ = self._total - self._done
        return open_ * sum(self._spent) / len(self._spent) if self._spent and open_ > 0 else None

    def _outlook(self) -> str:
        """Return the text behind the line of a phase."""
        left = self._left()
        return "" if left is None else f"{self._done}/{self._total} iterations, about {spell(left)} left"

    def _log(self, line: str) -> None:
        """Print a line of the log; the picture shows its content anyway."""
        if isinstance(self._view, Lines):
            self._view.print(line)

    def __rich__(self) -> RenderableType:
        """Return the whole picture; called from the refresh thread, so it only reads."""
        parts: list[RenderableType] = [self._progress()]
        if self._rows:
            parts += [Text(), self._table()]
            if found := trouble(self._rows[-1]):
                parts.append(Text(", ".join(found), style="yellow"))
        if self._evaluations:
            parts += [Text(), self._held_out()]
        parts += [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in self._notes]
        parts += [Text(f"! {line}", style="bold yellow") for line in self._findings]
        parts += [Text(f"! {line}", style="yellow", no_wrap=True, overflow="ellipsis") for line in self._warnings]
        title = Text.assemble((self._run, "bold"), f"  {self._model}")
        return Panel(Group(*parts), title=title, title_align="left", border_style="cyan", padding=(0, 1))

    def _progress(self) -> Table:
        table, now, left, current = grid(), self._clock(), self._left(), self._view.current
        eta = "" if left is None else f", about {spell(left)} left"
        table.add_row(
            Text("iterations", style="bold"),
            ProgressBar(total=max(1, self._total), completed=self._done),
            Text(f"{self._done}/{self._total}, {self._tokens:,} tokens, {spell(now - self._began)}{eta}"),
        )
        if current:
            table.add_row(*row(current, now))
        else:
            table.add_row(Text("stopped" if self._closed else "waiting", style="dim"), "", "")
        return table

    def _table(self) -> Table:
        table = Table(box=None, expand=True, padding=(0, 1), header_style="dim")
        columns = _COLUMNS if self._console.width >= 96 else _COLUMNS[:_FIRST]
        for name, _ in columns:
            table.add_column(name, justify="right", no_wrap=True)
        rest = 12 + _FINDING_LINES * len(self._findings)
        rows = self._rows[-max(1, min(_ROWS, self._console.height - rest)) :]
        for shown in rows:
            table.add_row(*(cell(shown) for _, cell in columns), style="bold" if shown is rows[-1] else "")
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


_COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("it", lambda row: str(round(row["iteration"]) + 1)),
    ("accuracy", lambda row: _rate(row.get("accuracy"))),
    ("reward", lambda row: _number(row.get("reward/mean"))),
    ("tokens", lambda row: _number(row.get("length/mean"), 0)),
    ("tok/s", lambda row: _number(row.get("throughput/sampled"), 0)),
    ("unfinished", lambda row: _number(row.get("rollouts/unfinished"), 0)),
    ("loss", lambda row: _number(row.get("loss"))),
    ("resumed", lambda row: _number(row.get("rollouts/resumed"), 0)),
    ("log-ratio", lambda row: f"{_number(row.get('logratio/mean'))}±{_number(row.get('logratio/std'))}"),
    ("s", lambda row: _number(row.get("time/total"), 1)),
)
"""Columns of the table, the dispensable ones last."""
_FIRST = 6
"""Columns that a narrow terminal shows."""
_TROUBLE = (
    ("rollouts/ungradable", "ungradable"),
    ("stop/aborted", "aborted"),
    ("steps/skipped", "steps skipped"),
    ("engines/failures", "engines lost so far"),
    ("engines/given_up", "engines given up"),
    ("nonfinite", "numbers not finite"),
)
"""Metrics that are 0 when all is well, in words."""
