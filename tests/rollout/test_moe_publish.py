"""Mixtures of experts on real vLLM on a CPU: what a publish leaves behind is what was sent."""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import log_probs

from rollout.config import EngineConfig
from rollout.engines.vllm import VllmEngine
from rollout.transfer.weights import ShmSender
from tests.needs import needs_vllm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200), needs_vllm]

CONFIG = EngineConfig(
    max_model_len=128, max_concurrency=4, max_batched_tokens=64, kv_cache_gib=0.05, threads=1, weight_transfer="shm"
)
PROBE = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11], [(5 * i * i) % 32 for i in range(40)]]
FAMILIES: dict[str, dict[str, Any]] = {  # experts of 48: vLLM pads them to 64 before it packs them
    "Qwen3Moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48},
    "Mixtral": {"num_local_experts": 4, "intermediate_size": 48},
    "DeepseekV3": {
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "moe_intermediate_size": 48,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "num_key_value_heads": 2,
        "head_dim": 16,
        "kv_lora_rank": 32,
        "q_lora_rank": None,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 16,
        "v_head_dim": 24,
    },
}


def mixture(family: str) -> Any:
    import transformers

    sizes = {
        "vocab_size": 32, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 32,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128, "bos_token_id": None,
        "eos_token_id": None, "pad_token_id": None, "tie_word_embeddings": False, "initializer_range": 0.15,
    }  # fmt: skip
    config = getattr(transformers, f"{family}Config")(**{**sizes, **FAMILIES[family]})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, f"{family}ForCausalLM")(config).float().eval()


def moved(model: Any, part: str) -> Any:
    """``model`` with noise on the weights and buffers whose names contain ``part``."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in other.state_dict(keep_vars=True).items():
            if part in name:
                tensor.add_(0.1 * torch.randn_like(tensor))
    return other


@pytest.fixture
def environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("family", FAMILIES)
def test_experts_are_published_exactly(family: str, tmp_path: Path, environment: None) -> None:
    """The kernel's layout was made once: after a reload it read plain weights as packed ones, 0.06 nats away."""
    peft = pytest.importorskip("peft")
    model = mixture(family)
    model.save_pretrained(tmp_path)
    adapters = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = moved(peft.get_peft_model(copy.deepcopy(model), adapters), "lora_B")
    versions = [model, moved(model, "experts"), moved(model, "gate"), moved(model, ""), adapted]
    if biases := [name for name in model.state_dict() if name.endswith("e_score_correction_bias")]:
        versions.append(moved(model, biases[0]))

    async def gaps() -> list[tuple[float, float]]:
        """To the weights sent, and to those that the engine was loaded with."""
        engine, sender = VllmEngine(str(tmp_path), CONFIG, 0), ShmSender()
        await engine.start()
        try:
            found = [(gap(await engine.score(PROBE), model), 1.0)]
            for version, sent in enumerate(versions):
                await engine.update_weights(sender.send(sent, version))
                scores = await engine.score(PROBE)
                found.append((gap(scores, sent), gap(scores, model)))
        finally:
            await engine.close()
            sender.close()
        return found

    found = asyncio.run(gaps())
    assert all(near < 1e-5 for near, _ in found), found
    assert all(far > 0.01 for _, far in found[2:]), "the weights moved, and the engine's with them"


def gap(scores: list[list[float]], model: Any) -> float:
    rows = zip(scores, (log_probs(model, sequence) for sequence in PROBE), strict=True)
    return max(abs(a - b) for ours, theirs in rows for a, b in zip(ours, theirs, strict=True))
