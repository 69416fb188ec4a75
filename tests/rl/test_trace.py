"""rl.record.trace and `k15 trace`: valid in the Trace Event Format, whatever the names are."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import HOSTILE

from recipes.commands.cli import main
from rl.record.timeline import Process, Span
from rl.record.trace import MOST_APART_S, events, starts, write_trace
from rollout.timeline import FILE, Timeline

NESTED = [
    Span("engine 0", "sample", 0.0, 10.0, 10.0),
    Span("engine 0", "publish", 2.0, 3.0, 1.0),
    Span("learner", "train", 1.0, 4.0, 1.5),
]


def valid(text: str) -> list[dict[str, Any]]:
    """The events of a trace, checked against what the format asks for.

    An object with ``traceEvents``; every event with ``ph``, ``pid``, ``tid``, ``ts`` (microseconds) and ``name``; ``X``
    with ``dur``; ``i`` with a scope; ``M`` with its argument; nothing of one thread overlaps.
    """
    trace = json.loads(text, parse_constant=pytest.fail)
    assert trace["displayTimeUnit"] in ("ms", "ns")
    threads: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in trace["traceEvents"]:
        assert event["ph"] in "XiM"
        assert type(event["pid"]) is int
        assert type(event["tid"]) is int
        assert type(event["ts"]) is int
        assert event["ts"] >= 0
        assert isinstance(event["name"], str)
        if event["ph"] == "X":
            assert type(event["dur"]) is int
            assert event["dur"] >= 0
            threads.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["dur"]))
        elif event["ph"] == "i":
            assert event["s"] in "gpt"
        else:
            key = {"process_name": "name", "thread_name": "name"}.get(event["name"], "sort_index")
            assert type(event["args"][key]) is (str if key == "name" else int)
            assert event["name"] in ("process_name", "thread_name", "process_sort_index", "thread_sort_index")
    assert len({tid for _, tid in threads}) == len(threads)
    for spans in threads.values():
        spans.sort()
        for (ts, dur), (following, _) in itertools.pairwise(spans):
            assert ts + dur <= following
    return trace["traceEvents"]


def shown(found: list[dict[str, Any]]) -> list[tuple[int, str, str, float, float]]:
    lanes = {(e["pid"], e["tid"]): e["args"]["name"] for e in found if e["name"] == "thread_name"}
    return [(e["pid"], lanes[e["pid"], e["tid"]], e["name"], e["ts"], e["dur"]) for e in found if e["ph"] == "X"]


def test_a_trace_has_lanes_as_threads_and_the_inner_spans(tmp_path: Path) -> None:
    write_trace([Process(1e9, NESTED, [(0, 9.5)])], "demo", tmp_path / "trace.json")
    found = valid((tmp_path / "trace.json").read_text())
    assert shown(found) == [
        (1, "learner", "train", 1e6, 3e6),
        (1, "engine 0", "sample", 0.0, 2e6),
        (1, "engine 0", "publish", 2e6, 1e6),
        (1, "engine 0", "sample", 3e6, 7e6),
    ]
    assert [e["args"]["busy"] for e in found if e["ph"] == "X"] == [0.5, 1.0, 1.0, 1.0]
    assert [(e["name"], e["ts"]) for e in found if e["ph"] == "i"] == [("iteration 0 done", 9.5e6)]


@pytest.mark.parametrize(
    ("walls", "expected"),
    [
        ((100.0, 160.0), [0.0, 60.0]),
        ((100.0, 40.0), [0.0, 10.0]),
        ((100.0, 105.0), [0.0, 10.0]),
        ((0.0, 1.79e9), [0.0, 10.0 + MOST_APART_S]),
    ],
    ids=["later", "the clock was set back", "it was set back less", "it was set at all"],
)
def test_a_later_process_never_reaches_into_an_earlier_one(walls: tuple[float, ...], expected: list[float]) -> None:
    processes = [Process(wall, NESTED) for wall in walls]
    assert starts(processes) == expected
    found = [event for event in events(processes, "demo") if event["ph"] == "X"]
    assert min(event["ts"] for event in found if event["pid"] == 2) == expected[1] * 1e6


def test_pieces_that_touch_do_not_overlap_by_rounding(tmp_path: Path) -> None:
    edges = [i / 3 + 0.1 for i in range(500)]
    spans = [Span("learner", "ab"[i % 2], a, b, b - a) for i, (a, b) in enumerate(itertools.pairwise(edges))]
    write_trace([Process(1 / 7, []), Process(1.79e9, spans)], "demo", tmp_path / "trace.json")
    assert len(shown(valid((tmp_path / "trace.json").read_text()))) == 499


def test_hostile_names_are_text(tmp_path: Path) -> None:
    write_trace([Process(0.0, [Span(HOSTILE, HOSTILE, 0.0, 1.0, 1.0)])], HOSTILE, tmp_path / "trace.json")
    data = (tmp_path / "trace.json").read_bytes()
    found = valid(data.decode())
    assert data.isascii()
    assert "\x1b" not in json.dumps([event["name"] for event in found], ensure_ascii=False)
    assert "\\ud8" not in data.decode()


def test_no_process_is_an_empty_trace(tmp_path: Path) -> None:
    write_trace([], "demo", tmp_path / "trace.json")
    assert valid((tmp_path / "trace.json").read_text()) == []


def test_the_command_writes_it_into_the_run_or_where_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "demo"
    run.mkdir()
    made = Timeline(run / FILE, clock=iter(range(100)).__next__)
    made.begin("learner", "train")
    made.close()
    assert main(["trace", str(run)]) == 0
    assert main(["trace", str(run), "--out", str(tmp_path / "other.json")]) == 0
    assert capsys.readouterr().out.split() == [str(run / "trace.json"), str(tmp_path / "other.json")]
    assert shown(valid((tmp_path / "other.json").read_text())) == [(1, "learner", "train", 1e6, 1e6)]
    assert (run / "trace.json").read_text() == (tmp_path / "other.json").read_text()


@pytest.mark.parametrize("text", [None, "{}\n"])
def test_the_command_says_what_is_missing(text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", str(tmp_path / "none")]) == 2
    assert "no such directory" in capsys.readouterr().err
    if text is not None:
        (tmp_path / FILE).write_text(text)
    assert main(["trace", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert FILE in told
    assert not (tmp_path / "trace.json").exists()
