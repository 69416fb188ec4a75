"""rollout.progress: how far a long stage has come, with a clock of our own."""

from __future__ import annotations

import io
import sys
import threading

import pytest
from rich.console import Console

from rollout.progress import LINE_EVERY_S, Bar, Lines, Stage, console_on, details, progress, spell, waiting


class Time:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, view: Lines, seconds: int) -> None:
        """Let time go by; the view's thread looks once a second."""
        for _ in range(seconds):
            self.now += 1
            view.tick()


def lines(outlook: str = "") -> tuple[Lines, Time, io.StringIO]:
    out, clock = io.StringIO(), Time()
    return Lines(Console(file=out, width=40, highlight=False), clock, lambda: outlook), clock, out


def test_a_stage_without_news_is_heard_of_at_least_every_15_s() -> None:
    view, clock, out = lines()
    view.stage("starting Ray and engines")
    clock.pass_(view, 40)
    assert out.getvalue().splitlines() == [f"starting Ray and engines: {s} s so far" for s in (12, 24, 36)]
    assert LINE_EVERY_S < 15


def test_a_line_has_step_loss_and_time_left() -> None:
    view, clock, out = lines("4/36 iterations, about 5 min 20 s left")
    view.stage("warm-up", 100)
    for step in range(12):
        view.say(f"loss {3 - 0.1 * step:.3f}")
        view.advance(1)
        clock.pass_(view, 1)
    assert out.getvalue() == (
        "warm-up: 12/100, loss 1.900, 12 s, about 88 s left; 4/36 iterations, about 5 min 20 s left\n"
    )


def test_short_stages_say_nothing_and_one_that_has_spoken_says_its_end() -> None:
    view, clock, out = lines()
    for name in ("generate", "score", "train"):
        view.stage(name, 8)
        view.advance(8)
        clock.pass_(view, 3)
    assert out.getvalue() == ""
    view.stage("evaluate", 2)
    clock.pass_(view, 10)
    view.advance(1, tokens=2600)
    clock.pass_(view, 3)
    view.advance(1)
    view.stage("export")
    view.close()
    assert out.getvalue().splitlines() == [
        "evaluate: 0/2, 3 s",  # twelve seconds after the last word of all
        "evaluate: 2/2, 13 s, 200 tok/s",
    ]


def test_any_other_line_puts_the_next_one_off() -> None:
    view, clock, out = lines()
    view.stage("generate", 8)
    clock.pass_(view, 8)
    view.warn("engine 0 \x1b[31mdied\r\nrestarted \u202e")
    clock.pass_(view, 11)
    assert out.getvalue() == "warning: engine 0 ‹U+001B›[31mdied restarted ‹U+202E›\n"
    clock.pass_(view, 1)
    assert out.getvalue().splitlines()[1:] == ["generate: 0/8, 20 s"]


def test_the_pace_is_that_of_this_process_once_units_come() -> None:
    resumed = Stage("warm-up", began=0.0, total=100, earlier=50).advanced(50, 0, now=0.0)
    assert resumed.left is None
    going = resumed.advanced(1, 0, now=30.0).advanced(4, 0, now=34.0)  # 30 s for an engine's start, 1 s a step
    assert going.left == 45.0
    assert details(going, 34.5) == "55/100, 34 s, about 45 s left"  # half a step is no step
    assert going.advanced(45, 0, now=79.0).left is None
    assert Stage("x", 0.0).advanced(3, 0, now=1.0).advanced(3, 0, now=2.0).left is None


def test_seconds_in_words() -> None:
    assert [spell(s) for s in (0.4, 99.4, 100, 200, 3599, 3600, 90_000)] == [
        "0 s", "99 s", "1 min 40 s", "3 min 20 s", "59 min 59 s", "1 h 00 min", "25 h 00 min",
    ]  # fmt: skip


def test_the_thread_speaks_while_the_stage_only_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage's own code does nothing here but wait: for the line, as long as a hung test may take."""
    monkeypatch.setattr("rollout.progress.TICK_S", 0.001)
    spoken, clock = threading.Event(), Time()

    class Out(io.StringIO):
        def write(self, text: str) -> int:
            spoken.set()
            return super().write(text)

    with Lines(Console(file=Out(), width=80), clock) as view:
        view.stage("starting engines")
        clock.now += LINE_EVERY_S
        assert spoken.wait(120)
    view.close()  # again does no harm


def test_an_output_that_is_closed_ends_the_thread_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.progress.TICK_S", 0.001)
    out, clock = io.StringIO(), Time()
    view = Lines(Console(file=out), clock)
    view.stage("train")
    out.close()
    clock.now += LINE_EVERY_S
    view.__enter__()
    view._thread.join(120)
    assert not view._thread.is_alive()


def test_no_picture_in_a_log_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    with progress(console_on("stderr")) as view:
        view.stage("train", 3)
        view.warn("x")
    assert isinstance(view, Lines)
    assert out.getvalue() == "warning: x\n"


def test_waiting_leaves_nothing_on_a_terminal_and_a_line_in_a_log_if_it_was_long() -> None:
    out = io.StringIO()
    with waiting("starting engines", Console(file=out, force_terminal=True, width=80, height=20, _environ={})):
        pass
    assert out.getvalue().endswith("\x1b[1A\x1b[2K")  # the line is cleared
    out = io.StringIO()
    with waiting("starting engines", Console(file=out)):
        pass
    assert out.getvalue() == ""


def test_on_a_terminal_the_same_words_stand_beside_a_bar() -> None:
    out, clock = io.StringIO(), Time()
    with progress(Console(file=out, force_terminal=True, width=100, _environ={}), clock) as view:
        assert isinstance(view, Bar)
        view.stage("DPO", 40)
        view.say("loss \x1b]0;x\x070.5")
        view.advance(10)
        clock.now += 10
        view.advance(10)
        text = Console(width=100, file=io.StringIO(), record=True)
        text.print(view)
    shown = text.export_text()
    assert shown.startswith("DPO")
    assert "20/40, loss ‹U+001B›]0;x‹U+0007›0.5, 10 s, about 20 s left" in shown
    assert "\x1b]0;" not in out.getvalue()
