"""The timeline in a run's report: what is drawn, in a browser too, and what happens to damaged and hostile ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from browser_kit import PROBE, body_of, drawn, needs_browser, noted
from synthetic_run import HOSTILE, make_run

from evals.report.page import render, script_of
from evals.report.run import build_report
from evals.report.run import lanes as lanes_module
from evals.report.run.build import payload
from evals.report.run.data import read_run
from evals.report.run.lanes import MOST_ENGINES, MOST_KINDS, lanes
from evals.report.run.samples import load_samples
from rl.record.timeline import Process, Span
from rollout.timeline import FILE, Timeline


def span(lane: str, what: str, start: float, end: float, busy: float | None = None) -> Span:
    return Span(lane, what, start, end, end - start if busy is None else busy)


def in_turn(iterations: int, began: float = 0.0, first: int = 0, engines: int = 1) -> Process:
    """10 s an iteration: publish 1 s, engines sample 5 s, the learner trains 3 s, nothing for a second."""
    spans, done = [], []
    for i in range(iterations):
        t = began + 10.0 * i
        spans.append(span("driver", "publish", t, t + 1.0))
        spans += [span(f"engine {e}", "sample", t + 1.0, t + 6.0) for e in range(engines)]
        spans.append(span("learner", "train", t + 6.0, t + 9.0))
        done.append((first + i, t + 10.0))
    return Process(0.0, spans, done)


def rows(found: dict[str, Any], lane: str) -> list[tuple[float, ...]]:
    """What is drawn of a lane, with the kinds' names."""
    drawn_ = next(one["drawn"] for one in found["lanes"] if one["name"] == lane)
    return [
        (start, end, found["kinds"][kind]["name"], low, high)
        for start, end, kind, low, high in zip(*drawn_, strict=True)
    ]


def test_a_short_run_is_drawn_span_by_span_from_its_first_publish() -> None:
    found = lanes([in_turn(2, began=100.0)])
    assert found is not None
    assert found["seconds"] == 19.0
    assert found["step"] is None
    assert rows(found, "engine 0") == [(1.0, 6.0, "sample", 0.0, 1.0), (11.0, 16.0, "sample", 0.0, 1.0)]
    assert rows(found, "learner") == [(6.0, 9.0, "train", 0.0, 1.0), (16.0, 19.0, "train", 0.0, 1.0)]
    assert found["iterations"] == [[0, 10.0], [1, 19.0]]
    assert found["learner_idle"] == pytest.approx(13 / 19)
    assert [row["lane"] for row in found["table"]] == ["learner", "engine 0", "driver"]
    assert found["table"][0]["longest"][0]["start"] == pytest.approx(9.0)


def test_processes_follow_one_another_without_the_time_between() -> None:
    """The second one trains iteration 2 again, which the first had done and lost."""
    found = lanes([in_turn(3, began=50.0), Process(9e9, [], []), in_turn(2, began=7.0, first=2)])
    assert found is not None
    assert found["seconds"] == 29.0 + 19.0
    assert found["processes"] == [0.0, 29.0]
    assert [start for start, *_ in rows(found, "learner")] == [6.0, 16.0, 26.0, 35.0, 45.0]
    assert found["iterations"] == [[0, 10.0], [1, 20.0], [2, 29.0], [2, 39.0], [3, 48.0]]


def test_what_was_joined_is_as_high_as_it_was_busy() -> None:
    process = in_turn(1)
    half = [span("grader", "grade", 2.0, 6.0, busy=1.0)]
    found = lanes([Process(0.0, [*process.spans, *half])])
    assert found is not None
    assert rows(found, "grader") == [(2.0, 6.0, "grade", 0.0, 0.25)]


def test_a_long_run_is_drawn_in_steps_that_keep_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "MOST_PIECES", 300)
    found = lanes([in_turn(200)])
    assert found is not None
    assert found["step"] == pytest.approx(1999.0 / 100)
    for lane, seconds in (("engine 0", 1000.0), ("learner", 600.0), ("driver", 200.0)):
        own = rows(found, lane)
        assert len(own) <= 100
        assert sum((end - start) * (high - low) for start, end, _, low, high in own) == pytest.approx(seconds)
        assert all(0.0 <= low < high <= 1.0 for *_, low, high in own)


def test_a_step_stacks_the_kinds_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes_module, "MOST_PIECES", 9)
    process = in_turn(3)
    more = [span("learner", "publish", 10.0 * i, 10.0 * i + 1.0) for i in range(3)]
    found = lanes([Process(0.0, [*process.spans, *more])])
    assert found is not None
    step = found["step"]
    assert step == pytest.approx(29.0 / 3)
    train, publish = rows(found, "learner")[:2]
    assert train[2] == "train"
    assert train[3:] == (0.0, pytest.approx(3.0 / step))
    assert publish[2:] == ("publish", pytest.approx(3.0 / step), pytest.approx(4.0 / step))


def test_many_engines_and_kinds_are_limited() -> None:
    process = in_turn(2, engines=40)
    odd = [span("odd", f"kind {i}", 1.0 + i / 10, 1.05 + i / 10) for i in range(30)]
    found = lanes([Process(0.0, [*process.spans, *odd])])
    assert found is not None
    engines = [one["name"] for one in found["lanes"] if one["name"].startswith("engine")]
    assert len(engines) == MOST_ENGINES
    assert found["left_out"] == 40 - MOST_ENGINES
    assert len([row for row in found["table"] if row["lane"].startswith("engine")]) == 40
    names = [kind["name"] for kind in found["kinds"]]
    assert len(names) == MOST_KINDS
    assert names[-1] == "other"
    assert {"sample", "train", "publish"} < set(names)
    assert {name for _, _, name, _, _ in rows(found, "odd")} <= set(names)


