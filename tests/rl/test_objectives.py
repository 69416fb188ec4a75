"""Every objective: against TRL's own loss where TRL has it, and against its formula in float64 where not; and what the
learner may assume of it."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from learner_kit import learner_spec, make_batch, make_groups, save_tiny_model, weights

from rl.learner.batch import Batch, pack
from rl.learner.learner import Learner
from rl.objectives.build import build
from rl.objectives.config import (
    CispoConfig,
    GrpoConfig,
    ImportanceConfig,
    MirrorDescentConfig,
    ObjectiveConfig,
    ReinforceConfig,
    RestConfig,
)
from rl.objectives.cross_entropy import CrossEntropy
from rl.objectives.protocol import Objective, Outputs

CAP = 48
ARMS: dict[str, ObjectiveConfig] = {
    "mirror_descent": MirrorDescentConfig(tau=0.3),
    "reinforce": ReinforceConfig(),
    "grpo": GrpoConfig(),
    "dapo": GrpoConfig(clip_high=0.28, length_norm="tokens"),
    "gspo": GrpoConfig(ratio="sequence", clip_low=0.03, clip_high=0.04),
    "dr_grpo": GrpoConfig(scale="none", length_norm="max_tokens"),
    "cispo": CispoConfig(cap=1.2),
    "rest": RestConfig(),
}
TRL = {
    "grpo": {"loss_type": "grpo"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 0.03, "epsilon_high": 0.04},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.2},
}
REWARDS = [[1.0, 0.0, 0.0, 1.0], [0.3, 0.9, 0.2, 0.1], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, None]]


def batch_of(objective: Objective) -> Batch:
    """Groups with the objective's own advantages, and a reference that is not the policy."""
    groups = make_groups(len(REWARDS))
    correct = [r == 1.0 for r in REWARDS[0]]
    batch = pack(groups, [objective.advantages(rewards, correct) for rewards in REWARDS], 3, "all")
    drawn = torch.Generator().manual_seed(1)
    reference = -3 * torch.rand(int(batch.loss_mask.sum()), generator=drawn)
    sampler = torch.zeros_like(batch.sampler_logprobs).masked_scatter(
        batch.loss_mask, reference + 0.3 * torch.randn(len(reference), generator=drawn)
    )
    return replace(
        batch,
        advantages=batch.advantages.double(),
        reference_logprobs=reference.double(),
        sampler_logprobs=sampler.double(),
    )


