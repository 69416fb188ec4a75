"""rollout.timeline: spans reach the file once, exactly, in bounded number, and outlive a kill."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from rollout import timeline
from rollout.timeline import FILE, GAP_S, PIECE, Switch, Timeline, recording, span, spanned


class Clock:
    """A clock that a test turns."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def spans(path: Path) -> list[dict[str, Any]]:
    return [line for line in lines(path) if "lane" in line]


def begun(tmp_path: Path, wall: float = 5e8) -> tuple[Timeline, Clock, Path]:
    clock = Clock()
    return Timeline(tmp_path / FILE, clock=clock, wall=lambda: wall), clock, tmp_path / FILE


def test_spans_are_seconds_from_the_anchor_and_nested_ones_stay_apart(tmp_path: Path) -> None:
    made, clock, path = begun(tmp_path)
    clock.now = 1002.0
    made.begin("engine 0", "sample")
    clock.now = 1004.0
    made.begin("engine 0", "publish")
    clock.now = 1007.5
    made.end("engine 0", "publish")
    clock.now = 1009.25
    made.end("engine 0", "sample")
    made.close()
    made.close()
    assert lines(path) == [
        {"wall": 5e8},
        {"lane": "engine 0", "what": "publish", "start": 4.0, "end": 7.5},
        {"lane": "engine 0", "what": "sample", "start": 2.0, "end": 9.25},
    ]


def test_several_at_once_are_one_span(tmp_path: Path) -> None:
    made, clock, path = begun(tmp_path)
    for _ in range(3):
        made.begin("grader", "grade")
        clock.now += 1.0
    for _ in range(3):
        made.end("grader", "grade")
        clock.now += 1.0
    made.close()
    assert spans(path) == [{"lane": "grader", "what": "grade", "start": 0.0, "end": 5.0}]


def test_what_is_open_at_the_end_is_written(tmp_path: Path) -> None:
    made, clock, path = begun(tmp_path)
    made.begin("learner", "train")
    clock.now += 3.0
    made.close()
    made.end("learner", "train")
    made.add("learner", "train", 1004.0, 1005.0)
    assert spans(path) == [{"lane": "learner", "what": "train", "start": 0.0, "end": 3.0}]


def test_short_gaps_are_joined_and_no_second_of_work_is_added_or_lost(tmp_path: Path) -> None:
    made, clock, path = begun(tmp_path)
    worked = 0.0
    draw = random.Random(0)
    for _ in range(20_000):
        made.begin("engine 0", "sample")
        worked += (piece := draw.uniform(0.0, 0.004))
        clock.now += piece
        made.end("engine 0", "sample")
        clock.now += draw.choice([0.0, 0.3 * GAP_S, 0.9 * GAP_S, 0.9 * GAP_S])
    made.close()
    found = spans(path)
    assert len(found) <= (clock.now - 1000.0) / (PIECE * GAP_S) + 1
    assert sum(line.get("busy", line["end"] - line["start"]) for line in found) == pytest.approx(worked, abs=1e-3)
    assert all(a["end"] <= b["start"] for a, b in pairwise(found))


def test_longer_gaps_are_kept(tmp_path: Path) -> None:
    made, clock, path = begun(tmp_path)
    for _ in range(5):
        made.begin("engine 0", "sample")
        clock.now += 0.1
        made.end("engine 0", "sample")
        clock.now += 2 * GAP_S
    made.close()
    assert [round(line["start"], 6) for line in spans(path)] == [0.0, 0.12, 0.24, 0.36, 0.48]
    assert not any("busy" in line for line in spans(path))


def test_the_file_grows_with_the_logarithm_of_time(tmp_path: Path) -> None:
    """A lane that works and rests for ever, in pieces that are far shorter than the run."""
    made, clock, path = begun(tmp_path)
    sizes = []
    for decade in (1e3, 1e4, 1e5):
        while clock.now < 1000.0 + decade:
            made.begin("engine 0", "sample")
            clock.now += 0.5 * max(GAP_S, 1e-5 * (clock.now - 1000.0))
            made.end("engine 0", "sample")
            clock.now += 0.5 * max(GAP_S, 1e-5 * (clock.now - 1000.0))
        sizes.append(len(lines(path)))
    made.close()
    assert sizes[2] - sizes[1] < 3 * (sizes[1] - sizes[0])  # ten times as long
    assert sizes[2] < 10_000


