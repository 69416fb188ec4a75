"""Mixtures of experts from scratch: the gate's scale, what experts are given to do, and biases that share it out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learner_kit import VOCABULARY, learner_spec, make_batch
from pydantic import ValidationError
from rank_kit import run_ranks
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from benchmarks.zoo import session
from rl.learner.config import ExpertsConfig, RanksConfig, ScratchModel
from rl.learner.experts import BIAS, Loads, moved
from rl.learner.host import LearnerHost
from rl.learner.learner import Learner, whole
from rl.learner.policy import create_model, experts_config, gate_scaling
from rl.learner.ranks import Ranks
from rl.learner.spec import Receivers
from rollout.models.export import save_model
from rollout.models.tokenizer import build_tokenizer

MIXTURE = ScratchModel(
    layers=3, width=32, heads=4, kv_heads=4, mlp_width=48, context=256, tied=False,
    experts=ExpertsConfig(routed=8, active=2, shared=1, width=16, latent=16),
)  # fmt: skip
EXPERTS = MIXTURE.experts
GATES = 2
"""Layers with experts."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    tokenizer = build_tokenizer([chr(97 + i) for i in range(VOCABULARY - 5)], 256)
    create_model(MIXTURE, tokenizer, seed=0).save_pretrained(folder)
    return folder


def biases(model: torch.nn.Module) -> list[torch.Tensor]:
    return [buffer for name, buffer in model.named_buffers() if name.endswith(BIAS)]


def test_the_gates_scale_is_the_papers_and_that_of_another_draw() -> None:
    assert gate_scaling(64, 6) == pytest.approx(2.446, abs=0.005)
    assert gate_scaling(8, 1) == pytest.approx(1.0)
    scores = 1 / (1 + np.exp(-np.random.default_rng(1).standard_normal((200_000, 8))))
    best = np.sort(scores, axis=1)[:, -2:]
    weights = best / best.sum(1, keepdims=True)
    assert gate_scaling(8, 2) == pytest.approx((1 / np.sqrt((weights**2).sum(1))).mean(), abs=2e-3)


