"""The length of Muon's steps, in each way of matching it to AdamW's, against formulas and the SVD in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kernels.newton_schulz import newton_schulz_reference, orthogonalize
from rl.learner.config import OptimizerConfig
from rl.optim.build import build_optimizer
from rl.optim.muon import Matching, Muon
from rl.optim.routing import along, whole
from tests.learner_kit import tiny_llama

SHAPES = [(24, 24), (16, 64), (64, 16), (40, 24)]
LR, DECAY = 0.02, 0.1
FACTORS: dict[str, Callable[[int, int, float], float]] = {
    "shape": lambda rows, columns, _: 0.2 * math.sqrt(max(rows, columns)),
    "width": lambda *_: 0.2 * math.sqrt(48),
    "none": lambda rows, columns, _: math.sqrt(max(1, rows / columns)),
    "measured": lambda rows, columns, norm: 0.2 * math.sqrt(rows * columns) / norm,
}
"""Factor on the orthogonal matrix [rows, columns] of a Frobenius norm [2502.16982 §2.2, App. A]."""


def gaussian(shape: tuple[int, int], seed: int, rank: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if rank is None:
        return torch.randn(shape, generator=generator, dtype=torch.float64)
    left, right = (torch.randn(side, rank, generator=generator, dtype=torch.float64) for side in shape)
    return left @ right.T


def muon(params: list[nn.Parameter], matching: Matching, **changes: Any) -> Muon:
    settings = {"lr": LR, "weight_decay": DECAY, "dtype": params[0].dtype, "splits": [whole] * len(params)}
    return Muon(params, matching=matching, **settings | changes)


@pytest.mark.parametrize("kind", FACTORS)
def test_steps_are_the_formulas_in_float64(kind: str) -> None:
    params = [nn.Parameter(gaussian(shape, seed)) for seed, shape in enumerate(SHAPES)]
    expected = [p.detach().clone() for p in params]
    momenta = [torch.zeros_like(p) for p in params]
    optimizer = muon(params, Matching(kind, 0.2, 48))
    for step in range(3):
        squares = 0.0
        for i, p in enumerate(params):
            p.grad = gaussian(SHAPES[i], 10 * step + i)
            momenta[i] = 0.95 * momenta[i] + p.grad
            output = newton_schulz_reference(p.grad + 0.95 * momenta[i])
            update = FACTORS[kind](*SHAPES[i], output.norm().item()) * output
            expected[i] = (1 - LR * DECAY) * expected[i] - LR * update
            squares += update.square().sum().item()
        optimizer.step()
        told = math.sqrt(squares / sum(p.numel() for p in params))
        assert optimizer.update_rms == pytest.approx(told, rel=1e-6)
    for p, truth in zip(params, expected, strict=True):
        torch.testing.assert_close(p.detach(), truth, rtol=0, atol=1e-10)


def moved(shape: tuple[int, int], matching: Matching, rank: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(update over the learning rate, the polar factor P Q^T of the gradient's SVD)."""
    p = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    p.grad = gaussian(shape, 1, rank)
    u, values, vt = torch.linalg.svd(p.grad, full_matrices=False)
    full = values > 1e-9 * values[0]
    muon([p], matching, lr=1.0, weight_decay=0.0).step()
    return -p.detach(), u[:, full] @ vt[full]


@pytest.mark.parametrize("target", [0.05, 0.2, 0.8])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_updates_rms_is_the_target(shape: tuple[int, int], target: float) -> None:
    """Measured: exactly. By shape: as near as five iterations come to an orthogonal matrix, whose RMS it is."""
    for kind, near in (("measured", 1e-12), ("shape", 0.2)):
        update, polar = moved(shape, Matching(kind, target))
        assert update.square().mean().sqrt().item() == pytest.approx(target, rel=near)
        scaled = target * math.sqrt(max(shape)) * polar
        assert scaled.square().mean().sqrt().item() == pytest.approx(target, rel=1e-12)
        assert (update * scaled).sum() / (update.norm() * scaled.norm()) > 0.97


