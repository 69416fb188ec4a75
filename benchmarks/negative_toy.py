"""Negative training on a mixture of Gaussians with wrong labels: cross-entropy, negative, selective negative.

A plain network, trained far beyond what would be best, learns the wrong labels by heart under cross-entropy. What is
compared is how much of that the other two are spared; with two classes the first two are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rl.objectives.negative import SelectiveFilter, complementary, negative_loss

Arm = Literal["cross_entropy", "negative", "selective"]
ARMS: tuple[Arm, ...] = get_args(Arm)
CLASSES = (2, 5, 10)
NOISES = (0.0, 0.3, 0.5)
DIMENSIONS, TRAINED, TESTED = 40, 600, 4000
SEPARATION = 2.4
"""Length of each class's mean; the noise of a point has variance 1 in every direction."""
WIDTH, RATE, EPOCHS = 128, 3e-3, 240


@dataclass(frozen=True)
class Mixture:
    """Points of classes; some of the trained ones carry the label of another class."""

    trained: torch.Tensor
    """[n, d]."""
    labels: torch.Tensor
    """[n], some of them wrong."""
    tested: torch.Tensor
    """[m, d]."""
    gold: torch.Tensor
    """[m], all right."""


def mixture(classes: int, noise: float, seed: int) -> Mixture:
    """Return data whose share ``noise`` of trained labels is wrong: each another class, all equally often."""
    rng = torch.Generator().manual_seed(seed)
    means = torch.randn(classes, DIMENSIONS, generator=rng)
    means = SEPARATION * means / means.norm(dim=1, keepdim=True)
    gold = torch.randint(classes, (TRAINED + TESTED,), generator=rng)
    points = means[gold] + torch.randn(len(gold), DIMENSIONS, generator=rng)
    wrong = torch.rand(TRAINED, generator=rng) < noise
    moved = (gold[:TRAINED] + torch.randint(1, classes, (TRAINED,), generator=rng)) % classes
    labels = torch.where(wrong, moved, gold[:TRAINED])
    return Mixture(points[:TRAINED], labels, points[TRAINED:], gold[TRAINED:])


def accuracy(arm: Arm, data: Mixture, classes: int, seed: int) -> float:
    """Return the accuracy on the tested points after ``EPOCHS`` steps on all trained ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(DIMENSIONS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes))
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    chosen, labels = SelectiveFilter(classes), data.labels.tolist()
    everything = torch.arange(len(labels))
    for epoch in range(EPOCHS):
        logits = net(data.trained)
        kept = everything
        if arm == "selective":
            if epoch >= EPOCHS // 2:
                kept = torch.tensor(chosen.kept(len(labels)))
            chosen.see(logits.detach().softmax(1)[everything, data.labels].tolist())
        if arm == "cross_entropy":
            loss = cross_entropy(logits, data.labels)
        else:
            drawn = torch.tensor(complementary(labels, classes, classes - 1, (seed, epoch)))
            loss = negative_loss(logits[kept], drawn[kept]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return (net(data.tested).argmax(1) == data.gold).float().mean().item()


def measure(classes: int, noise: float, seeds: Sequence[int]) -> dict[Arm, list[float]]:
    """Return each arm's accuracy of each seed; data and first weights of a seed are the same for all arms."""
    return {arm: [accuracy(arm, mixture(classes, noise, seed), classes, seed) for seed in seeds] for arm in ARMS}
