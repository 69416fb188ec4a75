"""RL through windows of evidence: the learner's log-probs are those of what drew the tokens (behaviour-policy rule)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from learner_kit import VOCABULARY, learner_spec, make_groups, save_tiny_model, tiny_llama

from rewards.score import Score
from rl.learner.batch import Batch, concatenated, pack
from rl.learner.forward import PolicyModel
from rl.learner.learner import Learner
from rl.objectives.protocol import Needs
from rollout.config import EngineConfig
from rollout.engine import Delta, Request, Sampling
from rollout.engines.hf import HfEngine
from rollout.evidence.config import TrainedMergingConfig
from rollout.evidence.windows import Evidence
from rollout.types import Group, Problem, Prompt, Rollout, Segment, StopReason

BETA = 0.25


def tokens(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(5, VOCABULARY, count).astype(np.int32)


def prompt(number: int, windows: int = 3) -> Prompt:
    question = tokens(1000 + number, 4)
    held = [Prompt(np.concatenate([tokens(100 * number + k, 9 + 2 * k), question])) for k in range(windows)]
    return Prompt(question, tuple(held))


def groups_with_evidence(count: int = 3, k: int = 4) -> list[Group]:
    """Made-up rollouts of two versions; the windows that spoke change along the way."""
    made = []
    for g in range(count):
        rollouts = []
        for j in range(k):
            drawn = tokens(10_000 + 10 * g + j, 7 + j)
            spoke = np.random.default_rng(g * k + j).integers(1, 4, len(drawn)).astype(np.int16)
            cut = len(drawn) // 2
            segments = tuple(
                Segment(version, drawn[part], np.full(len(drawn[part]), -3.0), pointers=spoke[part])
                for version, part in ((2, slice(cut)), (3, slice(cut, None)))
            )
            score = Score.right() if j % 2 else Score.wrong("no")
            rollouts.append(Rollout(f"{g}/{j}", prompt(g), segments, StopReason.EOS, score))
        made.append(Group(str(g), Problem.ask(f"p{g}", "q", "a", "v"), tuple(rollouts), 2))
    return made


def packed(groups: list[Group], loss_on: str = "current") -> Batch:
    return pack(groups, [[-0.5, 0.5] * (len(g.rollouts) // 2) for g in groups], 3, loss_on, beta=BETA)


def by_hand(model: torch.nn.Module, group: Group, version: int | None, temperature: float) -> list[torch.Tensor]:
    """Log-prob of each loss token: two forward passes for every token, nothing packed."""
    found = []
    for rollout in group.rollouts:
        response, pointers, versions = rollout.token_ids, rollout.pointers, rollout.versions
        for t in range(len(response)):
            if version is not None and versions[t] != version:
                continue
            rows = []
            for row in (rollout.prompt.windows[pointers[t] - 1], rollout.prompt):
                read = torch.tensor([[*row.token_ids.tolist(), *response[:t].tolist()]])
                rows.append(model(read).logits[0, -1].log_softmax(-1))
            merged = ((1 + BETA) * rows[0] - BETA * rows[1]) / temperature
            found.append(merged.log_softmax(-1)[int(response[t])])
    return found


@pytest.mark.parametrize(("loss_on", "temperature"), [("current", 1.0), ("all", 0.7)])
def test_logprobs_are_of_the_merged_distribution(loss_on: str, temperature: float) -> None:
    model, groups = tiny_llama(), groups_with_evidence()
    batch = packed(groups, loss_on)
    outputs = PolicyModel(model, torch.float32)(batch, Needs(), temperature)
    version = 3 if loss_on == "current" else None
    expected = torch.stack([value for group in groups for value in by_hand(model, group, version, temperature)])
    assert torch.allclose(outputs.logprobs, expected, atol=2e-6)


def test_the_gradient_flows_through_both_rows() -> None:
    model, groups = tiny_llama(), groups_with_evidence(1)
    batch = packed(groups)
    weight = torch.randn(int(batch.loss_mask.sum()), generator=torch.Generator().manual_seed(0))
    (PolicyModel(model, torch.float32)(batch, Needs()).logprobs * weight).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    (torch.stack(by_hand(model, groups[0], 3, 1.0)) * weight).sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-5), name


def test_any_cut_of_a_batch_gives_the_same_logprobs_also_beside_plain_rollouts() -> None:
    policy = PolicyModel(tiny_llama(), torch.float32)
    plain = pack(make_groups(2), [[-0.6, 0.5, -0.4, 0.5]] * 2, 3)
    batch = concatenated([packed(groups_with_evidence()), plain])
    whole = policy(batch, Needs()).logprobs
    lengths = batch.loss_lengths.tolist()
    by_sequence = whole.split(lengths)
    order = np.random.default_rng(0).permutation(len(batch)).tolist()
    shuffled = policy(batch.select(order), Needs()).logprobs
    assert torch.allclose(shuffled, torch.cat([by_sequence[i] for i in order]), atol=2e-6)
    assert torch.allclose(by_sequence[-1], policy(plain, Needs()).logprobs.split(lengths[-len(plain) :])[-1], atol=2e-6)
    parts = batch.micro_batches(120)
    assert len(parts) > 3
    assert all(int(part.sizes.sum()) <= 120 or len(part) == 1 for part in parts)
    assert sum(policy(part, Needs()).logprobs.sum().item() for part in parts) == pytest.approx(
        whole.sum().item(), rel=1e-5
    )
    assert int(batch.sizes.sum()) == len(batch.tokens) + len(batch.beside.tokens)


def drawn(path: Path, count: int, k: int) -> list[Group]:
    """Groups that the engine draws with evidence at temperature 1."""

    async def work() -> dict[str, list[Delta]]:
        engine = HfEngine(str(path), EngineConfig(kind="hf", max_model_len=256))
        await engine.start()
        requests = [
            Request(
                f"{g}/{j}", prompt(g), 12, Sampling(), 10 * g + j, Evidence(prompt(g).windows, TrainedMergingConfig())
            )
            for g in range(count)
            for j in range(k)
        ]
        await engine.submit(requests)
        found: dict[str, list[Delta]] = {}
        while sum(parts[-1].done for parts in found.values()) < len(requests):
            for delta in await engine.poll(1.0):
                found.setdefault(delta.key, []).append(delta)
        await engine.close()
        return found

    found = asyncio.run(work())
    groups = []
    for g in range(count):
        rollouts = []
        for j in range(k):
            parts = found[f"{g}/{j}"]
            segments = [Segment(3, d.token_ids, d.logprobs, pointers=d.pointers) for d in parts if len(d.token_ids)]
            score = Score.right() if j % 2 else Score.wrong("no")
            rollout = Rollout(f"{g}/{j}", prompt(g)).append(segments, StopReason.LENGTH)
            rollouts.append(replace(rollout, score=score))
        groups.append(Group(str(g), Problem.ask(f"p{g}", "q", "a", "v"), tuple(rollouts), 3))
    return groups


def test_at_equal_weights_the_log_ratio_is_zero(tmp_path: Path) -> None:
    """To the reference exactly, bit by bit; to the engine up to what its batches round differently."""
    path = save_tiny_model(tmp_path / "model")
    groups = drawn(path, 3, 4)
    assert len(np.unique(np.concatenate([r.pointers for g in groups for r in g.rollouts]))) > 1
    batch = packed(groups)
    learner = Learner(replace(learner_spec(updates=1), beta=BETA), path)
    assert (learner.logprobs(batch) - batch.sampled_logprobs).abs().max() < 1e-4
    # What the tokens are worth without evidence is something else: the test above can fail.
    alone = learner.logprobs(replace(batch, beside=None))
    assert (alone - batch.sampled_logprobs).abs().max() > 0.1
    referenced = learner.reference(batch)
    step = learner.step(referenced)
    assert step.log_ratio is not None
    assert step.log_ratio.max == 0.0