def test_only_measuring_reaches_the_target_where_gradients_have_few_directions() -> None:
    shape, rank = (64, 32), 2
    lengths = {kind: moved(shape, Matching(kind), rank)[0].square().mean().sqrt().item() for kind in FACTORS}
    assert lengths["measured"] == pytest.approx(0.2, rel=1e-12)
    assert lengths["shape"] == pytest.approx(0.2 * math.sqrt(rank / min(shape)), rel=0.25)


def test_no_gradient_moves_nothing_and_is_no_number() -> None:
    p = nn.Parameter(torch.ones(4, 6))
    p.grad = torch.zeros_like(p)
    optimizer = muon([p], Matching("measured"), weight_decay=0.0)
    optimizer.step()
    assert torch.equal(p.detach(), torch.ones(4, 6))
    assert optimizer.update_rms == 0.0


def test_a_fused_matrix_is_matched_part_by_part() -> None:
    sizes = [16, 8, 8]
    fused = nn.Parameter(gaussian((32, 12), 0))
    fused.grad = gaussian((32, 12), 1)
    before = fused.detach().clone()
    muon([fused], Matching("measured"), splits=[along(0, sizes)], lr=1.0, weight_decay=0.0).step()
    for part in (fused.detach() - before).split(sizes):
        assert part.square().mean().sqrt().item() == pytest.approx(0.2, rel=1e-12)


def test_in_bfloat16_the_target_is_met_to_rounding() -> None:
    p = nn.Parameter(torch.zeros(48, 96))
    p.grad = gaussian((48, 96), 3).float()
    optimizer = muon([p], Matching("measured"), dtype=torch.bfloat16, lr=1.0, weight_decay=0.0)
    optimizer.step()
    assert optimizer.update_rms == pytest.approx(0.2, rel=1e-3)
    assert p.detach().square().mean().sqrt().item() == pytest.approx(0.2, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unless_asked_for_otherwise_steps_are_what_they_were_bit_for_bit(dtype: torch.dtype) -> None:
    params = [nn.Parameter(gaussian(shape, seed).float()) for seed, shape in enumerate(SHAPES)]
    expected = [p.detach().clone() for p in params]
    momenta = [torch.zeros_like(p) for p in params]
    plain = Muon(params, [whole] * len(params), lr=LR, weight_decay=DECAY, dtype=dtype)
    for step in range(2):
        for i, p in enumerate(params):
            p.grad = gaussian(SHAPES[i], 10 * step + i).float()
            momenta[i].mul_(0.95).add_(p.grad)
            (output,) = orthogonalize([torch.add(p.grad, momenta[i], alpha=0.95)], dtype=dtype)
            expected[i].mul_(1 - LR * DECAY)
            expected[i].add_(output, alpha=-LR * (0.2 * math.sqrt(max(SHAPES[i]))))
        plain.step()
    for p, truth in zip(params, expected, strict=True):
        assert torch.equal(p.detach(), truth)


def test_the_configuration_reaches_the_optimiser() -> None:
    model = tiny_llama()
    assert build_optimizer(model, OptimizerConfig()).muon._matching == Matching("shape", 0.2, 32)
    config = OptimizerConfig(matching="width", target_rms=0.4)
    optimizer = build_optimizer(model, config)
    assert optimizer.muon._matching == Matching("width", 0.4, 32)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    p = model.model.layers[0].mlp.up_proj.weight
    before, truth = p.detach().clone(), 0.4 * math.sqrt(32) * newton_schulz_reference((1 + 0.95) * p.grad)
    optimizer.step(lr=1e-2)
    torch.testing.assert_close(
        (before * (1 - 1e-2 * config.weight_decay) - p.detach()) / 1e-2, truth, atol=1e-3, rtol=0
    )
