"""Runs that watch how different their responses are: resumed bit for bit, and the same runs as without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_kit import assert_same_run, timeless, tiny

from recipes.run.session import run
from rl.config import RunConfig
from rl.config_io import ConfigError, load
from rl.learner.host import LearnerHost
from rl.record.log import read_metrics
from rl.state import checkpoint
from rl.state.checkpoint import MOMENTS

WATCHED = {"alarm": None}
STOPS = {"alarm": {"then": "stop", "least": 1.0, "window": 1, "groups": 1}}


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert run(tiny(diversity=WATCHED), folder) == 0
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    return [timeless(row) for row in read_metrics(folder)]


def without(folder: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if not name.startswith("diversity/")} for row in rows(folder)]


def moments(folder: Path) -> tuple[int, bytes, bytes]:
    found = checkpoint.latest(folder / "checkpoints", print)
    assert found is not None
    kept = found[0].moments
    assert kept is not None
    return kept.count, kept.mean.tobytes(), kept.scatter.tobytes()


def test_a_run_that_watches_is_the_same_run_as_one_that_does_not(whole: Path, tmp_path: Path) -> None:
    assert run(tiny(), tmp_path / "run") == 0
    assert_same_run(whole, tmp_path / "run")
    assert rows(tmp_path / "run") == without(whole)
    assert "time/diversity" not in {name for row in read_metrics(tmp_path / "run") for name in row}
    assert not [*(tmp_path / "run").rglob(MOMENTS)]
    found = [row for row in rows(whole) if row["groups/finished"]]
    assert found
    assert all({"diversity/spread", "diversity/across", "diversity/identical"} <= row.keys() for row in found)
    assert moments(whole)[0] == sum(round(row["rollouts/finished"]) for row in rows(whole))
    assert "Spread of responses" in (whole / "report.html").read_text()
    assert "Spread of responses" not in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("overlap", [None, {"max_staleness": 0}])
@pytest.mark.parametrize("every", [1, 3])
def test_a_killed_run_measures_the_same_when_it_goes_on(
    every: int, overlap: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(diversity=WATCHED, overlap=overlap, checkpoint={"every": every})
    publish = LearnerHost.publish

    def killed(self: LearnerHost, version: int) -> Any:
        if version == 2:
            raise Killed
        return publish(self, version)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(LearnerHost, "publish", killed)
        run(config, tmp_path / "run")
    assert len(rows(tmp_path / "run")) == 2
    assert run(config, tmp_path / "run") == 0
    assert_same_run(whole, tmp_path / "run")
    assert rows(tmp_path / "run") == rows(whole)
    assert moments(tmp_path / "run") == moments(whole)


@pytest.mark.parametrize(
    "loop", [{"overlap": {"max_staleness": 1}}, {"overlap": {"mode": "on_policy"}, "learner": {"updates": 1}}]
)
def test_every_loop_measures_all_that_it_has_trained_on(loop: dict[str, Any], tmp_path: Path) -> None:
    assert run(tiny(diversity=WATCHED, **loop), tmp_path / "run") == 0
    found = rows(tmp_path / "run")
    assert all("diversity/spread" in row for row in found if row["groups/finished"])
    assert moments(tmp_path / "run")[0] == sum(round(row["rollouts/finished"]) for row in found)


def test_an_alarm_ends_the_run_which_goes_on_under_another(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run(tiny(diversity=STOPS), folder) == 1
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert "by diversity.alarm: " in error
    stopped = rows(folder)
    assert 0 < len(stopped) < 4
    assert run(tiny(diversity=STOPS), folder) == 1, "it would stop again"
    assert "by diversity.alarm: " in capsys.readouterr().err
    assert rows(folder) == stopped
    assert run(tiny(diversity={"alarm": STOPS["alarm"] | {"then": "warn"}}), folder) == 0
    assert rows(folder) == rows(whole)
    assert "exploration-collapsed" in (folder / "summary.json").read_text()


def test_it_can_be_switched_on_and_off_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    for count, watch in ((2, None), (3, WATCHED), (4, None)):
        assert run(tiny(iterations=count, diversity=watch), folder) == 0
    assert ["diversity/spread" in row for row in rows(folder)] == [False, False, True, False]


def test_keys_that_there_are_not_are_refused_and_one_word_is_what_the_alarm_does() -> None:
    assert RunConfig().diversity is None
    for pairs in ([("diversity", "stop")], [("diversity.alarm.then", "stop")], [("diversity.alarm", "stop")]):
        found = load(RunConfig(), overrides=pairs).diversity
        assert found is not None
        assert found.alarm is not None
        assert found.alarm.then == "stop"
    silent = load(RunConfig(), overrides=[("diversity.alarm", "null")]).diversity
    assert silent is not None
    assert silent.alarm is None
    for pair in (("diversity.spread", "1"), ("diversity.alarm.lest", "0.1"), ("diversity.alarm.fall", "1.5")):
        with pytest.raises(ConfigError, match=pair[0].replace(".", r"\.")):
            load(RunConfig(), overrides=[pair])
