"""rl.record.metrics and rl.record.measure: one table of names, and all of it is written by a real run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from factories import group, rollout
from paths import ROOT
from reward_model_kit import rewarded, save_coin, save_judge
from run_kit import tiny

from recipes.run.session import run
from rewards.score import Score
from rewards.stats import mean_ci
from rl.diversity_config import DiversityConfig
from rl.record.log import read_evaluations, read_metrics
from rl.record.measure import of_rollouts
from rl.record.metrics import FAMILIES, METRICS, PHASES, Row, about, page, unknown
from rl.rewarding import reward_group
from rollout.copying.head import load_head
from rollout.types import StopReason


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one process with all that only some runs report: block attention, bounded logits, importance weights, a
    copy head, evaluations, turns.
    """
    folder = tmp_path_factory.mktemp("runs") / "everything"
    base = tiny().model_dump(mode="json")
    model = base["model"] | {"attention": {"moba": {"block_size": 16, "top_k": 1}}}
    learner = {"updates": 2, "objective": {"importance": {}}, "copying": {}, "qk_clip": 100.0}
    ray = {"in_process": True, "deployment": "hybrid"}
    changes = {"model": model, "learner": learner, "eval": {"every": 1, "samples": 1}, "ray": ray}
    assert run(tiny(iterations=3, diversity={}, **changes), folder) == 0
    return folder


@pytest.fixture(scope="module")
def clipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with an objective that clips ratios and an environment, and overlapped."""
    folder = tmp_path_factory.mktemp("runs") / "clipped"
    learner = {"updates": 2, "objective": {"kind": "grpo"}}
    environment = {"kind": "retry", "feedback": "7"}
    changes = {"learner": learner, "environment": environment, "eval": {"every": 0, "samples": 1}}
    assert run(tiny(iterations=3, warmup=None, overlap={"max_staleness": 1}, **changes), folder) == 0
    return folder


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a reward model, which is compared with the rule and with labels, and calls all responses right."""
    folder = tmp_path_factory.mktemp("runs")
    labelled = folder / "labelled.jsonl"
    pairs = [("2", "right"), ("3", "wrong")]
    lines = [{"problem": "1+1", "response": text, "label": label} for text, label in pairs]
    labelled.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = rewarded(save_coin(folder / "head"), labelled=str(labelled), threshold=0.01)
    assert run(config.model_copy(update={"diversity": DiversityConfig()}), folder / "judged") == 0
    return folder / "judged"


