"""QK-clip: no head's attention logits stay above the bound, and nothing else changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from learner_kit import VOCABULARY, learner_spec, make_batch, save_tiny_model, weights
from rank_kit import run_ranks
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    DeepseekV3Config,
    LlamaConfig,
    PhiConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.llama.modeling_llama import eager_attention_forward

from kernels.varlen import NAME, boundaries, largest_logits, register
from rl.learner.batch import pack_demonstrations
from rl.learner.config import LoraConfig, ModelConfig, RanksConfig
from rl.learner.forward import packed_inputs
from rl.learner.host import LearnerHost
from rl.learner.learner import Learner, whole
from rl.learner.policy import PolicyError, use_attention
from rl.learner.qk_clip import QkClip
from rl.learner.ranks import Ranks
from rl.learner.spec import Receivers
from rl.learner.stats import Step
from rl.objectives.cross_entropy import CrossEntropy

LENGTHS = (3, 300, 20)
"""More than the rows that exist at a time, and less."""
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512, "initializer_range": 0.3,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
LATENT: dict[str, Any] = {
    **SIZES, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 16,
    "first_k_dense_replace": 2, "n_group": 1, "topk_group": 1, "kv_lora_rank": 16, "q_lora_rank": None,
    "qk_rope_head_dim": 4, "qk_nope_head_dim": 6, "v_head_dim": 8,
}  # fmt: skip
CONFIGS = {
    "every head its key": lambda: LlamaConfig(**SIZES),
    "two heads a key": lambda: LlamaConfig(**SIZES | {"num_key_value_heads": 2}),
    "biases": lambda: Qwen2Config(**SIZES | {"num_key_value_heads": 2}),
    "latent": lambda: DeepseekV3Config(**LATENT),
    "latent queries too": lambda: DeepseekV3Config(**LATENT | {"q_lora_rank": 12}),
}


def model_of(config: Any) -> PreTrainedModel:
    """In float64; its attention adds nothing to the stream, so that layers stay apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).double()
        for name, parameter in model.named_parameters():
            if name.endswith("o_proj.weight"):
                parameter.data.zero_()
            if name.endswith("bias"):
                parameter.data.normal_(std=0.5)
    register()
    model.set_attn_implementation(NAME)
    return model


def ids() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(VOCABULARY, (length,), generator=generator) for length in LENGTHS]


def forward(model: PreTrainedModel) -> None:
    """One pass over packed sequences, with gradients."""
    ends = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()], dtype=torch.int32)
    model(**packed_inputs(torch.cat(ids()), ends))


@torch.no_grad()
def logits(model: PreTrainedModel) -> list[torch.Tensor]:
    """[layers][heads, pairs]: what transformers' own eager attention takes the softmax of, sequence by sequence."""
    found: list[list[torch.Tensor]] = [[] for _ in range(SIZES["num_hidden_layers"])]

    def spy(module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float, **more: Any) -> Any:
        keys = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
        past = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).tril()
        found[module.layer_idx].append((query @ keys.mT * scaling)[0][:, past])
        return eager_attention_forward(module, query, key, value, mask, scaling, **more)

    AttentionInterface.register("spy", spy)
    model.set_attn_implementation("spy")
    for sequence in ids():
        model(input_ids=sequence[None], use_cache=False)
    model.set_attn_implementation(NAME)
    return [torch.cat(parts, 1) for parts in found]


def largest(model: PreTrainedModel) -> torch.Tensor:
    """[layers, heads]."""
    return torch.stack([layer.amax(1) for layer in logits(model)])


@pytest.mark.parametrize("kind", CONFIGS)
def test_heads_above_the_bound_come_down_to_it_and_the_others_keep_every_logit(kind: str) -> None:
    model = model_of(CONFIGS[kind]())
    before, old = logits(model), largest(model)
    bound = old.flatten().sort().values[[2, 3]].mean().item()
    clip = QkClip(model, bound)
    forward(model)
    kept = weights(model)
    done = clip.clip()
    assert done.largest == pytest.approx(old.max().item(), rel=1e-12)
    assert done.heads == int((old > bound).sum()) == 5
    for layer, was in zip(logits(model), before, strict=True):
        factors = (bound / was.amax(1)).clamp(max=1.0)
        torch.testing.assert_close(layer, factors[:, None] * was, rtol=0, atol=1e-10)
    torch.testing.assert_close(largest(model), old.clamp(max=bound), rtol=1e-12, atol=0)
    touched = {name for name, now in weights(model).items() if not torch.equal(now, kept[name])}
    ends = ("q_proj", "k_proj", "q_b_proj", "kv_b_proj")
    assert touched
    assert all(name.split(".")[-2] in ends for name in touched)
    for name, now in model.named_parameters():
        if name.endswith("kv_b_proj.weight"):  # it makes values, too
            after, then = (matrix.detach().unflatten(0, (4, 6 + 8))[:, 6:] for matrix in (now, kept[name]))
            assert torch.equal(after, then)

    forward(model)
    assert clip.clip().largest == pytest.approx(bound, rel=1e-12)


