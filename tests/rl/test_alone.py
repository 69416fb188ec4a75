"""A judge on a real engine of its own, in this process."""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from eval_kit import write_model
from judge_kit import asked
from reward_model_kit import Says

from rl import reward_models
from rl.alone import _Placed, open_judge
from rl.config import RayConfig
from rl.stop import Interrupted
from rollout.config import EngineConfig
from rollout.grading import Answered, Grading, VerifierGrader
from rollout.models.prompts import PromptError
from rollout.pool.open_stream import OpenStream
from rollout.pool.pool import Pool
from rollout.reward_models import judge
from rollout.reward_models.asking import judge_card
from rollout.reward_models.config import RewardModelConfig
from rollout.reward_models.grader import RuleThenModel
from rollout.reward_models.judge import JudgeModel
from rollout.reward_models.opinion import Opinion
from rollout.timeline import FILE, recording
from tests.processes import until

LIKE = EngineConfig(kind="hf", threads=1)
HERE = RayConfig(in_process=True)
CARD = judge_card("{question} {reference} {response}", max_tokens=100)


def test_a_judge_that_babbles_has_no_opinion_and_is_counted(tmp_path: Path) -> None:
    path = str(write_model(tmp_path / "model", context=256))
    config = RewardModelConfig(path=path, samples=2, max_tokens=24)
    with recording(tmp_path / FILE, lambda _: None):
        model = open_judge(path, CARD, config, LIKE, HERE)
        try:
            opinions = asyncio.run(judged(model, asked("4"), asked("5 <user>")))
            counts = model.counts()
        finally:
            model.close()
    assert [opinion.right for opinion in opinions] == [None, None]
    assert (counts["asked"], counts["unread"], counts["asked_again"], counts["lost"]) == (2, 4, 4, 0)
    assert counts["tokens"] > 8
    lanes = (tmp_path / FILE).read_text()
    assert '"judge 0"' in lanes
    assert '"engine 0"' not in lanes


async def judged(model: JudgeModel, *answers: Answered) -> Sequence[Opinion]:
    return await model.judge(answers)


def test_a_judge_that_cannot_be_used_is_refused_before_an_engine_starts(tmp_path: Path) -> None:
    path = str(write_model(tmp_path / "model", context=128))
    config = RewardModelConfig(path=path, max_tokens=24)
    with pytest.raises(PromptError, match="no tokens for some characters"):
        open_judge(path, judge_card("\u00abis\u00bb {response}"), config, LIKE, HERE)
    with pytest.raises(PromptError, match="leaves a judge no room"):
        open_judge(path, CARD, config.model_copy(update={"max_tokens": 300}), LIKE, HERE)


def test_what_keeps_a_judge_from_working_leaves_no_engines_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Pool) -> OpenStream:
        raise RuntimeError("no stream")

    monkeypatch.setattr(judge, "OpenStream", broken)
    path = str(write_model(tmp_path / "model", context=256))
    with pytest.raises(RuntimeError, match="no stream"):
        open_judge(path, CARD, RewardModelConfig(path=path, max_tokens=24), LIKE, HERE)
    until(lambda: not [one for one in threading.enumerate() if one.name == "rollout-pool"], "the pool is closed")


def test_an_interrupt_while_waiting_for_a_place_gives_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = importlib.import_module("ray.util.placement_group")

    class Group:
        def wait(self, _: float) -> bool:
            raise Interrupted("SIGTERM")

    given_back: list[Group] = []
    monkeypatch.setattr(groups, "placement_group", lambda *_, **__: Group())
    monkeypatch.setattr(groups, "remove_placement_group", given_back.append)
    with pytest.raises(Interrupted):
        _Placed("judge", LIKE.model_copy(update={"count": 1}), 0, 0.0)
    assert len(given_back) == 1


def test_a_model_that_is_still_being_opened_when_nobody_wants_it_any_more_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    made = Says(lambda _: 1.0)

    def slow(*_: object) -> Says:
        begun.set()
        go_on.wait(60)
        return made

    monkeypatch.setattr(reward_models, "open_model", slow)
    model = reward_models.OnDemand(RewardModelConfig(path="x", audit=1.0), reward_models.HERE)
    with Grading(RuleThenModel(VerifierGrader(), model, model._config)) as grading:
        grading.submit(lambda: [asked("4")])
        assert begun.wait(60)
    assert made.closed == 0
    go_on.set()
    until(lambda: made.closed == 1, "it is closed")


@pytest.mark.slow
def test_a_judge_beside_a_run_uses_its_connection_and_gives_its_place_back(ray_cluster: str, tmp_path: Path) -> None:
    """A run is connected already when its judge's engines start, and goes on when they are closed."""
    import ray
    from ray.util.placement_group import placement_group_table

    path = str(write_model(tmp_path / "model", context=256))
    model = open_judge(path, CARD, RewardModelConfig(path=path, max_tokens=24), LIKE, RayConfig())
    states = [group["state"] for group in placement_group_table().values()]
    opinions = asyncio.run(judged(model, asked("4")))
    model.close()
    assert "CREATED" in states
    assert [opinion.right for opinion in opinions] == [None]
    assert model.counts()["lost"] == 0
    assert ray.is_initialized()
    assert ray.get_runtime_context().gcs_address == ray_cluster
    until(lambda: all(group["state"] == "REMOVED" for group in placement_group_table().values()), "the place is free")
