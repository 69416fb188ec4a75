"""rl.record.log and rl.record.sinks: rows survive crashes, trackers fail early."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from rewards.stats import Estimate
from rl.record.log import Evaluation, LogError, MetricsLog, Timer, read_evaluations, read_metrics, write_evaluation
from rl.record.sinks import SinkError, identity, open_sinks


def test_rows_come_back_and_numbers_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    written = log.write(0, {"a": 1.5, "b": float("nan"), "c": float("-inf"), "f": 3})
    log.write(1, {"a": 2.0})
    log.close()
    log.close()
    rows = read_metrics(tmp_path)
    assert rows == [{"a": 1.5, "f": 3, "iteration": 0, "nonfinite": 2}, {"a": 2.0, "iteration": 1, "nonfinite": 0}]
    assert rows[0] == written


def test_nulls_of_earlier_versions_are_metrics_that_do_not_exist(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0, "accuracy": null, "length/mean": 7.5}\n')
    assert read_metrics(tmp_path) == [{"iteration": 0, "length/mean": 7.5}]


def test_a_row_is_on_disk_when_write_returns(tmp_path: Path) -> None:
    """The writer is killed without a chance to flush."""
    code = (
        "import os, signal, sys; from pathlib import Path; from rl.record.log import MetricsLog\n"
        "log = MetricsLog(Path(sys.argv[1])); log.write(0, {'x': 1.0}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert [row["x"] for row in read_metrics(tmp_path)] == [1.0]


def test_torn_last_line_is_cut_on_opening_and_skipped_by_readers(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 0}\n{"iteration": 1, "rew')
    assert [row["iteration"] for row in read_metrics(tmp_path)] == [0]
    log = MetricsLog(tmp_path)
    log.write(1, {})
    log.close()
    assert [row["iteration"] for row in read_metrics(tmp_path)] == [0, 1]


@pytest.mark.parametrize("line", ["{not json", "[1]", '{"iteration": "x"}', "", '{"iteration": true'])
def test_malformed_line_is_named_by_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0}\n' + line + '\n{"iteration": 2}\n')
    with pytest.raises(LogError, match=r"metrics\.jsonl, line 2: .*remove the line"):
        read_metrics(tmp_path)


def test_truncate_drops_later_rows_and_writing_goes_on(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for i in range(5):
        log.write(i, {"x": float(i)})
    assert log.truncate(3) == 2
    assert log.truncate(3) == 0
    log.write(3, {"x": 30.0})
    log.close()
    assert [row["x"] for row in read_metrics(tmp_path)] == [0.0, 1.0, 2.0, 30.0]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_full_disk_and_unwritable_directory_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LogError, match=r"cannot write .*file"):
        MetricsLog(tmp_path / "file")
    log = MetricsLog(tmp_path / "run")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(LogError, match=r"cannot write .*metrics\.jsonl: No space left on device; free space"):
        log.write(0, {"x": 1.0})


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MetricsLog(tmp_path)
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
    log.write(0, {"x": 1.0})
    monkeypatch.undo()
    assert read_metrics(tmp_path)[0]["x"] == 1.0


def test_evaluations_come_back_in_order(tmp_path: Path) -> None:
    there = Estimate(0.5, 0.4, 0.6, 64)
    items = [
        Evaluation("before", 0, there, Estimate(90.0, 80.0, 99.0, 64), 4, greedy=there),
        Evaluation("it0010", 10, there, Estimate(70.0, 60.0, 80.0, 64), 4, truncated=0.1),
        Evaluation("after", 20, there, Estimate(60.0, 50.0, 70.0, 64), 4),
    ]
    for item in reversed(items):
        write_evaluation(tmp_path, item)
    assert read_evaluations(tmp_path) == items
    (tmp_path / "eval" / "it0015.json").write_text('{"name": "it0015"}')
    with pytest.raises(LogError, match=r"it0015\.json: not an evaluation"):
        read_evaluations(tmp_path)


def test_timer_adds_up_also_when_a_phase_fails() -> None:
    timer = Timer()
    with timer("train"):
        pass
    first = timer.seconds["train"]
    with pytest.raises(RuntimeError), timer("train"):
        raise RuntimeError
    assert timer.seconds["train"] > first > 0
    with pytest.raises(ValueError, match="unknown phase 'trian'"), timer("trian"):
        pass


def test_missing_or_unknown_tracker_is_an_error_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorboard", "wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)  # Python's own way to say: not installed
        with pytest.raises(SinkError, match=f"pip install {name}"):
            MetricsLog(tmp_path, sinks=[name])
    with pytest.raises(SinkError, match="unknown tracker 'mlflow'; choose from tensorboard, wandb, trackio"):
        open_sinks(["mlflow"], tmp_path, "k15", {})


def test_trackers_get_finite_numbers_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracker's package is replaced at its documented surface: init, log, finish."""
    calls: list[tuple[str, Any]] = []
    run = types.SimpleNamespace(
        log=lambda row, step: calls.append(("log", (row, step))), finish=lambda: calls.append(("finish", None))
    )

    def init(**options: Any) -> types.SimpleNamespace:
        calls.append(("init", options))
        return run

    for name in ("wandb", "trackio"):
        calls.clear()
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(init=init))
        log = MetricsLog(tmp_path / "demo", [name], "proj", {"seed": 1})
        log.write(7, {"a": 1.0, "b": float("nan")})
        log.close()
        assert [call[0] for call in calls] == ["init", "log", "finish"]
        options = calls[0][1]
        assert (options["project"], options["resume"]) == ("proj", "allow")
        assert options["name"].startswith("demo")
        assert (
            options.get("id", options["name"]) == identity(tmp_path / "demo") != identity(tmp_path / "other" / "demo")
        )
        assert calls[1][1] == ({"a": 1.0, "nonfinite": 1}, 7)


def test_tensorboard_files_hold_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(tmp_path, ["tensorboard"])
    for i in range(4):
        log.write(i, {"reward/mean": 0.5 + i})
    log.truncate(2)
    log.write(2, {"reward/mean": 9.0})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [(0, 0.5), (1, 1.5), (2, 9.0)]


def rows(tmp_path: Path, sink: str) -> None:
    """A run of three iterations that falls back to its second and goes on."""
    for first, last in ((0, 3), (2, 4)):
        log = MetricsLog(tmp_path / "demo", [sink], "proj", {"seed": 1, "model": {"layers": [1, 2]}})
        log.truncate(first)
        for i in range(first, last):
            log.write(i, {"reward/mean": 0.5 + i, "bad": float("nan")})
        log.close()


def test_wandb_keeps_offline_runs_in_the_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    pytest.importorskip("wandb")
    rows(tmp_path, "wandb")
    files = list((tmp_path / "demo" / "wandb").glob(f"offline-run-*/run-{identity(tmp_path / 'demo')}.wandb"))
    assert files
    assert all(path.stat().st_size > 0 for path in files)


def test_trackio_resumes_the_run_of_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    rows(tmp_path, "trackio")
    with sqlite3.connect(tmp_path / "trackio" / "proj.db") as database:
        found = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert {name for name, _, _ in found} == {identity(tmp_path / "demo")}
    assert [step for _, step, _ in found] == [0, 1, 2, 2, 3]
    assert json.loads(found[-1][2])["reward/mean"] == 3.5
