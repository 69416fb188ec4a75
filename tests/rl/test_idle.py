"""rl.record.timeline and rl.record.idle: what lanes did, and idle time, against hand-made spans with closed forms."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path

import pytest

from rl.record.idle import Window, summarise, windows
from rl.record.measure import of_idle
from rl.record.timeline import Piece, Process, Span, TimelineError, between, in_order, pieces, read_timeline
from rollout.strict_json import dumps
from rollout.timeline import FILE, Timeline


def span(lane: str, what: str, start: float, end: float, busy: float | None = None) -> Span:
    return Span(lane, what, start, end, end - start if busy is None else busy)


def in_turn(iterations: int, began: float = 0.0) -> Process:
    """The loop in turn, 10 s an iteration: 1 s publish, 5 s sampling (engine 1: 3 s), 3 s training, 1 s stores."""
    spans, done = [span("driver", "start", 0.0, began)], []
    for i in range(iterations):
        t = began + 10.0 * i
        spans += [
            span("learner", "publish", t, t + 0.5),
            *(span(f"engine {e}", "publish", t + 0.5, t + 1.0) for e in range(2)),
            span("driver", "publish", t, t + 1.0),
            span("engine 1", "sample", t + 1.0, t + 4.0),
            span("engine 0", "sample", t + 1.0, t + 6.0),
            span("driver", "sample", t + 1.0, t + 6.0),
            span("learner", "train", t + 6.0, t + 9.0),
            span("driver", "train", t + 6.0, t + 9.0),
            span("driver", "store", t + 9.0, t + 10.0),
        ]
        done.append((i, t + 10.0))
    return Process(1e9, spans, done)


def test_idle_time_in_turn_has_its_closed_form() -> None:
    found = summarise(windows([in_turn(4, began=100.0)]))
    assert found is not None
    assert found.seconds == pytest.approx(39.0)  # from the first publish to the end of the last training
    learner, first, second = (found.use(lane) for lane in ("learner", "engine 0", "engine 1"))
    assert learner is not None
    assert first is not None
    assert second is not None
    assert learner.seconds == pytest.approx({"train": 12.0, "publish": 2.0})
    assert first.seconds == pytest.approx({"sample": 20.0, "publish": 2.0})
    assert (learner.idle_s, first.idle_s, second.idle_s) == pytest.approx((25.0, 17.0, 25.0))
    assert found.learner_idle == pytest.approx(25 / 39)
    assert found.engines_idle == pytest.approx((17 + 25) / 2 / 39)
    assert found.together_s == 0.0


def test_the_longest_waits_say_what_they_waited_for() -> None:
    found = summarise(windows([in_turn(4)]))
    assert found is not None
    learner, second = found.use("learner"), found.use("engine 1")
    assert learner is not None
    assert second is not None
    assert [(s.start, s.seconds, s.waited_for) for s in learner.longest] == [
        (0.5, 5.5, "engine 0: sample"),
        (10.5, 5.5, "engine 0: sample"),
        (20.5, 5.5, "engine 0: sample"),
    ]
    # engine 1 waits for engine 0 (2 s), the learner (3 s), then the driver's store and the learner's publish (1.5 s)
    assert next((s.start, s.seconds, s.waited_for) for s in second.longest) == (4.0, 6.5, "learner: train")


def test_a_wait_for_the_driver_alone_is_called_so() -> None:
    spans = [
        span("driver", "publish", 0.0, 1.0),
        span("engine 0", "sample", 1.0, 2.0),
        span("driver", "store", 2.0, 8.0),
        span("grader", "grade", 2.0, 2.5),
        span("saver", "save", 0.0, 10.0),  # beside all of it
        span("learner", "train", 9.0, 10.0),
    ]
    found = summarise(windows([Process(0.0, spans)]))
    assert found is not None
    engine, learner = found.use("engine 0"), found.use("learner")
    assert engine is not None
    assert learner is not None
    assert engine.longest[0].waited_for == "driver: store"
    assert [(s.start, s.seconds) for s in learner.longest] == [(0.0, 9.0)]


def test_overlap_counts_sampling_while_the_learner_trains() -> None:
    spans = [
        span("driver", "publish", 0.0, 1.0),
        span("engine 0", "sample", 1.0, 21.0),
        span("engine 1", "sample", 1.0, 11.0),
        span("learner", "train", 6.0, 9.0),
        span("learner", "train", 10.0, 16.0, busy=3.0),  # at work half of the time
    ]
    found = summarise(windows([Process(0.0, spans)]))
    assert found is not None
    assert found.seconds == 16.0
    assert found.together_s == pytest.approx(((3.0 + 3.0) + (3.0 + 0.5)) / 2)
    assert found.learner_idle == pytest.approx(10 / 16)


def test_time_between_processes_and_what_is_lost_is_not_idle() -> None:
    """The second process starts an hour later; a third one died before it trained."""
    first, second = in_turn(3), in_turn(2, began=5.0)
    late = Process(first.wall + 3600.0, second.spans, [(2, 15.0), (3, 25.0)])
    dead = Process(0.0, [span("driver", "publish", 3.0, 4.0), span("engine 0", "sample", 4.0, 9.0)])
    parts = windows([first, late, dead])
    assert [part.process for part in parts] == [0, 1]
    found = summarise(parts)
    assert found is not None
    assert found.seconds == pytest.approx(29.0 + 19.0)
    assert found.learner_idle == pytest.approx(1 - (3 + 2) * 3.5 / 48)
    assert summarise(windows([dead])) is None
    assert summarise(windows([])) is None


def test_of_spans_that_overlap_the_one_that_began_last_counts() -> None:
    process = Process(
        0.0,
        [
            span("engine 0", "sample", 0.0, 10.0),
            span("engine 0", "publish", 2.0, 4.0),
            span("engine 0", "score", 3.0, 6.0),  # not nested: reaches over the end of publish
            span("engine 0", "start", 12.0, 14.0),
            span("engine 0", "publish", 12.0, 13.0),  # begins together: the shorter is the inner one
        ],
    )
    assert [(p.start, p.end, p.what) for p in pieces(process, "engine 0")] == [
        (0.0, 2.0, "sample"),
        (2.0, 3.0, "publish"),
        (3.0, 6.0, "score"),
        (6.0, 10.0, "sample"),
        (12.0, 13.0, "publish"),
        (13.0, 14.0, "start"),
    ]


def test_pieces_of_random_spans_match_a_grid() -> None:
    draw = random.Random(3)
    for _ in range(200):
        starts = draw.sample(range(60), draw.randrange(1, 12))  # different: ties have a test of their own
        spans = [span("x", str(i), s, s + draw.randrange(1, 30)) for i, s in enumerate(starts)]
        found = pieces(Process(0.0, draw.sample(spans, len(spans))), "x")
        assert all(a.end <= b.start for a, b in itertools.pairwise(found))
        for t in range(100):
            here = [s for s in spans if s.start <= t < s.end]
            expected = max(here, key=lambda s: s.start).what if here else None
            assert [p.what for p in found if p.start <= t < p.end] == ([expected] if expected else [])
            assert [p.what for p in between(found, t, t + 1)] == ([expected] if expected else [])


def test_what_is_sampled_in_an_evaluation_is_evaluation() -> None:
    process = Process(
        0.0,
        [
            span("driver", "eval", 3.0, 5.0),
            span("driver", "eval", 6.0, 8.0),
            span("engine 0", "sample", 1.0, 7.0),
            span("engine 0", "sample", 7.5, 9.0),
            span("learner", "score", 3.5, 4.0),
        ],
    )
    assert [(p.start, p.end, p.what) for p in pieces(process, "engine 0")] == [
        (1.0, 3.0, "sample"),
        (3.0, 5.0, "eval"),
        (5.0, 6.0, "sample"),
        (6.0, 7.0, "eval"),
        (7.5, 8.0, "eval"),
        (8.0, 9.0, "sample"),
    ]
    assert [p.what for p in pieces(process, "learner")] == ["score"]


def test_lanes_have_an_order() -> None:
    given = ["engine 10", "judge 1", "engine 2", "driver", "engine x", "saver", "learner", "grader", "Engine 1"]
    assert in_order(given) == [
        "learner",
        *("engine 2", "engine 10", "judge 1"),
        *("grader", "saver", "driver"),
        *("Engine 1", "engine x"),
    ]


def test_what_was_recorded_comes_back(tmp_path: Path) -> None:
    """Two processes, the first one killed in the middle of a line; pieces of one span are put together."""
    now = [100.0]
    for wall in (5e8, 4e8):  # the clock on the wall was set back in between
        made = Timeline(tmp_path / FILE, clock=lambda: now[0], wall=lambda wall=wall: wall)
        made.begin("engine 0", "sample")
        for i in range(6):
            now[0] += 4.0
            made.beat("engine 0", "sample")
            made.lap(i)
        if wall == 5e8:
            with (tmp_path / FILE).open("a") as file:
                file.write('{"lane": "engine 0", "what": "sam')
        else:
            made.close()
    first, second = read_timeline(tmp_path)
    assert (first.wall, second.wall) == (5e8, 4e8)
    for process in (first, second):
        assert process.spans == [Span("engine 0", "sample", 0.0, 24.0, 24.0)]
        assert process.done == [(i, 4.0 * (i + 1)) for i in range(6)]
        assert process.end == 24.0


def test_no_timeline_is_no_process(tmp_path: Path) -> None:
    assert read_timeline(tmp_path) == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("7", "no line of a timeline"),
        ("[]", "no line of a timeline"),
        ('{"lane": 3, "what": "x", "start": 0, "end": 1}', "lane is no text"),
        ('{"lane": "a", "what": [], "start": 0, "end": 1}', "what is no text"),
        ('{"lane": 3, "joined": 1}', "lane is no text"),
        ('{"lane": "a", "left": "x"}', "left is no number"),
        ('{"lane": "a", "what": "x", "start": 2, "end": 1}', "it ends before it starts"),
        ('{"lane": "a", "what": "x", "start": true, "end": 1}', "start is no number"),
        ('{"lane": "a", "what": "x", "start": 0, "end": 1e999}', "end is no number"),
        ('{"iteration": "0", "at": 1}', "iteration is no number"),
        ('{"lane": "a", "what": "x", "start": 0, "end": 1' + "0" * 400 + "}", "end is no number"),
        ('{"lane": "a", "what": "x", "start": -1e308, "end": 1e308}', "start is no number"),
        ('{"lane": "a", "what": "x", "start": 0, "end": 1, "busy": -1' + "0" * 400 + "}", "busy is no number"),
        ('{"iteration": 1' + "0" * 400 + ', "at": 1}', "iteration is no number"),
        ('{"iteration": 0, "at": 1e308}', "at is no number"),
        ('{"wall": 1e308}', "wall is no number"),
        ('{"lane": "a"}', "'what'"),
        ("{", "not JSON"),
        ("[" * 100_000 + "]" * 100_000, "not JSON"),
    ],
)
def test_a_broken_line_is_named(line: str, why: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"wall": 1}\n' + line + "\n" + '{"wall": 2}\n')
    with pytest.raises(TimelineError, match=r"line 2.*remove") as found:
        read_timeline(tmp_path)
    assert why in str(found.value)
    assert "\n" not in str(found.value)


def test_spans_before_any_process_are_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"iteration": 0, "at": 1}\n')
    with pytest.raises(TimelineError, match=r"line 1.*no process has begun"):
        read_timeline(tmp_path)


def test_joined_spans_count_what_they_were_at_work(tmp_path: Path) -> None:
    rows = [
        {"wall": 0},
        {"lane": "driver", "what": "publish", "start": 0.0, "end": 1.0},
        {"lane": "engine 0", "what": "sample", "start": 0.0, "end": 6.0, "busy": 3.0},
        {"lane": "engine 0", "what": "sample", "start": 6.0, "end": 10.0},
        {"lane": "learner", "what": "train", "start": 9.0, "end": 10.0},
    ]
    (tmp_path / FILE).write_text("".join(dumps(row) + "\n" for row in rows))
    found = summarise(windows(read_timeline(tmp_path)))
    assert found is not None
    assert found.engines_idle == pytest.approx(0.3)


def test_a_window_of_thousands_of_pieces_is_summed_in_no_time() -> None:
    """Quadratic sums would take minutes here."""
    spans = [span("driver", "publish", 0.0, 1.0)]
    for i in range(30_000):
        spans += [span("engine 0", "sample", i, i + 0.5), span("learner", "train", i + 0.25, i + 0.75)]
        spans.append(span("driver", "eval", i + 0.8, i + 0.9))
    found = summarise(windows([Process(0.0, spans)]))
    assert found is not None
    assert found.together_s == pytest.approx(7500.0, rel=1e-3)


def test_idle_metrics_are_those_on_record() -> None:
    assert of_idle({}) == {}
    assert of_idle({"engine 0": 0.5, "engine 3": 0.25, "driver": 0.9}) == {"idle/engines": 0.375}
    assert of_idle({"judge 0": 0.25, "learner": 0.5}) == {"idle/judges": 0.25, "idle/learner": 0.5}
    assert of_idle({"learner": 0.1}) == {"idle/learner": 0.1}


def test_an_engine_counts_while_it_is_there() -> None:
    """One joins at 8 s, works from 9 to 12 s and leaves at 14 s; in the second process there is none of that number."""
    first, second = in_turn(2), in_turn(2)
    guest = [span("engine 7", "start", 7.99, 8.5), span("engine 7", "sample", 9.0, 12.0)]
    elastic = replace(first, spans=[*first.spans, *guest], joined={"engine 7": 8.0}, left={"engine 7": 14.0})
    parts = windows([elastic, second])
    assert all("engine 7" in part.lanes for part in parts)
    found, without = summarise(parts), summarise(windows([first, second]))
    assert found is not None
    assert without is not None
    use, own = found.use("engine 7"), found.use("engine 0")
    assert use is not None
    assert own is not None
    assert (use.there_s, use.idle_s, use.idle) == pytest.approx((6.0, 2.5, 2.5 / 6))
    assert [(gap.start, gap.seconds) for gap in use.longest] == [(12.0, 2.0), (8.5, 0.5)]
    assert own == without.use("engine 0")
    assert own.there_s == 38.0
    assert without.engines_idle is not None
    assert found.engines_idle == pytest.approx((without.engines_idle * 76 + 2.5) / (76 + 6))
    assert found.together_s == 0.0


def test_an_engine_that_is_there_after_the_last_training_alone_is_left_out() -> None:
    made = in_turn(1)
    late = replace(made, spans=[*made.spans, span("engine 7", "start", 9.5, 10.0)], joined={"engine 7": 9.5})
    found, without = summarise(windows([late])), summarise(windows([made]))
    assert found is not None
    assert without is not None
    assert found.use("engine 7") is None
    assert found.engines_idle == without.engines_idle


def test_overlap_is_counted_as_if_an_engine_had_been_there_all_the_time() -> None:
    spans = [
        span("driver", "publish", 0.0, 1.0),
        *(span(f"engine {i}", "sample", start, 16.0) for i, start in enumerate((1.0, 12.0))),
        span("learner", "train", 4.0, 16.0),
    ]
    found = summarise(windows([Process(0.0, spans, joined={"engine 1": 12.0})]))
    assert found is not None
    assert found.together_s == pytest.approx(16.0 * (12.0 + 4.0) / (16.0 + 4.0))


def test_who_joined_and_left_comes_back(tmp_path: Path) -> None:
    now = [100.0]
    made = Timeline(tmp_path / FILE, clock=lambda: now[0])
    for act, lane in ((made.join, "engine 2"), (made.join, "engine 3"), (made.leave, "engine 2")):
        now[0] += 2.0
        act(lane)
    made.close()
    Timeline(tmp_path / FILE).close()
    first, second = read_timeline(tmp_path)
    assert (first.joined, first.left) == ({"engine 2": 2.0, "engine 3": 4.0}, {"engine 2": 6.0})
    assert (second.joined, second.left) == ({}, {})


def test_a_piece_counts_only_within() -> None:
    assert Piece(2.0, 6.0, "x", 0.5).within(0.0, 4.0) == 1.0
    assert Piece(2.0, 6.0, "x").within(7.0, 9.0) == 0.0
    assert Window(1.0, 3.5, {}).seconds == 2.5