def logprobs_near(batch: Batch) -> torch.Tensor:
    """Of a policy that has moved enough for ratios on both sides of every clip."""
    assert batch.reference_logprobs is not None
    noise = torch.randn(len(batch.reference_logprobs), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return (batch.reference_logprobs + 0.2 * noise).requires_grad_()


def value_and_gradient(objective: Objective, batch: Batch, logprobs: torch.Tensor) -> tuple[float, torch.Tensor, Any]:
    divisor = int(batch.loss_mask.sum()) if objective.per == "token" else batch.total // objective.unit
    loss = objective.loss(Outputs(logprobs=logprobs), batch)
    (gradient,) = torch.autograd.grad(loss.value / divisor, logprobs)
    return loss.value.item() / divisor, gradient, loss.metrics


def padded(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """[L] -> [n, longest]."""
    return torch.nn.utils.rnn.pad_sequence(values.split(batch.loss_lengths.tolist()), batch_first=True)


def of_trl(batch: Batch, logprobs: torch.Tensor, keys: dict[str, Any], weights: torch.Tensor | None = None) -> Any:
    """Loss and metrics of ``GRPOTrainer._compute_loss`` on the same numbers, padded; only the model is left out."""
    from trl import GRPOTrainer

    mask = padded(torch.ones_like(logprobs.detach()), batch)
    settings = {
        "importance_sampling_level": "token",
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "beta": 0.0,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "aux_loss_enabled": False,
        "use_vllm": weights is not None,
        "vllm_importance_sampling_correction": True,
        "current_gradient_accumulation_steps": 1,
        "max_completion_length": CAP,
        "_entropy_bonus_enabled": False,
        "model": SimpleNamespace(training=True),
        "args": SimpleNamespace(delta=None, steps_per_generation=1),
        "accelerator": SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_get_per_token_logps_and_entropies": lambda *_, **__: (padded(logprobs, batch), mask, None),
    }
    trainer = SimpleNamespace(**settings | keys)
    inputs = {
        "prompt_ids": mask[:, :0].long(),
        "prompt_mask": mask[:, :0].long(),
        "completion_ids": mask.long(),
        "completion_mask": mask.long(),
        "advantages": batch.advantages,
        "old_per_token_logps": padded(batch.reference_logprobs, batch),
        "num_items_in_batch": mask.sum(),
    }
    if weights is not None:
        inputs["importance_sampling_ratio"] = padded(weights, batch)
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.item(), gradient, trainer._metrics["train"]


@pytest.mark.parametrize("arm", TRL)
def test_losses_and_gradients_are_those_of_trl(arm: str) -> None:
    objective = build(ARMS[arm], CAP)
    batch = batch_of(objective)
    logprobs = logprobs_near(batch)
    loss, gradient, metrics = value_and_gradient(objective, batch, logprobs)
    expected, theirs, told = of_trl(batch, logprobs, TRL[arm])
    assert loss == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(gradient, theirs, rtol=1e-9, atol=1e-12)
    assert gradient.abs().max() > 0
    if arm != "cispo":  # there TRL counts only tokens of positive advantage
        assert metrics["clip_share"].value == pytest.approx(told["clip_ratio/region_mean"][0])
        assert 0 < metrics["clip_share"].value < 1


@pytest.mark.parametrize("arm", ["grpo", "dapo", "cispo"])
def test_importance_weights_scale_the_gradient_as_in_trl(arm: str) -> None:
    config = ARMS[arm].model_copy(update={"importance": ImportanceConfig(cap=1.1)})
    objective = build(config, CAP)
    batch = batch_of(objective)
    logprobs = logprobs_near(batch)
    given = (batch.reference_logprobs - batch.sampled_logprobs).exp().clamp(max=1.1)
    _, gradient, metrics = value_and_gradient(objective, batch, logprobs)
    _, theirs, _ = of_trl(batch, logprobs, TRL[arm], given)
    torch.testing.assert_close(gradient, theirs, rtol=1e-6, atol=1e-9)
    assert metrics["importance/mean"].value == pytest.approx(given.mean().item(), rel=1e-5)


def test_standardised_advantages_are_those_of_trl() -> None:
    from trl.trainer.utils import nanstd

    rewards = torch.tensor(REWARDS[0] + REWARDS[1], dtype=torch.float64).view(2, 4)
    theirs = (rewards - rewards.nanmean(1, True)) / (nanstd(rewards, dim=1)[:, None] + 1e-4)
    ours = [build(ARMS["grpo"], CAP).advantages(row, [False] * 4) for row in REWARDS[:2]]
    torch.testing.assert_close(torch.tensor(ours, dtype=torch.float64), theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("length_norm", ["none", "response", "max_tokens", "tokens"])
def test_reinforce_is_its_formula(length_norm: str) -> None:
    objective = build(ReinforceConfig(length_norm=length_norm), CAP)
    batch = batch_of(objective)
    logprobs = logprobs_near(batch)
    loss, gradient, _ = value_and_gradient(objective, batch, logprobs)
    tokens = int(batch.loss_mask.sum())
    expected, slopes = 0.0, []
    for own, advantage in zip(logprobs.split(batch.loss_lengths.tolist()), batch.advantages.tolist(), strict=True):
        share = {"none": 1 / len(batch), "response": 1 / len(batch) / len(own), "max_tokens": 1 / len(batch) / CAP}
        slope = -advantage * share.get(length_norm, 1 / tokens)
        expected += slope * own.sum().item()
        slopes += [slope] * len(own)
    assert loss == pytest.approx(expected, rel=1e-9)
    assert gradient.tolist() == pytest.approx(slopes, rel=1e-6)


def test_rest_is_the_likelihood_of_the_correct_responses_and_nothing_else() -> None:
    objective = build(RestConfig(), CAP)
    assert objective.advantages([1.2, 0.1, None, 1.0], [True, False, True, True]) == [1.0, None, None, 1.0]
    batch = batch_of(objective)
    logprobs = logprobs_near(batch)
    loss, gradient, _ = value_and_gradient(objective, batch, logprobs)
    assert loss == pytest.approx(-logprobs.mean().item())
    assert gradient.unique().tolist() == pytest.approx([-1 / len(logprobs)])


def test_cross_entropy_is_torchs_own() -> None:
    batch = batch_of(build(RestConfig(), CAP))
    logits = torch.randn(int(batch.loss_mask.sum()), 25, dtype=torch.float64, requires_grad=True)
    targets = batch.tokens[batch.positions].long()
    logprobs = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    loss = CrossEntropy().loss(Outputs(logprobs=logprobs), batch).value / len(targets)
    expected = torch.nn.functional.cross_entropy(logits, targets)
    assert loss.item() == pytest.approx(expected.item())
    ours, theirs = (torch.autograd.grad(each, logits, retain_graph=True)[0] for each in (loss, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def learner_of(arm: str, folder: Any, **keys: Any) -> Learner:
    return Learner(learner_spec(objective=ARMS[arm].model_dump(), **keys), folder)


@pytest.mark.parametrize("arm", ARMS)
def test_the_first_step_takes_its_own_log_probs_for_the_reference(arm: str, folder: Any) -> None:
    """And leaves out sequences without advantage; either way the gradient is that of the whole batch's reference."""
    batch = make_batch()
    if arm != "rest":  # whose advantages are all 1
        batch = replace(batch, advantages=batch.advantages * (torch.arange(len(batch)) % 3 > 0))
    fused, apart = learner_of(arm, folder), learner_of(arm, folder)
    assert fused.objective.opens_on_reference
    step, referenced = fused.first_step(batch)
    expected = apart.step(apart.reference(batch))
    assert step.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
    assert step.log_ratio is not None
    assert step.log_ratio.max == 0
    for one, other in zip(fused.parameters, apart.parameters, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-6)
    if arm == "rest":
        assert len(referenced) == len(batch)
    elif fused.objective.per == "sequence":
        assert step.loss == pytest.approx(expected.loss, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("arm", ARMS)
def test_micro_batching_changes_nothing(arm: str, folder: Any) -> None:
    batch = make_batch("all")
    batch = batch.select(sorted(range(len(batch)), key=lambda i: (batch.lengths[i].item(), i)))
    found = []
    for tokens in (1, 90, 100_000):
        learner = learner_of(arm, folder, micro_batch_tokens=tokens, optimizer={"grad_clip": 1e9})
        minibatch = learner.reference(batch)
        shift = torch.linspace(-0.3, 0.4, len(minibatch.reference_logprobs))
        step = learner.step(replace(minibatch, reference_logprobs=minibatch.reference_logprobs + shift))
        found.append((step, {name: p.grad.clone() for name, p in learner.model.named_parameters()}))
    step, gradients = found[-1]
    scale = max(g.abs().max().item() for g in gradients.values())
    for other, theirs in found[:-1]:
        assert max((gradients[name] - theirs[name]).abs().max().item() for name in gradients) < 1e-5 * scale
        assert other.loss == pytest.approx(step.loss, rel=1e-4)
        assert {n: t.value for n, t in other.tallies.items()} == pytest.approx(
            {n: t.value for n, t in step.tallies.items()}
        )


@pytest.mark.parametrize("arm", ARMS)
def test_each_learns_what_was_rewarded(arm: str, folder: Any) -> None:
    learner = learner_of(arm, folder, updates=2, optimizer={"lr": 3e-3})
    correct = [False, True, False, True]
    groups = make_groups()
    values = [learner.objective.advantages([0.0, 1.0, 0.1, 0.9], correct) for _ in groups]
    everything = pack(groups, [[1.0 if right else -1.0 for right in correct]] * len(groups), 3, "all")
    before = learner.reference(everything)
    for seed in range(4):
        stats = learner.train_iteration(pack(groups, values, 3, "all"), seed)
        assert stats.metrics["steps/done"] == 2
        assert all(map(math.isfinite, stats.metrics.values()))
    after = learner.reference(everything)
    change = torch.zeros(len(after)).index_add(0, after.sequence, after.reference_logprobs - before.reference_logprobs)
    assert change[after.advantages > 0].mean() > change[after.advantages < 0].mean() + 0.5
    assert weights(learner.model)
