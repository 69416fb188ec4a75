"""A model of Qwen3-0.6B's shape with random weights, made-up rollouts for it, and the operations that they cost."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.gpu_check.case import Options

if TYPE_CHECKING:
    from transformers import Qwen3Config

    from rl.learner.batch import Batch
    from rl.learner.learner import Learner

PROMPT = 16
"""Prompt tokens of a made-up rollout; all others carry loss."""
SHAPE = {
    "vocab_size": 151_936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
DRY_SHAPE = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of training.

    Model operations: what recomputation adds does not count. 6 a parameter and token, the tied embedding once, as the
    head; and 6 H D T a layer and token for causal attention over T tokens (4 H D T forward, thrice that with the
    backward pass, half of it causal).
    """

    parameters: int
    layers: int
    attention_width: int
    """Heads times their size, H D."""

    def per_token(self, length: int) -> float:
        """Operations a token of sequences of ``length`` tokens, forward and backward."""
        return 6.0 * self.parameters + 6.0 * self.layers * self.attention_width * length


def config(dry: bool) -> Qwen3Config:
    """Return the configuration of transformers."""
    from transformers import Qwen3Config

    more = {"tie_word_embeddings": True, "max_position_embeddings": 131_072, "use_cache": False}
    rope = {"rope_type": "default", "rope_theta": 1e6}
    return Qwen3Config(**(DRY_SHAPE if dry else SHAPE), **more, rope_parameters=rope, pad_token_id=0, eos_token_id=1)


def cost(dry: bool) -> Cost:
    """Return the cost of the model of ``config``."""
    shape = DRY_SHAPE if dry else SHAPE
    width, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    queries = shape["num_attention_heads"] * shape["head_dim"]
    keys = shape["num_key_value_heads"] * shape["head_dim"]
    matrices = 2 * width * queries + 2 * width * keys + 3 * width * inner
    norms = 2 * width + 2 * shape["head_dim"]
    total = layers * (matrices + norms) + width + shape["vocab_size"] * width
    return Cost(total, layers, queries)


def files(options: Options) -> Path:
    """Return the folder of the model, which the first to ask for it makes."""
    folder = Path(options.folder) / "model"
    if not folder.exists():
        from transformers import Qwen3ForCausalLM

        torch.manual_seed(0)
        with torch.device(options.device):
            model = Qwen3ForCausalLM(config(options.dry))
        aside = tempfile.mkdtemp(dir=options.folder)
        model.to(torch.bfloat16).save_pretrained(aside)
        os.rename(aside, folder)
    return folder


def learner(options: Options, length: int, **changes: object) -> Learner:
    """Return a learner as a GPU run has it: Muon, bfloat16, checkpointed activations; micro-batches of ``length``."""
    from rl.config import LearnerConfig, ModelConfig
    from rl.learner.learner import Learner
    from rl.learner.spec import LearnerSpec

    compute = "float32" if options.dry else "bfloat16"
    model = ModelConfig(device=options.device, compute_dtype=compute, gradient_checkpointing=True)
    spec = LearnerSpec(model, LearnerConfig(updates=1, micro_batch_tokens=length, **changes), max_tokens=length)
    return Learner(spec, files(options))


def rollouts(options: Options, length: int, count: int) -> Batch:
    """Return ``count`` rollouts of ``length`` tokens, half of them better than the others."""
    from rl.learner.batch import Batch, cumulative

    generator = torch.Generator().manual_seed(length)
    vocabulary = (DRY_SHAPE if options.dry else SHAPE)["vocab_size"]
    drawn = (torch.arange(length) >= PROMPT).repeat(count)
    return Batch(
        tokens=torch.randint(2, vocabulary, (count * length,), generator=generator).int(),
        cu_seqlens=cumulative([length] * count),
        loss_mask=drawn,
        current=drawn,
        sampler_logprobs=torch.zeros(count * length),
        advantages=torch.tensor([0.5, -0.5]).repeat(count)[:count],
        groups=("0",) * count,
        total=count,
    )
