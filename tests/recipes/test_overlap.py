"""Overlapped runs: with S = 0 they are those in turn; with more, nothing is lost, too old or trained twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from run_kit import assert_same_run, timeless, tiny

from recipes.commands.cli import main
from recipes.run import session
from recipes.run.launching import Machines
from recipes.run.session import run
from rl.config import RunConfig
from rl.config_io import dump, load, parse_yaml
from rl.learner.host import LearnerHost
from rl.record.log import read_metrics
from rl.state.journal import Journal
from rollout.engine import Delta
from rollout.engines import hf_sampling
from tests.mortal import mortal

STALE = {"max_staleness": 1}
ON_POLICY = {"overlap": {"mode": "on_policy"}, "learner": {"updates": 1}}


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "in_turn"
    assert run(tiny(), folder) == 0
    return folder


def rollouts(folder: Path) -> list[dict[str, Any]]:
    """All rollouts in the order of their iterations."""
    files = sorted((folder / "rollouts").glob("*.parquet"))
    return [row | {"iteration": int(file.stem)} for file in files for row in pq.read_table(file).to_pylist()]


def audit(folder: Path, config: RunConfig) -> None:
    """Every iteration trained a full batch of what was drawn, in order, and each group once."""
    rows, size = rollouts(folder), config.rollout.groups * config.rollout.k
    assert Counter(row["iteration"] for row in rows) == dict.fromkeys(range(config.iterations), size)
    assert set(Counter(row["rollout"] for row in rows).values()) == {1}, "none twice"
    for row in rows:
        assert row["segment_versions"] == sorted(row["segment_versions"])
        assert max(row["segment_versions"], default=0) <= row["iteration"]
    metrics = read_metrics(folder)
    assert [row["iteration"] for row in metrics] == [*range(config.iterations)]
    assert sum(row["rollouts/finished"] for row in metrics) == len(rows)


def journalled(folder: Path) -> dict[str, list[Delta]]:
    """Everything that was drawn of each rollout, by the journals that there are."""
    found: dict[str, list[Delta]] = {}
    journal = Journal(folder / "journal")
    for file in sorted((folder / "journal").glob("*.arrow")):
        for delta in journal.open(int(file.stem)):
            found.setdefault(delta.key, []).append(delta)
    journal.close()
    return found


def assert_kept(drawn: dict[str, list[Delta]], folder: Path) -> None:
    """All tokens that the journals had are in the rollouts, in their order, with their log-probs and versions."""
    count = 0
    for row in rollouts(folder):
        deltas = drawn.get(row["rollout"], [])
        tokens = np.concatenate([[], *(delta.token_ids for delta in deltas)])
        versions = np.concatenate([[], *(np.full(len(delta.token_ids), delta.version) for delta in deltas)])
        logprobs = np.concatenate([[], *(delta.logprobs for delta in deltas)]).astype(np.float32)
        whole = np.repeat(row["segment_versions"], row["segment_lengths"])
        starts = [
            at
            for at in range(len(whole) - len(tokens) + 1)
            if np.array_equal(row["token_ids"][at : at + len(tokens)], tokens)
            and np.array_equal(np.array(row["logprobs"], np.float32)[at : at + len(tokens)], logprobs)
            and np.array_equal(whole[at : at + len(tokens)], versions)
        ]
        assert starts, row["rollout"]
        count += len(tokens)
    assert count == sum(len(delta.token_ids) for deltas in drawn.values() for delta in deltas)


def kill(patch: pytest.MonkeyPatch, owner: Any, method: str, when: Any) -> None:
    """End the process before a call of ``method`` for which ``when`` holds."""
    original = getattr(owner, method)

    def watched(self: Any, *args: Any) -> Any:
        if when(*args):
            raise Killed
        return original(self, *args)

    patch.setattr(owner, method, watched)


def test_without_staleness_the_run_is_the_one_in_turn(in_turn: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(tiny(overlap={"max_staleness": 0}), folder) == 0
    assert_same_run(in_turn, folder)
    ours, theirs = ([timeless(row) for row in read_metrics(one)] for one in (folder, in_turn))
    assert ours == theirs


@pytest.mark.parametrize("iteration", [0, 1, 2, 3])
def test_without_staleness_a_killed_run_resumes_to_the_same_bits(
    iteration: int, in_turn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = tmp_path / "run", tiny(overlap={"max_staleness": 0}, checkpoint={"every": 3})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, session.Rewarder, "collect", lambda i, *_: i == iteration > 0)
        kill(patch, Journal, "chose", lambda i, _: i == iteration == 0)
        run(config, folder)
    assert run(config, folder) == 0
    assert_same_run(in_turn, folder)


@pytest.mark.parametrize("loss_on", ["current", "all"])
@pytest.mark.parametrize("staleness", [1, 2])
def test_no_token_in_the_loss_and_no_rollout_is_older_than_the_bound(
    staleness: int, loss_on: str, tmp_path: Path
) -> None:
    rollout = {"groups": 3, "k": 2, "segment_tokens": 30, "max_tokens": 30, "loss_on": loss_on}
    config = tiny(overlap={"max_staleness": staleness}, rollout=rollout, iterations=6)
    assert run(config, tmp_path / "run") == 0
    audit(tmp_path / "run", config)
    ages = [row["iteration"] - min(row["segment_versions"]) for row in rollouts(tmp_path / "run")]
    assert max(ages) == staleness
    assert all(row["trained"] for row in rollouts(tmp_path / "run"))


def test_partial_rollouts_go_on_beneath_new_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*args: Any) -> Any:
        time.sleep(0.01)  # a response takes longer than an iteration's training
        return draw(*args)

    draw = hf_sampling.draw
    monkeypatch.setattr(hf_sampling, "draw", slow)
    config = tiny(overlap=STALE, iterations=6)
    assert run(config, tmp_path / "run") == 0
    audit(tmp_path / "run", config)
    assert any(len(set(row["segment_versions"])) > 1 for row in rollouts(tmp_path / "run"))


STRIKES: list[tuple[str, Any, str, Any]] = [
    ("sampling", session.Rewarder, "submit", lambda group, *_: group.id.startswith("000002")),
    ("batch chosen", session.Rewarder, "collect", lambda i, *_: i == 2),
    ("publish", LearnerHost, "publish", lambda version: version == 3),
]


@pytest.mark.parametrize(("owner", "method", "when"), [strike[1:] for strike in STRIKES], ids=[s[0] for s in STRIKES])
@pytest.mark.parametrize("every", [1, 3])
def test_a_killed_overlapped_run_goes_on_with_every_token(
    every: int, owner: Any, method: str, when: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config = tmp_path / "run", tiny(overlap=STALE, iterations=6, checkpoint={"every": every})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, owner, method, when)
        run(config, folder)
    drawn = journalled(folder)
    assert run(config, folder) == 0
    audit(folder, config)
    assert_kept(drawn, folder)


def test_iterations_that_are_gone_through_again_train_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no checkpoint since iteration 0, and iterations 0 to 2 were trained."""
    folder, config = tmp_path / "run", tiny(overlap=STALE, iterations=6, checkpoint={"every": 6})
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill(patch, session.Rewarder, "collect", lambda i, *_: i == 3)
        run(config, folder)
    before, rows = rollouts(folder), read_metrics(folder)
    assert {row["iteration"] for row in before} == {0, 1, 2}
    assert run(config, folder) == 0
    audit(folder, config)
    again = [row for row in rollouts(folder) if row["iteration"] < 3]
    assert [key(row) for row in again] == [key(row) for row in before]
    same = ("loss/first", "loss/last", "grad_norm", "tokens/sampled", "rollouts/unfinished")
    for one, other in zip(rows, read_metrics(folder), strict=False):
        assert [one.get(name) for name in same] == [other.get(name) for name in same]


