"""DPO of ``k15 shorten``: its plan, and going on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from learner_kit import run_config, save_tiny_model, weights

from recipes.shorten.config import DpoConfig, ShortenConfig
from recipes.shorten.dpo import TokenPair, configured, plan, prefer
from rl.config_io import ConfigError, load
from rl.learner.host import LearnerHost
from rl.learner.spec import LearnerSpec, Receivers
from rl.stop import Interrupted, Stopper
from rollout.progress import Track

KEYS = DpoConfig(beta=0.5, lr=1e-3, epochs=2, batch_pairs=3)
PAIRS: list[TokenPair] = [((5, 6, i), (7, i, 1), (8, 9, i, i, 1)) for i in range(10, 18)]


class Quiet(Track):
    def warn(self, text: str) -> None:
        raise AssertionError(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def host(folder: Path) -> LearnerHost:
    spec = LearnerSpec.of(configured(run_config(), folder, KEYS))
    return LearnerHost(spec, folder, Receivers("local"))


def train(policy: Any, out: Path, stopper: Stopper) -> int:
    out.mkdir(exist_ok=True)
    return prefer(policy, PAIRS, KEYS, out, Quiet(), stopper, seed=3)


def test_each_epoch_has_every_pair_once_in_an_order_of_its_own() -> None:
    steps = plan(8, KEYS, seed=3)
    assert [len(step.pairs) for step in steps] == [3, 3, 2] * 2
    first, second = ([index for step in part for index in step.pairs] for part in (steps[:3], steps[3:]))
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second
    assert max(step.lr for step in steps) == KEYS.lr
    assert steps[-1].lr < 0.2 * KEYS.lr
    assert plan(8, KEYS, seed=3) == steps != plan(8, KEYS, seed=4)


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("after", [1, 4])
def test_stopped_anywhere_it_goes_on_as_if_it_had_not(folder: Path, tmp_path: Path, after: int) -> None:
    whole = host(folder)
    assert train(whole, tmp_path / "whole", Stopper()) == 6
    told = rows(tmp_path / "whole")
    assert [row["step"] for row in told] == list(range(6))
    assert told[0]["margin"] == 0
    assert told[-1]["loss"] < told[0]["loss"]

    stopper = Stopper()

    class Stopping(LearnerHost):
        taken = 0

        def step(self, *given: Any) -> Any:
            self.taken += 1
            if self.taken == after:
                stopper.signal = 15
            return super().step(*given)

    cut = Stopping(LearnerSpec.of(configured(run_config(), folder, KEYS)), folder, Receivers("local"))
    with pytest.raises(Interrupted):
        train(cut, tmp_path / "cut", stopper)
    again = host(folder)
    assert train(again, tmp_path / "cut", Stopper()) == 6
    assert rows(tmp_path / "cut") == told
    ours, theirs = weights(again.learner.model), weights(whole.learner.model)
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_a_kill_between_checkpoints_repeats_their_steps_and_no_line(folder: Path, tmp_path: Path) -> None:
    """The log is ahead of the newest checkpoint then."""
    train(host(folder), tmp_path / "a", Stopper())
    told = rows(tmp_path / "a")
    for name in ("000005", "000006"):
        (tmp_path / "a" / "checkpoints" / name).rename(tmp_path / name)
    train(host(folder), tmp_path / "a", Stopper())  # from the start: no checkpoint is left
    assert rows(tmp_path / "a") == told


def test_a_key_that_moved_is_refused_with_its_new_name() -> None:
    with pytest.raises(ConfigError, match=r"'dpo.micro_batch_pairs' has moved: set run.learner.micro_batch_tokens"):
        load(ShortenConfig(), {"dpo": {"micro_batch_pairs": 4}})
    with pytest.raises(ConfigError, match=r"'dpo.micro_batch_pairs' has moved"):
        load(ShortenConfig(), overrides=[("dpo.micro_batch_pairs", "4")])
