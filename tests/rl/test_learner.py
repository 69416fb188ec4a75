from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rl.learner.batch import pack_demonstrations
from rl.learner.config import LoraConfig, ModelConfig
from rl.learner.learner import Learner, NonFiniteGradients
from rl.learner.policy import PolicyError
from rl.learner.stats import LogRatio, sampler_gaps
from rl.objectives.cross_entropy import CrossEntropy
from rl.record.metrics import unknown
from tests.learner_kit import TINY, learner_spec, make_batch, save_tiny_model, weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def make(folder, model=None, **learner):
    spec = learner_spec(**learner)
    return Learner(replace(spec, model=ModelConfig(base=TINY, threads=1, **model)) if model else spec, folder)


def distance(a, b):
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.parametrize("loss_on", ["current", "all"])
@pytest.mark.parametrize("model", [{}, {"gradient_checkpointing": True}, {"compute_dtype": "bfloat16"}], ids=str)
def test_log_ratio_is_exactly_zero_at_the_first_step_and_not_after(folder, model, loss_on):
    learner = make(folder, model)
    stats = learner.train_iteration(make_batch(loss_on), seed=0)
    first, second = stats.steps
    assert first.log_ratio == LogRatio(0, 0, 0, 0)
    assert second.log_ratio.max > 0
    assert first.sequences + second.sequences == len(make_batch())
    assert stats.metrics["tokens/trained"] == int(make_batch(loss_on).loss_mask.sum())


def test_tau_has_no_effect_with_one_update_and_has_with_two(folder):
    def after(tau, updates):
        learner = make(folder, updates=updates, objective={"tau": tau})
        learner.train_iteration(make_batch(), seed=0)
        return weights(learner.model)

    assert distance(after(0.01, 1), after(5.0, 1)) == 0
    assert distance(after(0.01, 2), after(5.0, 2)) > 0


def test_the_first_step_is_its_own_reference_bit_for_bit(folder):
    fused, apart = make(folder, micro_batch_tokens=90), make(folder, micro_batch_tokens=90)
    metrics, referenced = fused.first_step(make_batch())
    expected = apart.reference(make_batch())
    assert torch.equal(referenced.reference_logprobs, expected.reference_logprobs)
    assert metrics == apart.step(expected)
    assert metrics.log_ratio.max == 0.0
    for one, other in zip(fused.parameters, apart.parameters, strict=True):
        assert torch.equal(one, other)


def test_sequences_without_advantage_are_not_run_in_the_first_step_and_change_nothing(folder):
    batch = make_batch()
    batch = replace(batch, advantages=batch.advantages * (torch.arange(len(batch)) % 3 > 0))
    short, whole = make(folder), make(folder)
    metrics, referenced = short.first_step(batch)
    expected = whole.step(whole.reference(batch))
    assert len(referenced) == metrics.sequences == int((batch.advantages != 0).sum()) < len(batch)
    assert metrics.loss == pytest.approx(expected.loss, rel=1e-4)
    assert metrics.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
    nothing, _ = short.first_step(replace(batch, advantages=torch.zeros(len(batch))))
    assert (nothing.grad_norm, nothing.sequences) == (0.0, len(batch))


def gradients(learner, batch):
    """Gradient of the loss on a whole batch whose reference differs from the policy."""
    minibatch = learner.reference(batch)
    shift = torch.linspace(-0.3, 0.4, len(minibatch.reference_logprobs))
    learner.step(replace(minibatch, reference_logprobs=minibatch.reference_logprobs + shift))
    return {name: p.grad.clone() for name, p in learner.model.named_parameters()}


@pytest.mark.parametrize("length_norm", ["none", "response", "max_tokens"])
def test_micro_batching_changes_nothing(folder, length_norm):
    results = []
    for tokens in (1, 90, 100_000):
        learner = make(
            folder, micro_batch_tokens=tokens, optimizer={"grad_clip": 1e9}, objective={"length_norm": length_norm}
        )
        # The shift is by position, so the sequences must come in the same order: sorted by length already.
        batch = make_batch()
        batch = batch.select(sorted(range(len(batch)), key=lambda i: (batch.lengths[i].item(), i)))
        results.append(gradients(learner, batch))
    scale = max(g.abs().max().item() for g in results[-1].values())
    for other in results[:-1]:
        assert distance(other, results[-1]) < 1e-5 * scale  # float32 sums in another order


def test_loss_is_per_sequence_and_normalised_as_configured(folder):
    losses = {}
    for kind in ("none", "response", "max_tokens"):
        learner = make(folder, updates=1, objective={"length_norm": kind})
        minibatch = learner.reference(make_batch())
        losses[kind] = learner.step(minibatch).loss
        log_pi = [part.sum().item() for part in minibatch.reference_logprobs.split(minibatch.loss_lengths.tolist())]
        norm = {"none": 1, "max_tokens": 128}.get(kind)
        expected = sum(
            -a * lp / (norm or n)
            for a, lp, n in zip(minibatch.advantages.tolist(), log_pi, minibatch.loss_lengths.tolist(), strict=True)
        )
        assert losses[kind] == pytest.approx(expected / len(minibatch), rel=1e-4)


