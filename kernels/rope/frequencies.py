"""Frequencies of the rotary embedding under each context extension, and its tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

Scaling = Literal["none", "linear", "by_parts", "yarn"]


@dataclass(frozen=True)
class Rotary:
    """One rotary embedding; ``ValueError`` on impossible values."""

    dim: int
    """Channels that rotate, an even number; a head may have more."""
    base: float = 10_000.0
    """Pair j turns by base^(-2j / dim) per position. A larger base is itself a context extension."""
    scaling: Scaling = "none"
    """``linear``: position interpolation. ``by_parts``: only pairs with few turns in ``trained`` are interpolated.
    ``yarn``: the same with the ramp over pair indices, and cos and sin stretched by 0.1 ln(factor) + 1."""
    factor: float = 1.0
    """Wanted length over trained length."""
    trained: int = 0
    """Trained length in tokens; needed by ``by_parts`` and ``yarn``."""
    beta_slow: float = 1.0
    """Pairs with fewer turns than this in ``trained`` are interpolated by the whole factor."""
    beta_fast: float = 32.0
    """Pairs with more turns than this stay as they are."""

    def __post_init__(self) -> None:
        if self.dim < 2 or self.dim % 2:
            raise ValueError(f"rotary dim must be a positive even number, got {self.dim}")
        if self.base <= 1:
            raise ValueError(f"rotary base must be above 1, got {self.base}")
        if self.factor < 1:
            raise ValueError(f"rotary factor must be at least 1, got {self.factor}")
        if self.scaling in ("by_parts", "yarn") and (self.trained < 1 or not 0 < self.beta_slow < self.beta_fast):
            raise ValueError(
                f"{self.scaling} needs the trained length and 0 < beta_slow < beta_fast, got trained {self.trained}, "
                f"beta_slow {self.beta_slow}, beta_fast {self.beta_fast}"
            )


def frequencies(rotary: Rotary) -> tuple[torch.Tensor, float]:
    """Radians per position of each pair, float32 [dim / 2], and the factor on cos and sin."""
    exponent = torch.arange(0, rotary.dim, 2, dtype=torch.float32) / rotary.dim
    plain = 1.0 / rotary.base**exponent
    stretched = plain / rotary.factor
    match rotary.scaling:
        case "none":
            return plain, 1.0
        case "linear":
            return stretched, 1.0
        case "by_parts":
            turns = rotary.trained * plain / (2 * math.pi)
            kept = ((turns - rotary.beta_slow) / (rotary.beta_fast - rotary.beta_slow)).clamp(0, 1)
            return torch.lerp(stretched, plain, kept), 1.0
        case "yarn":
            low, high = yarn_range(rotary)
            ramp = ((torch.arange(rotary.dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
            scale = 0.1 * math.log(rotary.factor) + 1.0 if rotary.factor > 1 else 1.0
            return stretched * ramp + plain * (1 - ramp), scale


def yarn_range(rotary: Rotary) -> tuple[float, float]:
    """First and last pair of YaRN's ramp. Tiny trained lengths give it no width: then it is a step."""

    def pair_with(turns: float) -> float:
        return rotary.dim * math.log(rotary.trained / (turns * 2 * math.pi)) / (2 * math.log(rotary.base))

    low = max(math.floor(pair_with(rotary.beta_fast)), 0)
    high = min(math.ceil(pair_with(rotary.beta_slow)), rotary.dim - 1)
    return low, high if high > low else low + 0.001


def tables(inverse: torch.Tensor, scale: float, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, float32 [T, dim / 2], at ``positions`` [T] for what ``frequencies`` returned.

    Positions are those within the sequence: they start again at 0 in every packed sequence, and a continued rollout
    goes on where it stopped. Angles are float32: bfloat16 has no exact integers above 256.
    """
    angles = positions.to(torch.float32)[:, None] * inverse.to(positions.device, torch.float32)
    return angles.cos() * scale, angles.sin() * scale
