"""Frequencies of the rotary embedding under each context extension, and its tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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

    @property
    def parameters(self) -> dict[str, Any]:
        """The same embedding as ``rope_parameters``, in the words of transformers and vLLM."""
        named: dict[str, Any] = {"rope_theta": self.base}
        match self.scaling:
            case "none":
                return named | {"rope_type": "default"}
            case "linear":
                return named | {"rope_type": "linear", "factor": self.factor}
            case "by_parts":  # what Llama 3 calls its scaling, with its own limits
                named |= {"rope_type": "llama3", "low_freq_factor": self.beta_slow, "high_freq_factor": self.beta_fast}
            case "yarn":
                named |= {"rope_type": "yarn", "beta_slow": self.beta_slow, "beta_fast": self.beta_fast}
        return named | {"factor": self.factor, "original_max_position_embeddings": self.trained}


def frequencies(rotary: Rotary) -> tuple[torch.Tensor, float]:
    """Return the radians per position of each pair, float32 [dim / 2], and the factor on cos and sin.

    Scaled ones are computed by transformers, so an exported model has the very same bits.
    """
    if rotary.scaling == "none":  # every architecture of transformers has a copy of its own
        return 1.0 / rotary.base ** (torch.arange(0, rotary.dim, 2, dtype=torch.float32) / rotary.dim), 1.0
    from transformers import PreTrainedConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = PreTrainedConfig(
        hidden_size=rotary.dim,  # one head of as many channels as rotate
        num_attention_heads=1,
        head_dim=rotary.dim,
        max_position_embeddings=int(rotary.trained * rotary.factor),
        rope_parameters=rotary.parameters,
    )
    return ROPE_INIT_FUNCTIONS[rotary.parameters["rope_type"]](config)


def tables(inverse: torch.Tensor, scale: float, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, float32 [T, dim / 2], at ``positions`` [T] for what ``frequencies`` returned.

    Positions are those within the sequence: they start again at 0 in every packed sequence, and a continued rollout
    goes on where it stopped. Angles are float32: bfloat16 has no exact integers above 256.
    """
    angles = positions.to(torch.float32)[:, None] * inverse.to(positions.device, torch.float32)
    return angles.cos() * scale, angles.sin() * scale