def test_training_raises_the_odds_of_what_was_rewarded(folder):
    learner = make(folder, updates=2, optimizer={"lr": 3e-3})
    batch = make_batch("all")
    before = learner.reference(batch)
    for seed in range(4):
        learner.train_iteration(batch, seed)
    after = learner.reference(batch)
    change = torch.zeros(len(after)).index_add(0, after.sequence, after.reference_logprobs - before.reference_logprobs)
    assert change[after.advantages > 0].mean() > change[after.advantages < 0].mean() + 1.0


def test_sampler_gap_compares_current_tokens_only(folder):
    learner = make(folder, updates=1)
    batch = make_batch("all")
    reference = learner.reference(batch)
    exact = torch.zeros_like(reference.sampler_logprobs).masked_scatter(
        reference.loss_mask, reference.reference_logprobs
    )
    exact[~reference.current] = -99.0  # old tokens came from other weights: they may differ
    assert sampler_gaps(replace(reference, sampler_logprobs=exact)).max() == 0
    stats = learner.train_iteration(batch, seed=0)
    truth = (reference.reference_logprobs + 3.0).abs()[reference.current[reference.loss_mask]]
    assert stats.metrics["gap/mean"] == pytest.approx(truth.mean().item(), rel=1e-5)
    assert stats.metrics["gap/max"] == pytest.approx(truth.max().item(), rel=1e-5)


def test_metrics_are_filled(folder):
    stats = make(folder).train_iteration(make_batch(), seed=0)
    # The tiny matrices are far from square-Gaussian: RMS within a factor of two of 0.2.
    assert 0.1 < stats.metrics["update_rms/muon"] < 0.4
    assert stats.metrics["update_rms/adamw"] > 0
    assert all(0 < step.entropy <= math.log(25) and step.grad_norm > 0 and step.lr == 3e-4 for step in stats.steps)
    assert unknown(stats.metrics) == []
    assert all(map(math.isfinite, stats.metrics.values()))
    first, last = stats.steps
    told = {
        "steps/done": 2,
        "steps/skipped": 0,
        "sequences/trained": 24,
        "loss": (first.loss + last.loss) / 2,
        "loss/first": first.loss,
        "loss/last": last.loss,
        "entropy": last.entropy,
        "logratio/max": last.log_ratio.max,
        "saturated": sum(step.tallies["saturated"].total for step in stats.steps) / 24,
    }
    assert {name: stats.metrics[name] for name in told} == pytest.approx(told)


def test_nothing_to_train_is_no_error(folder):
    learner = make(folder)
    before = weights(learner.model)
    stats = learner.train_iteration(make_batch(groups=0), seed=0)
    assert stats.steps == ()
    assert stats.metrics["steps/done"] == stats.metrics["tokens/trained"] == 0
    assert not {"loss", "gap/max", "entropy"} & stats.metrics.keys()
    assert distance(before, weights(learner.model)) == 0


def test_a_step_without_a_reference_is_refused(folder):
    with pytest.raises(ValueError, match=r"Learner\.reference"):
        make(folder).step(make_batch())


def sft(learner, pairs, lr):
    return learner.step(pack_demonstrations(pairs), CrossEntropy(), lr).loss


def test_sft_learns_and_is_invariant_to_micro_batching(folder):
    pairs = [((5, 6), (7, 8, 9, 1)), ((10,), (11, 1)), ((12, 13, 14), (5, 5, 5, 5, 5, 1))]
    small, large = make(folder, micro_batch_tokens=5), make(folder, micro_batch_tokens=1000)
    losses = [(sft(small, pairs, 3e-3), sft(large, pairs, 3e-3)) for _ in range(20)]
    assert losses[0][0] == pytest.approx(losses[0][1], rel=1e-5)
    assert losses[0][0] == pytest.approx(math.log(25), rel=0.1)  # untrained: near uniform
    assert losses[-1][1] < 0.5 * losses[0][1]
    scores = large.score([(*p, *r) for p, r in pairs])
    assert sft(large, pairs, 0.0) == pytest.approx(
        -sum(sum(s[len(p) - 1 :]) for (p, _), s in zip(pairs, scores, strict=True)) / 12, rel=1e-4
    )


def test_scores_are_those_of_the_plain_model(folder):
    learner = make(folder, micro_batch_tokens=20)
    model = AutoModelForCausalLM.from_pretrained(folder)
    sequences = [[5, 6, 7, 8], [9], list(range(5, 25)) * 2, [10, 11]]
    for sequence, scores in zip(sequences, learner.score(sequences), strict=True):
        with torch.no_grad():
            logprobs = model(torch.tensor([sequence])).logits[0].log_softmax(-1)
        expected = [logprobs[t, token].item() for t, token in enumerate(sequence[1:])]
        assert scores == pytest.approx(expected, abs=1e-5)


def poison(learner):
    def spoil(gradient):
        return gradient * float("nan")

    return next(iter(learner.model.parameters())).register_hook(spoil)


