"""A model of the quickstart's shape with random weights, for measurements that need no learnt one."""

from __future__ import annotations

from pathlib import Path


def untrained_model(folder: Path, words: int, sharpness: float) -> Path:
    """Save a Llama with ``words`` tokens into ``folder``, and return that.

    ``sharpness``: deviation of its weights; large ones prefer some tokens, small ones none.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from recipes import quickstart
    from rl.learner.config import ScratchModel

    base = quickstart.config().model.base
    assert isinstance(base, ScratchModel)
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=base.width,
        intermediate_size=base.mlp_width,
        num_hidden_layers=base.layers,
        num_attention_heads=base.heads,
        num_key_value_heads=base.kv_heads,
        max_position_embeddings=base.context,
        tie_word_embeddings=True,
        initializer_range=sharpness,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).float().save_pretrained(folder)
    return folder
