"""Tiny models to merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from recipes.shorten.merge import MergeError, merge
from rollout.models.tokenizer import build_tokenizer
from rollout.problems.arithmetic import TOKENS

torch.set_num_threads(1)  # tiny tensors: a second thread only waits, for long on a busy machine


def model(folder: Path, seed: int, shard: str = "5GB", **changes: Any) -> Path:
    tokenizer = build_tokenizer(TOKENS, 64)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "tie_word_embeddings": True,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(seed)
    made = LlamaForCausalLM(LlamaConfig(**{**shape, **changes}))
    made.save_pretrained(folder, max_shard_size=shard)
    tokenizer.save_pretrained(folder)
    return folder


def state(folder: Path) -> dict[str, torch.Tensor]:
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return dict(loaded.state_dict())


def refusal(long: Path, short: Path, out: Path, **changes: Any) -> str:
    with pytest.raises(MergeError) as caught:
        merge(long, short, out, **changes)
    assert not out.is_dir() or [*out.iterdir()]
    assert not [*out.parent.glob(".*.tmp")]
    assert "\n" not in str(caught.value)
    return str(caught.value)
