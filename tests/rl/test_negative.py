"""Negative training: the loss against its formula and cross-entropy, complementary labels, the selective filter."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from rl.learner.batch import pack_labelled
from rl.learner.learner import Learner
from rl.learner.spec import LearnerSpec
from rl.objectives.config import ClassesConfig
from rl.objectives.negative import CLIP, Negative, SelectiveFilter, class_weights, complementary, negative_loss
from tests.learner_kit import learner_spec, save_tiny_model


def test_with_two_classes_it_is_cross_entropy_to_the_last_digit() -> None:
    torch.manual_seed(0)
    logits = torch.randn(500, 2) * 3
    labels = torch.randint(2, (500,))
    own, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = negative_loss(own, torch.tensor(complementary(labels.tolist(), 2, 1, seed=0)))
    expected = cross_entropy(theirs, labels, reduction="none")
    within = expected < -math.log(CLIP)  # beyond it the loss is cut off, cross-entropy is not
    assert within.sum() > 490
    assert torch.equal(found[within], expected[within])
    found[within].sum().backward()
    expected[within].sum().backward()
    torch.testing.assert_close(own.grad, theirs.grad, rtol=1e-6, atol=1e-7)


def test_golden_value() -> None:
    logits = torch.tensor([[0.7, 0.3]]).log()
    assert negative_loss(logits, torch.tensor([[0, 1]])).item() == pytest.approx(0.3567, abs=5e-5)


def test_the_loss_is_its_formula() -> None:
    torch.manual_seed(1)
    logits, classes = torch.randn(40, 5, dtype=torch.float64), 5
    labels = torch.tensor(complementary([index % 5 for index in range(40)], classes, 4, seed=3))
    weights = torch.tensor([1.0, 2.0, 3.0, 1.5, 1.0])
    p = logits.softmax(1)
    expected = -(1 - p.gather(1, labels[:, 1:])).clamp(CLIP, 1).log().sum(1) * weights[labels[:, 0]]
    torch.testing.assert_close(negative_loss(logits, labels, weights), expected.float(), rtol=1e-5, atol=1e-6)


def test_a_text_that_surely_is_what_it_should_not_be_costs_a_bounded_loss() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    found = negative_loss(logits, torch.tensor([[1, 0, 2]]))
    found.sum().backward()
    assert found.item() == pytest.approx(-math.log(CLIP))
    assert logits.grad.abs().max() == 0  # finite, and nothing to learn: no NaN from log 0


@pytest.mark.parametrize(("classes", "wrong"), [(2, 0.40), (3, 0.20), (5, 0.10), (10, 0.044)])
def test_complementary_labels_are_seldom_wrong(classes: int, wrong: float) -> None:
    """Of labels of which 40 % are wrong, one drawn from the others is the true class in 0.4 / (C - 1) of all cases."""
    rng = np.random.default_rng(0)
    true = rng.integers(classes, size=60_000)
    noisy = np.where(rng.random(60_000) < 0.4, (true + rng.integers(1, classes, size=60_000)) % classes, true)
    drawn = np.array(complementary(noisy.tolist(), classes, 1, seed=1))
    assert (drawn[:, 0] == noisy).all()
    assert (drawn[:, 1] != noisy).all()
    assert (drawn[:, 1] == true).mean() == pytest.approx(0.4 / (classes - 1), abs=0.006)
    assert 0.4 / (classes - 1) == pytest.approx(wrong, abs=5e-4)


def test_complementary_labels_are_uniform_and_a_function_of_the_seed() -> None:
    drawn = np.array(complementary([2] * 30_000, 4, 3, seed=[1, 2]))
    shares = np.bincount(drawn[:, 1:].ravel(), minlength=4) / drawn[:, 1:].size
    assert shares == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3], abs=0.01)
    assert drawn.tolist() == complementary([2] * 30_000, 4, 3, seed=[1, 2])
    assert drawn.tolist() != complementary([2] * 30_000, 4, 3, seed=[1, 3])


def test_rare_classes_weigh_more() -> None:
    assert class_weights([0, 0, 0, 0, 1, 1, 2], 4) == (1.0, 2.0, 4.0, 1.0)


def test_the_filter_leaves_out_what_stays_improbable_and_lets_it_back_in() -> None:
    chosen = SelectiveFilter(classes=4)
    chosen.see([0.9, 0.1, 0.3])
    assert chosen.kept(3) == [0, 1, 2]  # one epoch is no average yet
    chosen.see([0.9, 0.3, 0.3])
    assert chosen.kept(3) == [0, 2]  # means 0.9, 0.2, 0.3 against 1/4
    chosen.see([0.1, 0.5, 0.1])
    assert chosen.kept(3) == [0, 1]
    with pytest.raises(ValueError, match="at least 2"):
        SelectiveFilter(classes=1)


def test_the_learner_divides_by_the_kept_samples_and_moves_the_head(tmp_path: Path) -> None:
    spec = learner_spec()
    section = spec.learner.model_copy(update={"objective": ClassesConfig(classes=3)})
    it = Learner(LearnerSpec(spec.model, section, longest=16), save_tiny_model(tmp_path / "model"))
    texts = [(3, 4, 5), (6,), (7, 8, 9, 10), (4, 4)]
    labels = complementary([0, 1, 2, 1], 3, 2, seed=0)
    objective = Negative(3, class_weights([0, 1, 2, 1], 3))
    before = it.judged(pack_labelled(texts), objective.needs).head
    expected = negative_loss(before, torch.tensor(labels), torch.tensor([2.0, 1.0, 2.0])).mean().item()
    step = it.step(pack_labelled(texts, labels), objective, lr=1e-2)
    assert step.loss == pytest.approx(expected, abs=1e-5)
    assert not torch.equal(before, it.judged(pack_labelled(texts), objective.needs).head)
