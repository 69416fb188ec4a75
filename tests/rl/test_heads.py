"""What a policy returns to an objective: hidden states, heads of its own, and log-probs of any LM head."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from learner_kit import VOCABULARY, learner_spec, make_batch, save_tiny_model, tiny_llama, weights
from safetensors import safe_open
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from rl.learner.batch import Batch
from rl.learner.config import ModelConfig
from rl.learner.forward import PolicyModel, new_head, packed_logprobs
from rl.learner.learner import Learner
from rl.learner.policy import PolicyError, prepare
from rl.objectives.protocol import Head, Loss, Needs, Objective, Outputs
from rl.objectives.sequences import sequence_sums
from rl.optim.routing import routes

CPU = ModelConfig(threads=1)
OBJECTIVES = """
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from rl.objectives.protocol import Head, Loss, Needs, Objective

class Judge(Objective):
    needs = Needs(logprobs=False, reference=False, head=Head(1, "ends"))

    def loss(self, outputs, batch):
        right = (batch.advantages > 0).float()
        return Loss(cross_entropy(outputs.head[:, 0], right, reduction="sum"))

class Critic(Objective):
    needs = Needs(reference=False, head=Head(1, "tokens"))
    per = "token"

    def loss(self, outputs, batch):
        values, policy = outputs.head[:, 0], -batch.advantages[batch.sequence] * outputs.logprobs
        return Loss((values - batch.advantages[batch.sequence]).square().sum() + policy.sum())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def learner_of(name: str, folder: Path, tmp_path: Path, **keys: Any) -> Learner:
    file = tmp_path / "heads.py"
    file.write_text(OBJECTIVES)
    chosen = {"kind": "python", "path": f"{file}:{name}"}
    return Learner(learner_spec(objective=chosen, **{"optimizer": {"lr": 3e-3}, **keys}), folder)


@pytest.mark.parametrize("name", ["Judge", "Critic"])
def test_a_head_learns_and_goes_on_bitwise_from_a_checkpoint(name: str, folder: Path, tmp_path: Path) -> None:
    keep = {"optimizer": {"lr": 3e-3, "reset_each_iteration": False}}
    straight = learner_of(name, folder, tmp_path, **keep)
    assert straight.head is not None
    before = straight.head.weight.detach().clone()
    losses = [straight.train_iteration(make_batch("all"), seed).metrics["loss"] for seed in range(8)]
    assert losses[-1] < 0.8 * losses[0]
    assert not straight.head.weight.equal(before)
    (tmp_path / "saved").mkdir()
    straight.save(tmp_path / "saved")
    straight.saved()
    straight.train_iteration(make_batch("all"), 9)

    resumed = learner_of(name, folder, tmp_path, **keep)
    resumed.load(tmp_path / "saved")
    resumed.train_iteration(make_batch("all"), 9)
    assert resumed.head is not None
    assert resumed.head.weight.equal(straight.head.weight)
    ours, theirs = weights(resumed.model), weights(straight.model)
    assert all(ours[key].equal(theirs[key]) for key in ours)


def test_an_lm_head_that_the_objective_does_not_use_need_not_move(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path / "untied")
    learner = learner_of("Judge", tmp_path / "untied", tmp_path)
    before = weights(learner.model)
    learner.train_iteration(make_batch("all"), 0)
    still = [name for name, value in weights(learner.model).items() if value.equal(before[name])]
    assert still == ["lm_head.weight"]


def test_micro_batching_changes_no_gradient_of_a_head(folder: Path, tmp_path: Path) -> None:
    gradients = []
    for tokens in (1, 90, 100_000):
        learner = learner_of("Critic", folder, tmp_path, micro_batch_tokens=tokens, optimizer={"grad_clip": 1e9})
        learner.step(make_batch("all"))
        assert learner.head is not None
        assert learner.head.weight.grad is not None
        gradients.append(learner.head.weight.grad)
    for other in gradients[:-1]:
        torch.testing.assert_close(other, gradients[-1], rtol=1e-4, atol=1e-6)


