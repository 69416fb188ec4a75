"""A model of the quickstart's shape with random weights, for measurements that need no learnt one."""

from __future__ import annotations

from pathlib import Path


def untrained_model(folder: Path, words: int, sharpness: float) -> Path:
    """Save a Llama with ``words`` tokens into ``folder``, and return that.

    ``sharpness``: deviation of its weights; large ones prefer some tokens, small ones none.
    """
    import torch
    from transformers import LlamaForCausalLM

    from recipes import quickstart
    from rl.learner.config import ScratchModel
    from rl.learner.policy import scratch_config

    base = quickstart.config().model.base
    assert isinstance(base, ScratchModel)
    config = scratch_config(base, words, initializer_range=sharpness)
    torch.manual_seed(0)
    LlamaForCausalLM(config).float().save_pretrained(folder)
    return folder
