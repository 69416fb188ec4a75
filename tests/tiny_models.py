"""Tiny random models for tests, and the truth about their log-probs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rollout.models.shards import for_engine


def tiny_llama(tied: bool = True, seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """About 50 k parameters, 2 layers, vocabulary 32, sharp enough that log-probs differ clearly between seeds."""
    config = LlamaConfig(
        **{
            "vocab_size": 32,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
            "tie_word_embeddings": tied,
            "initializer_range": 0.15,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
            **changes,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).float().eval()


def named_weights(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Everything that a vLLM engine is sent, bucket by bucket."""
    return [pair for bucket in for_engine(model).buckets() for pair in bucket]


@torch.no_grad()
def log_probs(model: torch.nn.Module, sequence: Sequence[int], temperature: float = 1.0) -> list[float]:
    """Log-prob of each token but the first, one sequence at a time, no padding; nats."""
    logits = model(torch.tensor([list(sequence)])).logits[0, :-1].float() / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(list(sequence)[1:])[:, None])[:, 0].tolist()
