"""Context extension in transformers models: stages of the rotary embedding, and what cannot be one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from rl.config import RunConfig
from rl.learner.config import ModelConfig
from rl.learner.forward import packed_logprobs
from rl.learner.policy import PolicyError, prepare, use_attention
from rollout.config import EngineConfig
from rollout.engines.hf import HfEngine
from rollout.models.attention import AttentionConfig, BlockAttentionConfig, RotaryStage
from rollout.transfer.weights import ShmSender
from tests.tiny_models import log_probs, tiny_llama

torch.set_num_threads(1)
BASE = RotaryStage(iteration=2, base=1e6)
YARN = RotaryStage(iteration=4, scaling="yarn", factor=4, trained=64)
STAGES = AttentionConfig(rotary=(BASE, YARN))
ROW = torch.randint(0, 32, (200,), generator=torch.Generator().manual_seed(0)).tolist()
NATIVE = {
    2: {"rope_type": "default", "rope_theta": 1e6},
    4: {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64},
}


def native(version: int) -> list[float]:
    """Log-probs of a model that transformers itself builds with the stage's parameters."""
    changes = {"rope_parameters": NATIVE[version]} if version in NATIVE else {}
    made = tiny_llama(max_position_embeddings=256, **changes)
    made.load_state_dict(tiny_llama(max_position_embeddings=256).state_dict())
    return log_probs(made, ROW)


def test_the_learner_computes_what_transformers_does_with_the_same_parameters(tmp_path: Path) -> None:
    config = ModelConfig(threads=1, attention=STAGES)
    policy = prepare(tiny_llama(max_position_embeddings=256), config)
    found = {}
    for version in (0, 2, 3, 4, 5):
        use_attention(policy, config, version)
        targets = torch.arange(1, len(ROW))
        ours, _ = packed_logprobs(policy, torch.tensor(ROW), torch.tensor([0, len(ROW)]), targets)
        found[version] = ours.tolist()
    for version in (0, 2, 4):
        assert found[version] == pytest.approx(native(version), abs=1e-4)
    assert found[3] == found[2]
    assert found[5] == found[4]
    assert max(abs(a - b) for a, b in zip(found[0], found[2], strict=True)) > 0.1
    assert max(abs(a - b) for a, b in zip(found[2], found[4], strict=True)) > 0.1
    policy.save_pretrained(tmp_path)  # type: ignore[operator]
    assert log_probs(LlamaForCausalLM.from_pretrained(tmp_path), ROW) == pytest.approx(native(4), abs=1e-4)


def test_the_hf_engine_enters_the_stage_with_the_weights(tmp_path: Path) -> None:
    model, sender = tiny_llama(max_position_embeddings=256), ShmSender("local")
    model.save_pretrained(tmp_path)

    async def work() -> list[list[float]]:
        engine = HfEngine(str(tmp_path), EngineConfig(kind="hf", max_model_len=256), attention=STAGES)
        await engine.start()
        scores = []
        for version in (0, 2, 4):
            await engine.update_weights(sender.send(model, version))
            scores += await engine.score([ROW])
        await engine.close()
        return scores

    for version, values in zip((0, 2, 4), asyncio.run(work()), strict=True):
        assert values == pytest.approx(native(version), abs=1e-4)
    sender.close()


def test_linear_and_by_parts_are_transformers_own() -> None:
    for stage, parameters in [
        (RotaryStage(scaling="linear", factor=2), {"rope_type": "linear", "factor": 2.0}),
        (
            RotaryStage(scaling="by_parts", factor=4, trained=64),
            {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 32.0},
        ),
    ]:
        known = {"rope_theta": 10_000.0, "original_max_position_embeddings": 64, **parameters}
        expected = log_probs(tiny_llama(max_position_embeddings=256, rope_parameters=known), ROW)
        config = ModelConfig(threads=1, attention=AttentionConfig(rotary=(stage,)))
        policy = prepare(tiny_llama(max_position_embeddings=256), config)
        ours, _ = packed_logprobs(policy, torch.tensor(ROW), torch.tensor([0, len(ROW)]), torch.arange(1, len(ROW)))
        assert ours.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"scaling": "dynamic", "factor": 2}, "cannot be used in RL: its frequencies follow the current length"),
        ({"scaling": "yarn", "factor": 2}, "needs trained"),
        ({"scaling": "linear"}, "does not go with scaling"),
        ({"factor": 2}, "does not go with scaling"),
        ({}, "changes nothing"),
    ],
)
def test_impossible_stages(stage: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RotaryStage.model_validate(stage)


def test_settings_across_sections() -> None:
    with pytest.raises(ValueError, match="in order of iteration"):
        AttentionConfig(rotary=(YARN, BASE))
    run = {"engine": {"max_model_len": 4096}}
    with pytest.raises(ValueError, match=r"above model.base.context \(2048\), and model.attention.rotary does not"):
        RunConfig.model_validate(run)
    RunConfig.model_validate({**run, "model": {"attention": {"rotary": [{"base": 1e6}]}}})
    short = {"scaling": "yarn", "factor": 2, "trained": 1024}
    with pytest.raises(ValueError, match="covers 2048 tokens"):
        RunConfig.model_validate({**run, "model": {"attention": {"rotary": [short]}}})


def test_what_a_finished_run_computes_holds_for_all_versions() -> None:
    """What is made of its model counts its versions from 0 again; before, that brought the first stages back."""
    block = BlockAttentionConfig(block_size=32, top_k=2, full_from=10)
    attention = STAGES.model_copy(update={"moba": block})
    early, late = attention.settled(3), attention.settled(12)
    assert early.block(99) == block.model_copy(update={"full_from": None})
    assert early.stage(0) == BASE.model_copy(update={"iteration": 0})
    assert late.block(0) is None
    assert late.stage(0) == YARN.model_copy(update={"iteration": 0, "base": 1e6})
    assert AttentionConfig().settled(5) == AttentionConfig()


def test_models_whose_frequencies_follow_the_length_are_refused() -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    with pytest.raises(PolicyError, match="frequencies follow the current length"):
        prepare(tiny_llama(rope_parameters=dynamic), ModelConfig(threads=1))