def test_the_largest_logits_are_those_of_tokens_and_their_own_past_only() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(sum(LENGTHS), heads, 8, generator=generator) for heads in (4, 2))
    ends = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()])
    dense = torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(2, 1)) * 0.5
    place = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    order = torch.arange(len(q))
    seen = (place[:, None] == place) & (order[:, None] >= order)
    truth = dense.masked_fill(~seen, -math.inf).amax((1, 2))
    torch.testing.assert_close(largest_logits(q, k, ends, 0.5), truth)
    assert boundaries(ends)[-1] == len(q)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Qwen3Config(**SIZES), r"Qwen3Attention norms its queries and keys \(q_norm\)"),
        (lambda: PhiConfig(**SIZES, qk_layernorm=True), r"norms its queries and keys \(q_layernorm\)"),
    ],
)
def test_models_that_bound_their_logits_themselves_are_refused(make: Callable[[], Any], why: str) -> None:
    with pytest.raises(PolicyError, match=f"^learner.qk_clip: .*{why}"):
        QkClip(AutoModelForCausalLM.from_config(make()), 100.0)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": ModelConfig(lora=LoraConfig(rank=2))}, "adapters"),
        ({"learner": learner_spec(qk_clip=1.0, ranks={"sequence": 2}).learner}, "ranks that share a sequence"),
    ],
)
def test_what_cannot_be_bounded_is_refused_by_the_learner_in_one_line(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    with pytest.raises(PolicyError, match=f"^learner.qk_clip: {why}") as told:
        Learner(replace(learner_spec(qk_clip=1.0), **changes), save_tiny_model(tmp_path))
    assert "\n" not in str(told.value)


def stepped(learner: Learner, steps: int = 1) -> tuple[list[Step], dict[str, torch.Tensor]]:
    found = [learner.step(learner.reference(make_batch())) for _ in range(steps)]
    return found, {name: whole(p.detach()).clone() for name, p in learner.model.named_parameters()}


def test_a_step_is_the_same_but_for_the_heads_that_were_above(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path)
    (plain,), free = stepped(Learner(learner_spec(), path))
    assert plain.clipped is None
    (high,), untouched = stepped(Learner(learner_spec(qk_clip=1e6), path))
    assert high.clipped is not None
    assert high.clipped.heads == 0
    assert all(torch.equal(untouched[name], tensor) for name, tensor in free.items())
    bound = high.clipped.largest / 2
    (low,), bounded = stepped(Learner(learner_spec(qk_clip=bound), path))
    assert low.clipped is not None
    assert low.clipped.heads >= 1
    assert low.clipped.largest == high.clipped.largest
    assert (low.loss, low.grad_norm) == (plain.loss, plain.grad_norm)
    for name, tensor in free.items():
        if name.split(".")[-2] not in ("q_proj", "k_proj"):
            assert torch.equal(bounded[name], tensor)
            continue
        ratios = bounded[name] / tensor
        assert 0.5 - 1e-6 <= ratios.min() <= ratios.max() <= 2
        rows = ratios.view(-1, 8, 32).flatten(1)
        torch.testing.assert_close(rows, rows[:, :1].expand_as(rows))
    assert any(not torch.equal(bounded[name], tensor) for name, tensor in free.items())


def test_an_iteration_and_a_warm_up_tell_of_it_and_count_what_an_update_saw(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path)
    learner = Learner(learner_spec(qk_clip=1e-3, updates=2), path)
    stats = learner.train_iteration(make_batch(), (0, 3))
    done = [step.clipped for step in stats.steps if step.clipped is not None]
    assert [one.heads > 0 for one in done] == [True, True]
    assert stats.metrics["attention/clipped_heads"] == done[0].heads + done[1].heads
    assert stats.metrics["attention/largest_logit"] == max(one.largest for one in done)
    assert "attention/largest_logit" not in Learner(learner_spec(), path).train_iteration(make_batch(), (0, 3)).metrics
    host = LearnerHost(learner_spec(qk_clip=1e-3), path, Receivers("local"))
    assert host.sft([((5, 6), (7, 8, 9))], 1e-4).metrics["attention/clipped_heads"] >= 1


def test_a_step_that_is_skipped_clips_nothing_and_is_forgotten(tmp_path: Path) -> None:
    learner = Learner(learner_spec(qk_clip=1e-3), save_tiny_model(tmp_path))
    batch = learner.reference(make_batch())
    before = weights(learner.model)
    bad = replace(batch, advantages=torch.full_like(batch.advantages, math.nan))
    step = learner.step(bad)
    assert step.skipped
    assert step.clipped is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(learner.model).items())
    assert not learner.step(batch).skipped


