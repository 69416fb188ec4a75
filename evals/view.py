"""The view of an evaluation that is going on: its progress and the score so far."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console

from evals.evaluate import Answer, Response, Watch
from rollout.progress import Clock, progress


class EvalView:
    """Progress of one benchmark in graded answers, ``on_record`` of them drawn earlier; use as a context manager."""

    def __init__(
        self, title: str, total: int, on_record: int, console: Console | None = None, clock: Clock = time.monotonic
    ) -> None:
        self._title, self._total, self._on_record = title, total, on_record
        self._graded = self._right = self._ungradable = 0
        self._view = progress(console, clock)

    def __enter__(self) -> Self:
        resumed = f", {self._on_record} of them on record" if self._on_record else ""
        self._view.__enter__()
        self._view.stage(self._title, self._total, self._on_record)
        self._view.say("waiting for the first response")
        self._view.announce(f"{self._title}: {self._total} responses{resumed}")
        return self

    def __exit__(self, *_: object) -> None:
        self._view.close()

    @property
    def watch(self) -> Watch:
        """The callbacks for ``evaluate``."""
        return Watch(self._on_response, self._on_answer)

    def passed(self, n: int) -> None:
        """Count ``n`` responses as done that nobody has to see: those of an earlier process, or that are not drawn."""
        self._view.advance(n)

    def say(self, text: str) -> None:
        """Show a text in the place of the score, until there is a newer one."""
        self._view.say(text)

    def _on_response(self, response: Response) -> None:
        self._view.advance(0, response.tokens or 0)

    def _on_answer(self, answer: Answer) -> None:
        self._graded += answer.score.gradable
        self._right += answer.score.correct
        self._ungradable += not answer.score.gradable
        score = f"score {100 * self._right / self._graded:.1f} %" if self._graded else "score -"
        self._view.say(score + (f", {self._ungradable} ungradable" if self._ungradable else ""))
        self._view.advance(1)