def test_exports_and_publishes_hold_no_head(folder: Path, tmp_path: Path) -> None:
    learner = learner_of("Judge", folder, tmp_path)
    (tmp_path / "out").mkdir()
    learner.export_hf(tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert not [key for key in file.keys() if "head." in key and "lm_head" not in key]  # noqa: SIM118
    assert not [name for name, _ in learner.model.named_parameters() if name.startswith("head.")]


def test_each_seed_draws_a_head_of_its_own() -> None:
    model = tiny_llama()
    one, same, other = (new_head(model, Head(3), seed) for seed in (0, 0, 1))
    assert one.weight.equal(same.weight)
    assert not one.weight.equal(other.weight)
    assert one.weight.shape == (3, 32)


def test_outputs_are_the_models_own_hidden_states_and_their_heads() -> None:
    model = tiny_llama()
    truth = tiny_llama()
    policy = prepare(model, CPU)
    batch = make_batch("all")
    head = new_head(policy, Head(2), 0)
    found = PolicyModel(policy, torch.float32, head)(batch, Needs(hidden="ends", head=Head(2, "tokens")))
    ends = batch.cu_seqlens.tolist()
    for index in range(len(batch)):
        tokens = batch.tokens[ends[index] : ends[index + 1]]
        with torch.no_grad():
            hidden = truth.model(tokens[None]).last_hidden_state[0]
        torch.testing.assert_close(found.hidden[index], hidden[-1], rtol=1e-4, atol=1e-5)
        own = batch.sequence == index
        torch.testing.assert_close(found.head[own], head(hidden[-1 - int(own.sum()) : -1]), rtol=1e-4, atol=1e-5)
    assert len(found.logprobs) == len(found.entropy) == len(batch.positions)
    without = PolicyModel(policy, torch.float32)(batch, Needs(logprobs=False, hidden="tokens"))
    assert without.logprobs.numel() == without.head.numel() == 0
    assert without.hidden.shape == (len(batch.positions), 32)


@dataclass(frozen=True)
class WithHead(Objective):
    needs = Needs(reference=False, head=Head(1, "ends"))

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        return Loss(outputs.head.sum())


def test_an_objective_that_the_learner_has_no_head_for_is_refused(folder: Path) -> None:
    learner = Learner(learner_spec(), folder)
    with pytest.raises(ValueError, match="has no head of its own"):
        learner.step(make_batch(), WithHead())


class DeepHead(LlamaForCausalLM):
    """An LM head that is no matrix."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.lm_head = nn.Sequential(nn.Linear(32, 40), nn.GELU(), nn.Linear(40, VOCABULARY))
        self.tied_weights_keys = None


def deep(**changes: Any) -> DeepHead:
    torch.manual_seed(0)
    return DeepHead(tiny_llama(**changes).config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_lm_head_that_is_no_matrix_trains(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.learner.forward.HEAD_ROWS", 7)
    truth, policy = deep(), prepare(deep(), CPU)
    batch = make_batch("all")
    ours, entropy = packed_logprobs(policy, batch.tokens, batch.cu_seqlens, batch.positions, 0.7, dtype)
    ends, expected = batch.cu_seqlens.tolist(), []
    for start, end in pairwise(ends):
        own = batch.positions[(batch.positions >= start) & (batch.positions < end)] - start
        logits = truth(batch.tokens[None, start:end]).logits[0].float() / 0.7
        expected.append(logits.log_softmax(-1)[own - 1, batch.tokens[start:end][own]])
    bound = {"rtol": 1e-4, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 0, "atol": 0.1}
    torch.testing.assert_close(ours, torch.cat(expected), **bound)
    assert ((entropy > 0) & (entropy < 3.3)).all()
    assert not entropy.requires_grad
    if dtype is torch.float32:
        ours.sum().backward()
        torch.cat(expected).sum().backward()
        for (name, one), other in zip(policy.named_parameters(), truth.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_its_matrices_go_where_those_of_a_head_go() -> None:
    roles = {route.name: route.role for route in routes(prepare(deep(), CPU))}
    assert {role for name, role in roles.items() if name.startswith("lm_head")} == {"head", "vector"}


def test_a_model_without_an_lm_head_is_refused() -> None:
    class Bare(LlamaForCausalLM):
        def get_output_embeddings(self) -> None:
            return None

    with pytest.raises(PolicyError, match="Bare has no LM head"):
        prepare(Bare(tiny_llama().config), CPU)


def test_sums_are_by_sequence() -> None:
    values = sequence_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1, 0, 1]), 3)
    assert values.tolist() == [2, 5, 0]
