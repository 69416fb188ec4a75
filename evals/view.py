"""What a person sees while an evaluation goes on: a bar with the time left and the running score, or plain lines."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from evals.evaluate import Answer, Response, Watch

LINE_EVERY_S = 15.0
"""Where the output is no terminal."""


class EvalView:
    """Progress of one benchmark in graded answers, ``on_record`` of them drawn earlier; use as a context manager."""

    def __init__(self, title: str, total: int, on_record: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._title, self._total, self._on_record = title, total, on_record
        self._graded = self._right = self._ungradable = self._tokens = 0
        self._began = self._spoke = time.monotonic()
        self._progress: Progress | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[score]}", markup=False),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task(title, total=total, score="")

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        resumed = f", {self._on_record} of them on record" if self._on_record else ""
        self._say(f"{self._title}: {self._total} responses{resumed}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()
        elif kind is None:
            self._line()

    @property
    def watch(self) -> Watch:
        """The hooks of ``evaluate``."""
        return Watch(self._on_response, self._on_answer)

    def _on_response(self, response: Response) -> None:
        self._tokens += response.tokens or 0
        self._show()

    def _on_answer(self, answer: Answer) -> None:
        self._graded += answer.score.gradable
        self._right += answer.score.correct
        self._ungradable += not answer.score.gradable
        self._show()

    @property
    def _done(self) -> int:
        return self._graded + self._ungradable

    def _score(self) -> str:
        score = f"score {100 * self._right / self._graded:.1f} %" if self._graded else "score -"
        return score + (f", {self._ungradable} ungradable" if self._ungradable else "")

    def _show(self) -> None:
        if self._progress:
            self._progress.update(self._task, completed=self._done, score=self._score())
        elif time.monotonic() - self._spoke > LINE_EVERY_S:
            self._line()

    def _line(self) -> None:
        self._spoke = now = time.monotonic()
        spent = now - self._began
        rate = f", {self._tokens / spent:.0f} tok/s" if self._tokens and spent > 1 else ""
        open_, fresh = self._total - self._done, self._done - self._on_record
        left = f", about {spent * open_ / fresh:.0f} s left" if fresh > 0 and open_ else ""
        self._say(f"{self._title}: {self._done}/{self._total}, {self._score()}, {spent:.0f} s{rate}{left}")

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)