def test_block_attention_is_watched_too(tmp_path: Path) -> None:
    """What it leaves out counts: the bound holds for full attention as well."""
    path = save_tiny_model(tmp_path)
    blocks = ModelConfig.model_validate({"threads": 1, "attention": {"moba": {"block_size": 16, "top_k": 1}}})
    spec = learner_spec(qk_clip=1e6)
    found = [stepped(Learner(each, path))[0][0].clipped for each in (spec, replace(spec, model=blocks))]
    assert found[0] is not None
    assert found[1] is not None
    assert found[1].largest == pytest.approx(found[0].largest, rel=0.2)


def test_a_watched_model_has_attention_that_tells_its_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)
    chosen = []
    monkeypatch.setattr("rl.learner.policy.moba.use", lambda model, block, otherwise: chosen.append(otherwise))
    on_gpu = ModelConfig(device="cuda", compute_dtype="bfloat16")
    path = save_tiny_model(tmp_path)
    for learner in (Learner(learner_spec(), path), Learner(learner_spec(qk_clip=100.0), path)):
        use_attention(learner.model, on_gpu, version=0)
    assert chosen[-1] == NAME
    assert "flash_attention_2" in chosen


BATCHES = [make_batch(seed=seed) for seed in range(3)]
LONE = pack_demonstrations([((5, 6, 7), (8, 9, 10, 11))])
"""One sequence: of two ranks, one is idle."""


def on_two(rank: int, mesh: RanksConfig, model: Path, folder: Path, bound: float) -> dict[str, Any]:
    ranks = Ranks(mesh, "cpu")
    learner = Learner(learner_spec(qk_clip=bound, ranks=mesh.model_dump()), model, ranks)
    found = in_turn(learner)
    learner.save(folder)
    learner.saved()
    onward = in_turn(learner)
    resumed = Learner(learner_spec(qk_clip=bound, ranks=mesh.model_dump()), model, ranks)
    resumed.load(folder)
    again = in_turn(resumed)
    assert all(torch.equal(tensor, onward["weights"][name]) for name, tensor in again["weights"].items())
    return found


def in_turn(learner: Learner) -> dict[str, Any]:
    steps = [learner.step(learner.reference(batch)) for batch in BATCHES]
    steps.append(learner.step(LONE, CrossEntropy()))
    after = {name: whole(p.detach()).clone() for name, p in learner.model.named_parameters()}
    return {"clipped": [step.clipped for step in steps], "weights": after}


@pytest.mark.parametrize("mesh", [RanksConfig(shard=2), RanksConfig(replicate=2)], ids=["shard", "replicate"])
def test_two_ranks_clip_as_one_does_and_go_on_bitwise_from_a_checkpoint(mesh: RanksConfig, tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "model")
    (tmp_path / "state").mkdir()
    free = in_turn(Learner(learner_spec(qk_clip=1e6), path))
    bound = min(one.largest for one in free["clipped"]) * 0.7
    alone = in_turn(Learner(learner_spec(qk_clip=bound), path))
    assert sum(one.heads for one in alone["clipped"]) > 3
    for theirs in run_ranks(2, on_two, mesh, path, tmp_path / "state", bound):
        for ours, other in zip(alone["clipped"], theirs["clipped"], strict=True):
            assert other.heads == ours.heads
            assert other.largest == pytest.approx(ours.largest, rel=1e-4)
        for name, tensor in alone["weights"].items():
            torch.testing.assert_close(theirs["weights"][name], tensor, rtol=0, atol=2e-5)
    assert any(not torch.equal(alone["weights"][name], tensor) for name, tensor in free["weights"].items())


def test_one_alone_goes_on_bitwise_from_a_checkpoint(tmp_path: Path) -> None:
    path = save_tiny_model(tmp_path / "model")
    (tmp_path / "state").mkdir()
    spec = learner_spec(qk_clip=1e-2)
    learner = Learner(spec, path)
    in_turn(learner)
    learner.save(tmp_path / "state")
    learner.saved()
    onward, resumed = in_turn(learner), Learner(spec, path)
    resumed.load(tmp_path / "state")
    again = in_turn(resumed)
    assert again["clipped"] == onward["clipped"]
    assert all(torch.equal(tensor, again["weights"][name]) for name, tensor in onward["weights"].items())
