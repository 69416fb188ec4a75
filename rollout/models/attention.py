"""The configuration of the policy's attention: one object, given to the learner and to every engine. Imports no
torch.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from rollout.config import Config, EngineConfig


class BlockAttentionConfig(Config):
    """Mixture of block attention (MoBA, arXiv 2502.13189) in place of full attention, in learner and engines alike.

    The same object goes to both and, as ``moba``, into the ``config.json`` of exported models.
    """

    block_size: int = Field(ge=1)
    """Keys per block, counted from the start of each sequence; a multiple of the engine's page (32 on vLLM)."""
    top_k: int = Field(ge=1)
    """Blocks per query and head, the query's own included; positions below block_size x top_k have full attention."""
    full_below: int = Field(0, ge=0)
    """Positions below this have full attention too: where it is faster. A multiple of ``block_size``."""
    full_last_layers: int = Field(0, ge=0)
    """Last layers that keep full attention (layer hybrid)."""
    full_from: int | None = Field(None, ge=1)
    """First RL iteration with full attention in all layers (time hybrid); ``null``: never."""

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        if self.full_below % self.block_size:
            raise ValueError(f"full_below ({self.full_below}) is not a multiple of block_size ({self.block_size})")
        return self

    @property
    def dense_tokens(self) -> int:
        """Positions below this see their whole past."""
        return max(self.full_below, self.block_size * self.top_k)

    def at(self, version: int) -> BlockAttentionConfig | None:
        """Return the configuration under weights ``version``, which is the RL iteration that samples with them;
        ``None``:
        full.
        """
        return None if self.full_from is not None and version >= self.full_from else self

    def is_full(self, layer: int, layers: int) -> bool:
        """Return True for a layer that keeps full attention; ``layer`` counts from 0."""
        return layer >= layers - self.full_last_layers


class RotaryStage(Config):
    """The rotary embedding from one RL iteration on: how a run lengthens its context (RoFormer, PI, YaRN).

    It changes the policy as a function, so it changes only where an iteration starts: there the reference is replaced
    and the optimiser reset anyway, and engines drop their caches.
    """

    iteration: int = Field(0, ge=0)
    """First RL iteration of this stage; before the first stage the model's own embedding holds."""
    scaling: Literal["none", "linear", "by_parts", "yarn", "dynamic"] = "none"
    """``linear``: position interpolation. ``by_parts``: only slow pairs are interpolated. ``yarn``: that, and larger
    logits. ``dynamic`` is refused."""
    factor: float = Field(1.0, ge=1)
    """Wanted length over trained length."""
    base: float | None = Field(None, gt=1)
    """Base of the frequencies (k1.5: 1,000,000); ``null``: as in the stage before, at first the model's own."""
    trained: int = Field(0, ge=0)
    """Length that the model was trained at, in tokens; needed by ``by_parts`` and ``yarn``."""

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.scaling == "dynamic":
            raise ValueError(
                "scaling dynamic (dynamic NTK) cannot be used in RL: its frequencies follow the current length, so the "
                "log-prob of a token is another one once the sequence has grown; use yarn, linear or a larger base"
            )
        if self.scaling in ("by_parts", "yarn") and not self.trained:
            raise ValueError(f"scaling {self.scaling} needs trained, the length that the model was trained at")
        if (self.factor > 1) != (self.scaling != "none"):
            raise ValueError(f"factor {self.factor} does not go with scaling {self.scaling}: one needs the other")
        if self.scaling == "none" and self.base is None:
            raise ValueError("this stage changes nothing: give it a scaling with its factor, or a base")
        return self


class AttentionConfig(Config):
    """Attention of the policy beyond what its architecture says."""

    moba: BlockAttentionConfig | None = None
    """Block attention for long contexts; ``null``: full attention."""
    rotary: tuple[RotaryStage, ...] = ()
    """Context extension, in stages; empty: the model's own rotary embedding throughout."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if any(later.iteration <= earlier.iteration for earlier, later in pairwise(self.rotary)):
            raise ValueError("rotary stages must be in order of iteration, each later than the one before")
        return self

    def stage(self, version: int) -> RotaryStage | None:
        """Return the rotary embedding under weights ``version``, its base filled in; ``None``: the model's own."""
        reached = [stage for stage in self.rotary if stage.iteration <= version]
        bases = [stage.base for stage in reached if stage.base is not None]
        return reached[-1].model_copy(update={"base": bases[-1] if bases else None}) if reached else None

    def block(self, version: int) -> BlockAttentionConfig | None:
        """Block attention under weights ``version``; ``None``: full attention."""
        return None if self.moba is None else self.moba.at(version)

    def changes(self) -> int | None:
        """Return the first version whose attention differs from that of the one before; ``None``: it stays the same."""
        ends = () if self.moba is None or self.moba.full_from is None else (self.moba.full_from,)
        return min((*(stage.iteration for stage in self.rotary if stage.iteration), *ends), default=None)

    def settled(self, version: int) -> AttentionConfig:
        """Return the configuration that holds under weights ``version``, for all versions."""
        block, stage = self.block(version), self.stage(version)
        return AttentionConfig(
            moba=None if block is None else block.model_copy(update={"full_from": None}),
            rotary=() if stage is None else (stage.model_copy(update={"iteration": 0}),),
        )


PLAIN = AttentionConfig()
"""Full attention, and the model's own rotary embedding."""


def block_attention_fault(engine: EngineConfig) -> str:
    """Return why an engine cannot compute block attention, in one line; empty when it can."""
    if engine.kind == "vllm" and engine.device == "cuda" and engine.dtype == "float32":
        return (
            "engine.dtype float32 does not go with block attention on cuda: vLLM's FlashAttention, whose cache it "
            "reads, takes bfloat16 or float16; the learner's model.compute_dtype may stay float32"
        )
    return ""