def test_runs_that_never_trained_have_none() -> None:
    assert lanes([]) is None
    assert lanes([Process(0.0, [span("driver", "publish", 0.0, 1.0)])]) is None


def recorded(run: Path, processes: Sequence[Process]) -> None:
    """Write processes as the recorder does."""
    for process in processes:
        now = [0.0]
        made = Timeline(run / FILE, clock=lambda now=now: now[0], wall=lambda process=process: process.wall)
        for one in process.spans:
            made.add(one.lane, one.what, one.start, one.end)
        for number, at in process.done:
            now[0] = at
            made.lap(number)
        made.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "demo", iterations=6, groups=2)
    recorded(folder, [in_turn(4), in_turn(3, first=3)])
    return folder


USER = """
const note = (name, value) => { document.body.dataset[name] = JSON.stringify(value); };
setTimeout(() => {
  const svg = document.querySelector("svg.lanes");
  const ticks = () => [...svg.querySelectorAll("text.tick")].map((t) => t.textContent.replace("\\u00A0", " "));
  const boxes = () => [...svg.querySelectorAll("path.bar")].map((p) => p.getAttribute("d").split("M").length - 1);
  const told = () => svg.parentElement.querySelector(".at").textContent.replaceAll("\u00a0", " ");
  const press = (name) => document.querySelector(`button[aria-label="${name}"]`).click();
  const key = (name) => svg.dispatchEvent(new KeyboardEvent("keydown", { key: name, cancelable: true }));
  const size = svg.getBoundingClientRect();
  const width = size.width - 84 - 22;
  const point = (kind, share, y) => {
    const at = { clientX: size.left + 84 + share * width, clientY: size.top + y };
    svg.dispatchEvent(new PointerEvent(kind, at));
  };
  note("whole", [ticks(), boxes()]);
  point("pointermove", 3.5 / 68, 24 + 30 + 5);
  note("sampling", told());
  point("pointermove", 7 / 68, 24 + 30 + 5);
  note("waiting", told());
  press("Zoom in"); press("Zoom in");
  note("near", [ticks(), boxes()]);
  key("0");
  note("again", boxes());
  point("pointerdown", 0, 40); point("pointermove", 9.5 / 68, 40); point("pointerup", 9.5 / 68, 40);
  note("dragged", [ticks(), boxes()]);
  key("ArrowRight"); key("+"); key("-"); press("Later"); press("Earlier"); press("Zoom out"); press("Show all of it");
  note("end", boxes());
}, 500);
"""


@needs_browser
def test_a_reader_looks_at_parts_of_it(run: Path, tmp_path: Path) -> None:
    page, data = tmp_path / "page.html", payload(read_run(run), load_samples(run))
    page.write_text(render("t", data, PROBE + script_of("evals.report.run", "page.js") + USER, "rollouts"), "utf-8")
    seen = {name: json.loads(value) for name, value in noted(drawn(page, tmp_path / "profile")).items()}
    ticks, boxes = seen["whole"]
    assert {"learner", "engine 0", "driver", "process 2", "it 0", "0 s"} <= set(ticks)
    assert boxes == [7, 7, 7]  # training, sampling and publishing, each seven times
    assert seen["sampling"] == "engine 0: sample, 5 s from 1 s on"
    assert seen["waiting"] == "engine 0: idle, 5 s from 6 s on"
    assert all(0 < count < 7 for count in seen["near"][1])
    assert seen["dragged"][1] == [1, 1, 1]
    assert "it 0" not in seen["dragged"][0]
    assert "it 3" not in seen["dragged"][0]
    assert seen["again"] == seen["end"] == boxes


@needs_browser
def test_a_long_run_draws_in_a_browser(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", iterations=3, groups=2)
    recorded(run, [in_turn(1500)])
    document = drawn(build_report(run), tmp_path / "profile")
    noted(document)
    body = body_of(document)
    assert body.count('class="bar s') >= 3
    assert len(body) < 2_000_000


@needs_browser
def test_hostile_names_in_a_timeline_stay_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", iterations=3, groups=2)
    process = in_turn(2)
    hostile = [span(HOSTILE, HOSTILE, 1.0, 2.0), span(f"engine {HOSTILE}", "sample", 1.0, 2.0)]
    recorded(run, [Process(0.0, [*process.spans, *hostile], process.done)])
    path = build_report(run)
    document = drawn(path, tmp_path / "profile")
    noted(document)
    assert "pwned</title>" not in document
    assert "<img" not in body_of(document)
    assert 'class="rest"' in body_of(document)


def test_a_damaged_timeline_is_left_out_and_said_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo", iterations=3, groups=2)
    (run / FILE).write_text('{"wall": 1}\nnonsense\n{"wall": 2}\n')
    data = payload(read_run(run), load_samples(run))
    assert data["timeline"] is None
    assert any(FILE in note and "line 2" in note for note in data["notes"])
    assert data["rollouts"]


def test_a_run_of_before_has_no_timeline_and_no_note(tmp_path: Path) -> None:
    data = payload(read_run(make_run(tmp_path / "demo", iterations=3, groups=2)), load_samples(tmp_path / "demo"))
    assert data["timeline"] is None
    assert data["notes"] == []