def test_work_that_goes_on_reaches_the_file_in_pieces_that_touch(tmp_path: Path) -> None:
    made, clock, path = begun(tmp_path)
    made.begin("engine 0", "sample")
    for _ in range(100):
        clock.now += 0.7
        made.beat("engine 0", "sample")
    written = spans(path)  # without the end: as after a kill
    assert written[0]["start"] == 0.0
    assert 70.0 - written[-1]["end"] < PIECE * GAP_S
    assert all(a["end"] == b["start"] for a, b in pairwise(written))
    made.close()
    assert spans(path)[-1]["end"] == pytest.approx(70.0)


def test_laps_count_each_lanes_idle_time(tmp_path: Path) -> None:
    made, clock, _ = begun(tmp_path)
    made.begin("engine 0", "sample")  # goes on over both laps
    clock.now += 2.0
    made.begin("engine 0", "publish")  # within it: counts once
    made.begin("learner", "score")
    clock.now += 1.0
    made.end("learner", "score")
    made.end("engine 0", "publish")
    clock.now += 1.0
    assert made.lap() == {"engine 0": 0.0, "learner": 0.75}
    made.end("engine 0", "sample")
    clock.now += 3.0
    made.add("learner", "train", 1003.0, 1005.0)  # only a second of it is of this lap
    clock.now += 1.0
    assert made.lap(7) == {"engine 0": 1.0, "learner": 0.75}
    assert made.lap() == {}  # no time has passed
    made.close()
    assert {"iteration": 7, "at": 8.0} in lines(made.path)


def test_laps_tell_of_lanes_that_were_there_all_the_time(tmp_path: Path) -> None:
    """An engine that joins counts from the next lap on, and one that left no more."""
    made, clock, _ = begun(tmp_path)
    made.begin("engine 0", "sample")
    clock.now += 2.0
    made.begin("engine 1", "start")
    made.join("engine 1")
    clock.now += 2.0
    assert made.lap() == {"engine 0": 0.0}
    clock.now += 1.0
    made.end("engine 1", "start")  # it has nothing to do, and is there
    clock.now += 3.0
    assert made.lap() == {"engine 0": 0.0, "engine 1": 0.75}
    made.begin("engine 1", "sample")
    clock.now += 1.0
    made.leave("engine 1")
    made.end("engine 1", "sample")  # told a little late
    clock.now += 1.0
    for _ in range(2):
        assert made.lap() == {"engine 0": 0.0}
        clock.now += 4.0
    made.close()


def test_laps_agree_with_the_time_counted_second_by_second(tmp_path: Path) -> None:
    """Spans of three kinds that begin and end at random, also added afterwards, against a closed form on a grid."""
    made, clock, _ = begun(tmp_path)
    draw = random.Random(1)
    for _ in range(50):
        length, grid = 40, [False] * 40
        events: list[tuple[int, int, str, bool]] = []
        for kind in ("a", "b", "c"):
            start = draw.randrange(length - 1)
            end = draw.randrange(start + 1, length + 1)
            grid[start:end] = [True] * (end - start)
            events += [(start, 1, kind, True), (end, 0, kind, False)]
        began = clock.now
        for at, _, kind, opens in sorted(events):
            clock.now = began + at
            (made.begin if opens else made.end)("lane", kind)
        clock.now = began + length
        assert made.lap()["lane"] == pytest.approx(1 - sum(grid) / length, abs=1e-9)


def test_a_second_process_appends_and_a_torn_line_goes(tmp_path: Path) -> None:
    path = tmp_path / FILE
    Timeline(path, clock=Clock(5.0), wall=lambda: 100.0).close()
    with path.open("a") as file:
        file.write('{"lane": "learner", "wh')
    made = Timeline(path, clock=(clock := Clock(9e6)), wall=lambda: 50.0)  # the wall clock was set back
    made.begin("learner", "train")
    clock.now += 2.0
    made.end("learner", "train")
    made.close()
    assert lines(path) == [
        {"wall": 100.0},
        {"wall": 50.0},
        {"lane": "learner", "what": "train", "start": 0.0, "end": 2.0},
    ]


def test_a_wall_clock_that_jumps_bends_nothing(tmp_path: Path) -> None:
    walls = iter([1e9])  # read once: a second reading would fail
    made = Timeline(tmp_path / FILE, clock=(clock := Clock()), wall=lambda: next(walls))
    for _ in range(3):
        made.begin("learner", "train")
        clock.now += 1.0
        made.end("learner", "train")
        clock.now += 1.0
        made.lap(0)
    made.close()
    assert [line["start"] for line in spans(made.path)] == [0.0, 2.0, 4.0]