@pytest.fixture(scope="module")
def with_judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a judge on engines of its own."""
    folder = tmp_path_factory.mktemp("runs")
    judge = {"when": "undecided", "max_tokens": 4, "engine": {"kind": "hf", "threads": 1}}
    assert run(rewarded(save_judge(folder / "judge"), 1, **judge), folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def rows(everything: Path) -> list[Row]:
    return read_metrics(everything)


def test_runs_write_every_name_of_the_table_and_no_other(
    rows: list[Row], clipped: Path, judged: Path, with_judge: Path
) -> None:
    others = {name for folder in (clipped, judged, with_judge) for row in read_metrics(folder) for name in row}
    assert "saturated" not in {name for row in read_metrics(clipped) for name in row}
    written = {name for row in rows for name in row} | others
    assert METRICS.keys() - written == set()
    assert unknown(written) == []
    assert all(isinstance(value, int | float) and math.isfinite(value) for row in rows for value in row.values())


def test_a_copy_head_is_taught_from_the_warm_up_on_and_exported(everything: Path, rows: list[Row]) -> None:
    steps = json.loads((everything / "warmup" / "warmup.json").read_text())["metrics"]
    assert all("copying/loss" in found and not unknown(found) for _, found in steps)
    assert any("copying/loss" in row for row in rows)
    assert load_head(everything / "model").weight.any()


def test_rows_tell_of_evaluations_and_checkpoints(everything: Path, rows: list[Row]) -> None:
    between = {item.iteration: item for item in read_evaluations(everything) if item.name.startswith("it")}
    assert between.keys() == {1, 2}
    for row in rows:
        known = between.get(round(row["iteration"]))
        assert row.get("eval/accuracy") == (known and known.accuracy.mean)
        assert row.get("eval/n") == (known and known.accuracy.n)
    # The first iteration starts from no checkpoint; that of the state after the last one belongs to no iteration.
    assert ["time/checkpoint" in row for row in rows] == [False, True, True]
    summary = json.loads((everything / "summary.json").read_text())
    assert summary["wall_seconds"]["rl_checkpoint"] > sum(row.get("time/checkpoint", 0.0) for row in rows)
    for row in rows:
        assert row["time/total"] == pytest.approx(sum(row.get(f"time/{phase}", 0.0) for phase in PHASES))


def test_every_rollout_that_finished_is_trained_on_or_counted_as_left_out(rows: list[Row]) -> None:
    for row in rows:
        assert row["rollouts/finished"] == sum(
            row[f"sequences/{fate}"] for fate in ("trained", "masked", "stale", "small_groups")
        )


def test_the_docs_have_the_table_as_it_is() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == page()


def test_names_are_looked_up_and_families_by_their_prefix() -> None:
    assert about("objective/clipped") == FAMILIES["objective/"]
    assert about("loss") == METRICS["loss"]
    assert unknown(["loss", "lost", "reward/part/answer", "objectives"]) == ["lost", "objectives"]
    assert {f"time/{phase}" for phase in PHASES} < METRICS.keys()


def test_of_rollouts_counts_what_happened() -> None:
    right, wrong = Score.right("7", answer=1.0), Score.wrong("another number", "8", answer=0.0)
    first = group(
        "0.0",
        [
            rollout("0.0/0", [(2, 4), (3, 6)], score=right),
            rollout("0.0/1", [(3, 20)], stop=StopReason.LENGTH, score=wrong),
            rollout("0.0/2", [(3, 5)], score=Score.ungradable("timed out")),
            rollout("0.0/3", [(1, 2)], stop=StopReason.ABORTED, score=Score.ungradable("aborted")),
        ],
    )
    second = group("0.1", [rollout(f"0.1/{j}", [(3, 4)], score=right) for j in range(2)], index=1)
    scored = [reward_group(g, [r.score or wrong for r in g.rollouts], 0.2, 0.0) for g in (first, second)]
    row = of_rollouts(3, scored, {"0.0/0": 0.5, "0.0/1": -0.5}, 0.2)
    assert row["accuracy"] == mean_ci([[1.0, 0.0], [1.0, 1.0]]).mean == 0.75
    assert row["reward/part/answer"] == 0.75
    rewards = [r for s in scored for r in s.rewards if r is not None]
    assert row["reward/mean"] == pytest.approx(sum(rewards) / 4)
    assert row["reward/length_mean"] == pytest.approx(row["reward/mean"] - 0.75)  # what is left is its length part
    assert [row[f"stop/{why}"] for why in ("eos", "length", "repetition", "aborted")] == [4, 1, 0, 1]
    assert [row[f"rollouts/{what}"] for what in ("finished", "ungradable")] == [6, 1]
    assert [row[f"groups/{what}"] for what in ("finished", "trainable", "all_right", "all_wrong")] == [2, 1, 1, 0]
    assert (row["length/max"], row["rollouts/versions_max"]) == (20, 2)
    assert row["length/mean"] == pytest.approx((10 + 20 + 5 + 2 + 4 + 4) / 6)
    assert row["staleness/mean"] == pytest.approx((1 * 4 + 2 * 2) / 45)


def test_with_nothing_finished_there_are_counts_and_no_means() -> None:
    row = of_rollouts(5, [], {}, 0.0)
    assert not {"accuracy", "reward/mean", "length/mean", "staleness/mean"} & row.keys()
    assert row["rollouts/finished"] == row["groups/finished"] == 0
    assert unknown(row) == []