def test_non_finite_gradients_are_skipped_counted_and_stop_the_run(folder, tmp_path):
    learner = make(folder, optimizer={"max_bad_steps": 3})
    minibatch = learner.reference(make_batch())
    before = weights(learner.model)
    hook = poison(learner)
    metrics = [learner.step(minibatch) for _ in range(2)]
    assert all(step.skipped and not math.isfinite(step.grad_norm) and step.lr == 0 for step in metrics)
    assert distance(before, weights(learner.model)) == 0
    hook.remove()
    assert not learner.step(minibatch).skipped  # a good step ends the streak
    poison(learner)
    learner.step(minibatch)
    learner.step(minibatch)
    with pytest.raises(NonFiniteGradients, match="3 optimiser steps in a row"):
        learner.step(minibatch)
    assert all(value.isfinite().all() for value in weights(learner.model).values())


def test_non_finite_weights_are_never_saved(folder, tmp_path):
    learner = make(folder)
    with torch.no_grad():
        next(iter(learner.model.parameters()))[0, 0] = float("inf")
    with pytest.raises(NonFiniteGradients, match="embed_tokens"):
        learner.save(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("reset", [True, False])
def test_the_optimizer_is_reset_at_each_iteration_if_asked(folder, reset):
    learner = make(folder, optimizer={"reset_each_iteration": reset, "warmup_steps": 10})
    learner.train_iteration(make_batch(), seed=0)
    second = learner.train_iteration(make_batch(), seed=1)
    assert second.steps[0].lr == pytest.approx(3e-4 * (0.1 if reset else 0.3))


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("model", [{}, {"lora": LoraConfig(rank=2)}], ids=["full", "lora"])
def test_save_and_load_go_on_bitwise(folder, tmp_path, kind, model):
    settings = {"optimizer": {"kind": kind, "reset_each_iteration": False}}
    straight = make(folder, model, **settings)
    straight.train_iteration(make_batch(), seed=0)
    straight.save(tmp_path)
    straight.saved()
    drawn = (torch.rand(3), random.random(), np.random.rand())
    straight.train_iteration(make_batch(seed=1), seed=1)

    torch.manual_seed(123)
    resumed = make(folder, model, **settings)
    resumed.load(tmp_path)
    assert torch.equal(drawn[0], torch.rand(3))
    assert drawn[1:] == (random.random(), np.random.rand())
    resumed.train_iteration(make_batch(seed=1), seed=1)
    assert distance(weights(straight.model), weights(resumed.model)) == 0


@pytest.mark.parametrize("model", [{}, {"lora": LoraConfig(rank=2)}], ids=["full", "lora"])
def test_exported_models_load_in_transformers_with_the_same_scores(folder, tmp_path, model):
    learner = make(folder, model, optimizer={"lr": 1e-2})
    learner.train_iteration(make_batch(), seed=0)
    sequence = list(range(5, 20))
    scores = learner.score([sequence])[0]
    learner.export_hf(tmp_path)
    assert learner.score([sequence])[0] == scores  # exporting leaves the learner as it was
    exported = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert exported.dtype == torch.float32
    with torch.no_grad():
        logprobs = exported(torch.tensor([sequence])).logits[0].log_softmax(-1)
    assert scores == pytest.approx([logprobs[t, x].item() for t, x in enumerate(sequence[1:])], abs=1e-5)
    assert scores != pytest.approx(make(folder).score([sequence])[0], abs=1e-3)


def test_a_refusal_names_the_model(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    tree = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({**tree, "moba": {"block_size": 4, "top_k": 2}}))
    with pytest.raises(PolicyError, match=f"{tmp_path}: this LlamaForCausalLM was trained with block attention"):
        Learner(learner_spec(), tmp_path)


def test_importance_weights_follow_what_sampled(folder):
    """A sampler that agrees changes nothing; one that does not is logged and weighed. Off unless asked for."""
    batch, weighed = make_batch("all"), {"objective": {"importance": {"cap": 2.0}}}
    ends = batch.cu_seqlens.tolist()
    sequences = [batch.tokens[start:end].tolist() for start, end in pairwise(ends)]
    agreeing = batch.sampler_logprobs.clone()
    for start, row in zip(ends[:-1], make(folder).score(sequences), strict=True):
        agreeing[start + 1 : start + 1 + len(row)] = torch.tensor(row)
    found, after = {}, {}
    for name, keys, logprobs in (
        ("plain", {}, batch.sampler_logprobs),
        ("agrees", weighed, agreeing),
        ("differs", weighed, batch.sampler_logprobs),
    ):
        learner = make(folder, **keys)
        found[name] = learner.train_iteration(replace(batch, sampler_logprobs=logprobs), 0).metrics
        after[name] = weights(learner.model)
    assert not {"importance/mean", "importance/ess"} & found["plain"].keys()
    assert found["agrees"]["importance/mean"] == pytest.approx(1, abs=1e-4)
    assert found["agrees"]["importance/ess"] == pytest.approx(1, abs=1e-4)
    assert 0 < found["differs"]["importance/mean"] < 2
    assert 0 < found["differs"]["importance/ess"] < 1
    assert distance(after["differs"], after["plain"]) > 10 * distance(after["agrees"], after["plain"])
