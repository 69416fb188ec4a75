"""A judge on a real engine of its own, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from eval_kit import write_model
from judge_kit import asked

from rl.alone import open_judge
from rl.config import RayConfig
from rollout.config import EngineConfig
from rollout.grading import Answered
from rollout.models.prompts import PromptError
from rollout.reward_models.asking import judge_card
from rollout.reward_models.config import RewardModelConfig
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