def key(row: dict[str, Any]) -> Sequence[Any]:
    return row["iteration"], row["rollout"], row["token_ids"], row["logprobs"], row["advantage"]


@pytest.mark.parametrize(
    ("staleness", "words"),
    [
        ("3", "10 training problems cannot fill a batch of 12 different ones; lower rollout.groups (or overlap."),
        ("9", "overlap.max_staleness (9) is above rollout.max_age (4)"),
        ("-1", "overlap.max_staleness"),
    ],
)
def test_more_staleness_than_there_can_be_is_one_line_before_anything_is_spent(
    staleness: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    easy = {"kind": "arithmetic", "steps": [2, 2]}
    small = tiny(problems={"train": easy, "heldout": easy, "heldout_size": 4, "train_size": 10})
    (tmp_path / "small.yaml").write_text(dump(small))
    folder = tmp_path / "run"
    assert main(["train", "--config", str(tmp_path / "small.yaml"), "--run-dir", str(folder), "--overlap", staleness])
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert not (folder / "config.yaml").exists()
    assert not (folder / "warmup").exists()


def test_a_run_that_is_stopped_and_prolonged_goes_on(tmp_path: Path) -> None:
    assert run(tiny(overlap=STALE, iterations=3), tmp_path / "run") == 0
    longer = tiny(overlap=STALE, iterations=6)
    assert run(longer, tmp_path / "run") == 0
    audit(tmp_path / "run", longer)


@pytest.mark.parametrize(
    "death", [("train", 3, False), ("train", 2, True), ("publish", 5, True), ("save", 3, False), ("score", 4, False)]
)
def test_a_learner_that_dies_is_replaced_and_the_engines_live_on(death: Any, tmp_path: Path) -> None:
    config, made = tiny(overlap=STALE, iterations=6), list[Machines]()
    assert run(config, tmp_path / "run", mortal([death], made)) == 0
    assert len(made) == 1
    assert made[0].policy.calls["replace"] == 1
    audit(tmp_path / "run", config)


@pytest.mark.parametrize(
    "deaths", [[], [("accumulate", 1, True)], [("close_iteration", 2, False)]], ids=["none", "accumulate", "close"]
)
def test_strictly_on_policy_is_the_run_in_turn_up_to_rounding(deaths: Any, tmp_path: Path) -> None:
    """Also with a learner that dies on the way: what it had added up is gone, and added up again."""
    one_step, made = tiny(learner={"updates": 1}), list[Machines]()
    assert run(one_step, tmp_path / "turn") == 0
    assert run(tiny(**ON_POLICY), tmp_path / "streamed", mortal(deaths, made)) == 0
    assert made[0].policy.calls["replace"] == len(deaths)
    ours, theirs = read_metrics(tmp_path / "streamed"), read_metrics(tmp_path / "turn")
    for one, other in zip(ours, theirs, strict=True):
        for name in ("rollouts/finished", "tokens/sampled", "sequences/trained", "tokens/trained", "steps/done"):
            assert one[name] == other[name], name
        for name in ("grad_norm", "loss", "accuracy", "reward/mean"):
            assert (name in one) == (name in other)
            assert one.get(name, 0.0) == pytest.approx(other.get(name, 0.0), rel=1e-3, abs=1e-6), name


def test_a_written_configuration_is_read_back() -> None:
    for overlap in (None, {"max_staleness": 2}, {"mode": "on_policy"}):
        config = tiny(overlap=overlap, learner={"updates": 1})
        assert load(RunConfig(), parse_yaml(dump(config)), []) == config


def test_a_tools_answers_come_while_weights_change(tmp_path: Path) -> None:
    sums = {"kind": "sums", "digits": [1, 1], "terms": [2, 2]}
    config = tiny(
        overlap=STALE,
        problems={"train": sums, "heldout": sums, "heldout_size": 4},
        warmup={"examples": 400, "batch_tokens": 256, "mixture": {"tool": 1.0}, "lr": 1e-2},
        environment={"kind": "python_tool", "opens": "<python>", "closes": "</python>", "turns": 2, "feed_tokens": 8},
    )
    assert run(config, tmp_path / "run") == 0
    audit(tmp_path / "run", config)
    assert any("environment" in row["segment_by"] for row in rollouts(tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"overlap": {"max_staleness": 5}}, "above rollout.max_age"),
        ({"overlap": {"mode": "on_policy"}}, "set it to 1"),
        ({"engine": {"max_model_len": 96, "in_flight": "recompute"}, "ray": {}}, "leave it abort"),
        ({"engine": {"max_model_len": 96, "in_flight": "keep"}, "ray": {}, **ON_POLICY}, "leave it abort"),
        ({"overlap": {"mode": "on_policy", "max_staleness": 2}, "learner": {"updates": 1}}, "leave it out"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny(**changes)
