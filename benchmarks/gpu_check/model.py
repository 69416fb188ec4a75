"""A model of Qwen3-0.6B's shape with random weights, learners of it, and made-up rollouts."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from benchmarks.gpu_check.case import Options

if TYPE_CHECKING:
    from transformers import Qwen3Config

    from rl.learner.batch import Batch
    from rl.learner.learner import Learner
    from rl.learner.ranks import Ranks

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


def config(dry: bool) -> Qwen3Config:
    """Return the configuration of transformers."""
    from transformers import Qwen3Config

    more = {"tie_word_embeddings": True, "max_position_embeddings": 131_072, "use_cache": False}
    rope = {"rope_type": "default", "rope_theta": 1e6}
    return Qwen3Config(**(DRY_SHAPE if dry else SHAPE), **more, rope_parameters=rope, pad_token_id=0, eos_token_id=1)


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


def learner(options: Options, length: int, ranks: Ranks | None = None) -> Learner:
    """Return a learner as a GPU run has it: Muon, bfloat16, checkpointed activations; micro-batches of ``length``."""
    from rl.learner.config import LearnerConfig, ModelConfig
    from rl.learner.learner import Learner
    from rl.learner.spec import LearnerSpec

    compute = "float32" if options.dry else "bfloat16"
    model = ModelConfig(device=options.device, compute_dtype=compute, gradient_checkpointing=True)
    spec = LearnerSpec(model, LearnerConfig(updates=1, micro_batch_tokens=length), max_tokens=length)
    return Learner(spec, files(options), ranks)


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
