"""The grid of the robustness benchmark: which runs it has, and when a run misses the bar. Its runs are no tests."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import robustness
from benchmarks.robustness import Case, capabilities, grid, numbers, outcome, table
from recipes.run.promise import BROKEN


def summary(before: tuple[float, float, float], after: tuple[float, float, float]) -> dict[str, Any]:
    def accuracy(mean: float, low: float, high: float) -> dict[str, Any]:
        return {"mean": mean, "ci95": [low, high], "greedy": {"mean": 0.9}}

    return {
        "accuracy_before": accuracy(*before),
        "accuracy_after": accuracy(*after),
        "mean_tokens_before": 82.0,
        "mean_tokens_after": 143.0,
        "wall_seconds": {"start": 20.0, "rl_train": 40.0},
    }


KEPT = outcome("avx2-t1-s0", summary((0.4, 0.36, 0.44), (0.88, 0.85, 0.91)))


def test_seeds_are_a_range_or_a_list() -> None:
    assert numbers("0..9") == list(range(10))
    assert numbers("3") == [3]
    assert numbers("1,2,7") == [1, 2, 7]
    with pytest.raises(ValueError, match="invalid literal"):
        numbers("all")


def test_capabilities_that_the_cpu_lacks_are_left_out() -> None:
    names = ["default", "avx2", "avx512"]
    assert capabilities(names, "sse4_2 avx2 fma") == ["default", "avx2"]
    assert capabilities(names, "avx2 avx512f") == names
    with pytest.raises(ValueError, match="no capability avx9"):
        capabilities(["avx9"], "avx2")


def test_each_capability_meets_each_number_of_threads() -> None:
    cases = grid(range(10), ["default", "avx2", "avx512"], [1, 2])
    assert len({case.name for case in cases}) == len(cases) == 30
    assert {(case.capability, case.threads) for case in cases} == {
        (name, threads) for name in ("default", "avx2", "avx512") for threads in (1, 2)
    }


def test_the_environment_says_how_to_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert Case(0, "avx2", 1).environment()["ATEN_CPU_CAPABILITY"] == "avx2"
    assert Case(0, "default", 1).environment()["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert "ONEDNN_MAX_CPU_ISA" not in Case(0, "avx512", 1).environment()


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ((0.055, 0.04, 0.08), (0.88, 0.85, 0.91), "before 0.055"),
        ((0.55, 0.51, 0.59), (0.88, 0.85, 0.91), "before 0.550"),
        ((0.40, 0.36, 0.44), (0.62, 0.58, 0.66), "gain"),
        ((0.30, 0.10, 0.60), (0.70, 0.60, 0.80), "intervals touch"),
        ((0.20, 0.16, 0.24), (0.55, 0.51, 0.59), "final 0.550"),
    ],
)
def test_every_part_of_the_bar_can_be_missed(before: Any, after: Any, says: str) -> None:
    assert not KEPT.missed()
    (miss,) = outcome("x", summary(before, after)).missed()
    assert says in miss


def test_the_table_has_every_run_with_least_and_median() -> None:
    worse = dataclasses.replace(KEPT, name="default-t2-s1", after=0.58, after_ci95=(0.54, 0.62))
    text = table([KEPT, worse])
    lines = text.splitlines()
    assert len(lines) == 1 + 2 + 3
    assert "gain +0.180" in lines[2]
    assert lines[3].startswith("least")
    assert "0.580" in lines[3]
    assert "0.730" in lines[4]


@pytest.mark.parametrize(("code", "exit_code"), [(0, 0), (BROKEN, 1), (1, 1)])
def test_a_run_short_of_the_bar_or_failed_makes_the_exit_code_1(
    code: int, exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken promise is a complete run; any other exit code is none, whatever an earlier run left in the folder."""

    def ended(case: Case, further: Sequence[str]) -> tuple[Case, int, Path]:
        assert list(further) == ["--rollout.k", "4"]
        after = (0.88, 0.85, 0.91) if code != BROKEN else (0.50, 0.46, 0.54)
        folder = tmp_path / case.name
        folder.mkdir()
        (folder / "summary.json").write_text(json.dumps(summary((0.4, 0.36, 0.44), after)))
        folder.with_suffix(".log").write_text("no room\n")
        return case, code, folder

    monkeypatch.setattr(robustness, "run", ended)
    assert robustness.main(["--seeds", "0,1", "--capabilities", "default", "--rollout.k", "4"]) == exit_code
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["run"] for row in rows[1:-1]] == ["default-t1-s0", "default-t2-s1"]
    assert rows[-1]["failed"] == (2 if code == 1 else 0)
    assert rows[-1]["missed"] == (2 if code == BROKEN else 0)
