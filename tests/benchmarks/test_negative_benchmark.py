"""The toy of negative training: the same as cross-entropy with two classes, and better on wrong labels with ten."""

from __future__ import annotations

from statistics import fmean

import torch

from benchmarks.common import student
from benchmarks.negative_agnews import settings_of
from benchmarks.negative_toy import TRAINED, measure, mixture

torch.set_num_threads(1)


def test_with_two_classes_all_arms_are_one() -> None:
    found = measure(2, 0.3, [0])
    assert found["cross_entropy"] == found["negative"] == found["selective"]


def test_with_ten_classes_and_half_of_the_labels_wrong_the_order_is_the_papers() -> None:
    found = measure(10, 0.5, [0])
    means = [fmean(found[arm]) for arm in ("cross_entropy", "negative", "selective")]
    assert means[0] + 0.01 < means[1] < means[2] - 0.01


def test_as_many_labels_are_wrong_as_asked_for() -> None:
    clean, noisy = mixture(5, 0.0, seed=3), mixture(5, 0.4, seed=3)
    assert torch.equal(clean.trained, noisy.trained)
    assert torch.equal(clean.gold, noisy.gold)
    assert abs((clean.labels != noisy.labels).sum().item() / TRAINED - 0.4) < 0.06


def test_students_interval() -> None:
    mean, low, high = student([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert abs((high - mean) - 2.4841) < 1e-3  # 4.3027 / sqrt(3)
    assert abs((mean - low) - (high - mean)) < 1e-12


def test_settings_keep_their_types() -> None:
    found = settings_of(["epochs=2", "lr=1e-3"])
    assert (found.epochs, found.lr) == (2, 1e-3)
    assert isinstance(found.epochs, int)