_KILLED = """
import os, signal, sys, time
from itertools import pairwise
from pathlib import Path
from rollout.timeline import Switch, recording, span
with recording(Path(sys.argv[1]), print):
    with span("learner", "train"):
        time.sleep(1.1)
    sampling = Switch("engine 0", "sample")
    sampling.turn(True)
    for _ in range(30):
        time.sleep(0.1)
        sampling.turn(True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_9_loses_what_had_not_ended_and_the_last_second(tmp_path: Path) -> None:
    path = tmp_path / FILE
    done = subprocess.run([sys.executable, "-c", _KILLED, str(path)], cwd=ROOT, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = spans(path)
    assert found[0]["what"] == "train"
    assert found[0]["end"] - found[0]["start"] >= 1.1
    sampled = [line for line in found if line["what"] == "sample"]
    assert sampled[-1]["end"] - sampled[0]["start"] >= 2.0


def test_many_threads_record_at_once(tmp_path: Path) -> None:
    with recording(tmp_path / FILE, pytest.fail):

        def work(lane: str) -> None:
            for _ in range(500):
                with span(lane, "sample"), span("shared", "grade"):
                    pass

        threads = [threading.Thread(target=work, args=(f"engine {i}",)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {line["lane"] for line in spans(tmp_path / FILE)} == {*(f"engine {i}" for i in range(8)), "shared"}
    for line in spans(tmp_path / FILE):
        assert line["start"] <= line["end"]
        assert 0.0 <= line.get("busy", 0.0) <= line["end"] - line["start"]


def test_nothing_is_recorded_where_nobody_asks(tmp_path: Path) -> None:
    switch = Switch("engine 0", "sample")
    switch.turn(True)
    with span("learner", "train"):
        timeline.add("driver", "eval", 0.0, 1.0)
    assert timeline.lap(3) == {}
    switch.turn(False)
    assert list(tmp_path.iterdir()) == []


def test_the_innermost_recording_counts_and_work_on_its_way_moves_over(tmp_path: Path) -> None:
    """Machines outlive a run: `k15 shorten` trains again with the same ones."""
    switch = Switch("engine 0", "sample")
    first, second = tmp_path / "first", tmp_path / "second"
    with recording(first, pytest.fail):
        switch.turn(True)
        with recording(second, pytest.fail):
            switch.turn(True)
            switch.turn(False)
        switch.turn(True)
    switch.turn(True)  # nobody records any more
    switch.turn(False)
    assert [line["what"] for line in spans(second)] == ["sample"]
    assert {line["what"] for line in spans(first)} == {"sample"}


def test_a_span_ends_when_its_block_or_function_raises(tmp_path: Path) -> None:
    @spanned("learner", "train")
    def fails(*, words: str) -> None:
        raise ValueError(words)

    with recording(tmp_path / FILE, pytest.fail):
        with pytest.raises(ValueError, match="no"):
            fails(words="no")
        with pytest.raises(ValueError, match="neither"), span("learner", "save"):
            raise ValueError("neither")
        assert timeline.lap()["learner"] < 1.0
    assert [line["what"] for line in spans(tmp_path / FILE)] == ["train", "save"]


def test_a_full_disk_ends_the_timeline_and_not_the_run(tmp_path: Path) -> None:
    told: list[str] = []
    made = Timeline(tmp_path / FILE, told.append, clock=(clock := Clock()))
    size = (tmp_path / FILE).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
    try:
        for _ in range(3):
            made.begin("learner", "train")
            clock.now += 10.0
            made.end("learner", "train")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    made.begin("learner", "train")
    clock.now += 10.0
    made.end("learner", "train")
    assert made.lap(0) == {"learner": 0.0}  # still counted
    made.lap(1)
    made.close()
    assert told == [f"the timeline ends here: cannot write {tmp_path / FILE}: File too large"]
    text = (tmp_path / FILE).read_text()
    assert text.count("\n") == 1  # what the next process cuts off, and no line after it
    assert not text.endswith("\n")


def test_names_are_data(tmp_path: Path) -> None:
    made, clock, path = begun(tmp_path)
    made.begin('</script>"\n\x00', "\u2028\ud800")
    clock.now += 1.0
    made.close()
    assert len(path.read_bytes().splitlines()) == 2
    assert spans(path)[0]["lane"] == '</script>"\n\x00'


def test_it_loads_neither_torch_nor_ray() -> None:
    code = "import sys, rollout.timeline; sys.exit(bool({'torch', 'ray', 'numpy'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, env=os.environ).returncode == 0
