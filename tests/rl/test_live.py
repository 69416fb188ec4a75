"""rl.record.live: plain lines without a terminal, a picture with one, and nothing hostile in either."""

from io import StringIO

import pytest
from rich.console import Console

from rl.record.finding import Finding
from rl.record.live import LiveView, iteration_line, sparkline
from rl.record.metrics import Row
from rollout.plain import clip, one_line, visible
from rollout.progress import Clock, Lines

ROW: Row = {
    "iteration": 4,
    "accuracy": 0.5,
    "reward/mean": 0.25,
    "length/mean": 123.4,
    "loss": -0.125,
    "logratio/mean": 0.01,
    "logratio/std": 0.2,
    "throughput/sampled": 4100.0,
    "rollouts/unfinished": 3,
    "rollouts/resumed": 2,
    "tokens/sampled": 1000,
    "time/total": 4.25,
}


def view(terminal: bool, live: bool = True, width: int = 100, clock: Clock = lambda: 0.0) -> tuple[LiveView, StringIO]:
    out = StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, height=30, highlight=False, _environ={})
    return LiveView("runs/x", "tiny", 10, start=4, live=live, console=console, clock=clock), out


def shown(v: LiveView, width: int = 100) -> str:
    text = Console(width=width, height=30, file=StringIO(), record=True)
    text.print(v)
    return text.export_text()


def play(v: LiveView) -> None:
    v.stage("generate", 8)
    v.advance(3)
    v.iteration(ROW)
    v.evaluation("it0005", 0.5, 0.4, 0.6)
    v.warn("engine 0 \x1b]0;title\x07 died\r\nrestarted [bold]now[/bold] \u202e")


@pytest.mark.parametrize(("terminal", "live"), [(False, True), (True, False)])
def test_plain_lines_without_terminal_or_when_live_is_off(terminal: bool, live: bool) -> None:
    v, out = view(terminal, live, width=40)  # long lines are not wrapped
    play(v)
    v.close()
    assert out.getvalue().splitlines() == [
        "runs/x: tiny, iterations 4..10",
        "it 5/10  accuracy 50.0%  reward 0.250  tokens 123  loss -0.125  log-ratio 0.010±0.200  4,100 tok/s  "
        "unfinished 3  4.2 s",
        "held-out it0005: 50.0% [40.0%, 60.0%]",
        "warning: engine 0 ‹U+001B›]0;title‹U+0007› died restarted [bold]now[/bold] ‹U+202E›",
    ]


def test_picture_on_a_terminal() -> None:
    v, _ = view(True)
    play(v)
    v.stage("train", 2)
    v.advance(1)
    picture = shown(v)
    v.close()
    v.close()
    for part in (
        "runs/x",
        "5/10",
        "train",
        "1/2",
        "1,000 tokens",
        "4,100",
        "0.010±0.200",
        "-0.125",
        "held-out ▅",
        "[bold]now[/bold]",
    ):
        assert part in picture, part


def test_no_control_character_of_the_model_reaches_the_terminal() -> None:
    v, out = view(True)
    play(v)
    v.close()
    written = out.getvalue()
    assert "\x07" not in written
    assert "\x1b]0;" not in written
    assert "\u202e" not in written


def test_narrow_terminal_drops_columns_and_keeps_numbers_whole() -> None:
    v, _ = view(True, width=60)
    v.iteration(ROW)
    picture = shown(v, 60)
    v.close()
    assert "unfinished" in picture
    assert "log-ratio" not in picture
    assert "…" not in picture


FINDING = Finding("no-gain", "seen " * 20 + "\x1b[31mthat", "do this " * 6 + "and that")


def test_a_finding_is_a_line_in_a_log_and_stays_whole_in_the_picture() -> None:
    plain, out = view(False)
    plain.finding(FINDING)
    plain.close()
    assert out.getvalue().splitlines()[1] == "attention: " + FINDING.text.replace("\x1b", "‹U+001B›")
    picture, _ = view(True)
    picture.finding(FINDING)
    for number in range(9):
        picture.warn(f"engine {number} died")  # however many warnings come after it
    words = " ".join(shown(picture, 90).replace("│", " ").split())
    picture.close()
    assert FINDING.text.replace("\x1b", "‹U+001B›") in words


def test_a_log_hears_of_long_phases_and_of_the_time_that_the_run_will_take() -> None:
    now = [0.0]
    v, out = view(False, clock=lambda: now[0])
    v.stage("starting Ray and engines")
    assert isinstance(v._view, Lines)
    for _ in range(20):
        now[0] += 1
        v._view.tick()
    v.iteration(ROW)
    v.stage("generate", 8)
    v.advance(2, tokens=500)
    now[0] += 10
    v.advance(2, tokens=700)
    now[0] += 2
    v._view.tick()
    v.close()
    said = out.getvalue().splitlines()
    assert said[1:3] == ["starting Ray and engines: 12 s so far", "starting Ray and engines: 20 s so far"]
    assert said[4] == "generate: 4/8, 12 s, 100 tok/s, about 20 s left; 5/10 iterations, about 21 s left"


def test_iteration_without_anything_finished() -> None:
    line = iteration_line({"iteration": 0, "stop/aborted": 2, "steps/skipped": 1, "engines/failures": 3}, 3)
    assert line.startswith("it 1/3  accuracy -  reward -  tokens -  loss -")
    assert line.endswith("2 aborted  1 steps skipped  3 engines lost so far")


def test_trouble_of_the_newest_iteration_is_in_the_picture() -> None:
    v, _ = view(True)
    v.iteration(ROW | {"engines/given_up": 1, "nonfinite": 2})
    assert "1 engines given up, 2 numbers not finite" in shown(v)
    v.iteration(ROW | {"iteration": 5})
    assert "given up" not in shown(v)
    v.close()


def test_small_helpers() -> None:
    assert sparkline([0.0, 0.5, 1.0, 7.0]) == "▁▅██"
    assert visible("a\tb\n\x00\x85\u2028\ud800\u200b") == "a\tb\n‹U+0000›‹U+0085›‹U+2028›‹U+D800›‹U+200B›"
    assert visible("שלום 𝟙 é 日本 👩‍🚀") == "שלום 𝟙 é 日本 👩‍🚀"  # ordinary text of any script stays
    assert one_line("a \n\n b" + "c" * 300, 10) == "a bcccccc…"
    assert clip("x" * 100, 10).startswith("xxxxx\n[... 90 characters left out ...]")
    assert clip("short", 10) == "short"
    assert clip("x" * 100, 1) == "\n[... 100 characters left out ...]\n"