def test_a_mixture_is_deepseeks_and_as_large_as_configured() -> None:
    config = experts_config(MIXTURE, VOCABULARY)
    assert (config.n_routed_experts, config.num_experts_per_tok, config.n_shared_experts) == (8, 2, 1)
    assert config.routed_scaling_factor == gate_scaling(8, 2)
    assert (config.qk_nope_head_dim + config.qk_rope_head_dim, config.v_head_dim) == (8, 8)
    other = MIXTURE.model_copy(update={"experts": ExpertsConfig(scaling=1.5)})
    assert experts_config(other, VOCABULARY).routed_scaling_factor == 1.5
    built = AutoModelForCausalLM.from_config(config)
    assert [type(layer.mlp).__name__ for layer in built.model.layers] == ["DeepseekV3MLP", *["DeepseekV3MoE"] * GATES]
    assert built.lm_head.weight is not built.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"experts": {"routed": 4, "active": 5}}, r"active \(5\) is above routed \(4\)"),
        ({"experts": {"dense_layers": 4}}, r"experts.dense_layers \(4\) leaves none of 4 layers"),
        ({"experts": {}, "heads": 4, "kv_heads": 2}, r"kv_heads \(2\) differs from heads \(4\)"),
        ({"experts": {}, "width": 16, "heads": 8, "kv_heads": 8}, "width 16 gives 8 heads 2 each"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        ScratchModel.model_validate({"layers": 4, **changes})


def test_a_bias_goes_up_where_the_load_is_below_the_mean_and_their_mean_stays() -> None:
    assert moved(torch.tensor([4.0, 0.0, 2.0, 2.0])).tolist() == [-1.0, 1.0, 0.0, 0.0]
    assert moved(torch.tensor([5.0, 1.0, 1.0, 1.0])).tolist() == [-1.5, 0.5, 0.5, 0.5]
    assert moved(torch.tensor([3.0, 3.0])).tolist() == [0.0, 0.0]


def chosen(learner: Learner, sequences: list[torch.Tensor]) -> list[torch.Tensor]:
    """Tokens per expert of every gate [experts], counted sequence by sequence from what goes into the gates."""
    gates = list(learner.loads.gates.values())
    found = [torch.zeros(EXPERTS.routed) for _ in gates]

    def count(number: int) -> Any:
        def hook(gate: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            scores = (inputs[0].flatten(0, -2) @ gate.weight.T).sigmoid() + getattr(gate, BIAS)
            for row in scores.argsort(descending=True)[:, : EXPERTS.active]:
                found[number][row] += 1

        return hook

    hooks = [gate.register_forward_pre_hook(count(number)) for number, gate in enumerate(gates)]
    learner.score([sequence.tolist() for sequence in sequences])
    for hook in hooks:
        hook.remove()
    return found


def test_loads_are_the_tokens_of_all_micro_batches_in_passes_with_gradients(model: Path) -> None:
    learner = Learner(learner_spec(), model)
    batch = learner.reference(make_batch())
    assert len(learner.passes.shares(batch, learner.objective)[0]) > 2, "several micro-batches"
    truth = chosen(learner, list(batch.tokens.split(batch.sizes.tolist())))
    assert all(not load.any() for load in learner.loads.total().values()), "passes without gradients do not count"
    learner.step(batch)
    found = learner.loads.total()
    assert len(found) == GATES
    for load, count in zip(found.values(), truth, strict=True):
        assert torch.equal(load, count)
        assert load.sum() == len(batch.tokens) * EXPERTS.active
    assert all(not load.any() for load in learner.loads.total().values()), "and begin anew"


def test_balancing_moves_the_biases_by_the_rule_and_tells_the_worst_gate(model: Path) -> None:
    learner = Learner(learner_spec(), model)
    assert learner.loads.balance(0.1) is None, "nothing was done"
    learner.step(learner.reference(make_batch()))
    before = [bias.clone() for bias in biases(learner.model)]
    loads = list(learner.loads.total().values())
    learner = Learner(learner_spec(), model)
    learner.step(learner.reference(make_batch()))
    worst = learner.loads.balance(0.1)
    assert worst == pytest.approx(max(load.max().item() / load.mean().item() - 1 for load in loads))
    for bias, was, load in zip(biases(learner.model), before, loads, strict=True):
        torch.testing.assert_close(bias, was + 0.1 * moved(load), rtol=0, atol=1e-7)
        assert bias.mean().item() == pytest.approx(was.mean().item(), abs=1e-7)
    assert Loads(torch.nn.Linear(2, 2)).balance(0.1) is None


def rows(step: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(step)
    return [tuple(torch.randint(5, VOCABULARY, (48,), generator=generator).tolist()) for _ in range(4)]


def overloads(model: Path, balance: float, steps: int = 60) -> list[float]:
    host = LearnerHost(learner_spec(optimizer={"lr": 1e-4}), model, Receivers("local"))
    for bias in biases(host.learner.model):
        bias[0] += 0.2
    return [host.pretrain(rows(step), 1e-4, step, balance).metrics["experts/overload"] for step in range(steps)]


def test_training_shares_out_what_skewed_biases_gave_to_one_expert(model: Path) -> None:
    found, left_alone = overloads(model, 0.005), overloads(model, 0.0, 5)
    assert min(left_alone) > 2.9, "the favourite has every token: 4 times the mean"
    assert found[0] == left_alone[0]
    assert sum(found[-10:]) / 10 < 0.35 * found[0]


def on_ranks(rank: int, mesh: RanksConfig, model: Path, folder: Path) -> dict[str, Any]:
    ranks, spec = Ranks(mesh, "cpu"), learner_spec(ranks=mesh.model_dump())
    learner = Learner(spec, model, ranks)
    found = stepped(learner)
    learner.save(folder / "state")
    learner.saved()
    learner.export_hf(folder / "export")
    onward, resumed = stepped(learner), Learner(spec, model, ranks)
    resumed.load(folder / "state")
    again = stepped(resumed)
    assert all(torch.equal(tensor, onward["state"][name]) for name, tensor in again["state"].items())
    return found


def stepped(learner: Learner) -> dict[str, Any]:
    """Two steps, the biases moved after each."""
    loads = []
    for seed in (1, 2):
        learner.step(learner.reference(make_batch(seed=seed, groups=1 + seed)))
        counts = {name: count.clone() for name, count in learner.loads._counts.items()}
        learner.loads.balance(0.01)
        loads.append(counts)
    state = {name: whole(tensor.detach()).clone() for name, tensor in learner.model.state_dict(keep_vars=True).items()}
    return {"loads": loads, "state": state}


@pytest.mark.parametrize("mesh", [RanksConfig(shard=2), RanksConfig(replicate=2)], ids=["shard", "replicate"])
def test_ranks_count_together_move_alike_and_go_on_bitwise(mesh: RanksConfig, model: Path, tmp_path: Path) -> None:
    for name in ("state", "export"):
        (tmp_path / name).mkdir()
    alone = stepped(Learner(learner_spec(), model))
    first, second = run_ranks(2, on_ranks, mesh, model, tmp_path)
    for ours, one, two in zip(alone["loads"], first["loads"], second["loads"], strict=True):
        for name, count in ours.items():
            both = one[name] + two[name]
            assert both.sum() == count.sum(), "an idle rank counts nothing"
            assert (both - count).abs().max() <= 2, "but for ties: products of other sizes round otherwise"
            assert one[name].any()
            assert two[name].any()
    for name, tensor in first["state"].items():
        assert torch.equal(tensor, second["state"][name])
        if name.endswith(BIAS):
            gate = name.removesuffix(f".{BIAS}")
            steps = zip(first["loads"], second["loads"], strict=True)
            torch.testing.assert_close(tensor, 0.01 * sum(moved(one[gate] + two[gate]) for one, two in steps))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "export").state_dict()
    assert all(torch.equal(tensor, exported[name]) for name, tensor in first["state"].items())


def test_a_checkpoint_and_an_export_have_the_biases(model: Path, tmp_path: Path) -> None:
    for name in ("state", "export", "half"):
        (tmp_path / name).mkdir()
    learner = Learner(learner_spec(), model)
    stepped(learner)
    learner.save(tmp_path / "state")
    learner.saved()
    onward, resumed = stepped(learner), Learner(learner_spec(), model)
    resumed.load(tmp_path / "state")
    again = stepped(resumed)
    assert all(torch.equal(tensor, onward["state"][name]) for name, tensor in again["state"].items())

    moved_by = [bias.normal_(generator=torch.Generator().manual_seed(3)) for bias in biases(learner.model)]
    learner.export_hf(tmp_path / "export")
    sequence = [5, 6, 7, 8, 9, 10]
    assert Learner(learner_spec(), tmp_path / "export").score([sequence]) == learner.score([sequence])
    assert Learner(learner_spec(), model).score([sequence]) != learner.score([sequence])
    save_model(learner.model, tmp_path / "half", dtype="bfloat16")
    stored = load_file(tmp_path / "half" / "model.safetensors")
    exact = [tensor for name, tensor in stored.items() if name.endswith(BIAS)]
    assert all(torch.equal(a, b) for a, b in zip(exact, moved_by, strict=True)), "steps of 1e-3 would be rounded away"
    assert {tensor.dtype for name, tensor in stored.items() if not name.endswith(BIAS)} == {torch.bfloat16}


def test_engines_are_sent_the_biases(model: Path) -> None:
    """Without them an engine would sample from another policy as soon as they move."""
    probe = [list(range(5, VOCABULARY)), [9, 5, 17, 8, 8, 21, 6]]
    with session(model, "hf") as run:
        run.publish(0, probe)
        before = run.host.score(probe)
        for bias in biases(run.host.learner.model):
            bias.normal_(generator=torch.Generator().manual_seed(1))
        after = run.host.score(probe)
        assert max(abs(one - other) for one, other in zip(before[0], after[0], strict=True)) > 1e-3
        run.publish(1, probe)
        assert run.gap < 1e-5
        assert math.isfinite(run.gap)
