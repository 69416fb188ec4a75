"""Attention settings of a model's configuration (transformers' object), for learner and engines alike."""

from __future__ import annotations

from typing import Any

_WINDOWED = ("sliding_attention", "chunked_attention", "local_attention", "local")
"""Layer types whose queries do not see their whole past."""


def windows(config: Any) -> tuple[int, ...]:
    """Return the lengths beyond which some layer no longer sees the whole past, ascending; none for full attention.

    ``config``: of the text model. Layers without types of their own all have the window, as in Mistral.
    """
    found = {getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size")}
    types = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    if types is not None and not any(kind in _WINDOWED for kind in types):
        return ()
    return tuple(sorted(value for value in found if isinstance(value, int) and value > 0))


def is_encoder(config: Any) -> bool:
    """Return whether a configuration is that of an encoder: its tokens see what follows them (BERT and its kin)."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    turned = getattr(config, "is_decoder", False) or config.is_encoder_decoder
    return config.model_type in MASKED and not turned


def softcap(config: Any) -> float | None:
    """Return the bound of the attention scores (Gemma 2), if there is one."""
    return getattr(config, "attn_logit_softcapping", None)


def own_attention(config: Any) -> str | None:
    """Return the implementation in transformers that computes what the architecture asks for; ``None``: its own choice.

    Its ``sdpa`` has no soft-capping, and leaves it out without a word.
    """
    return None if softcap(config) is None else "eager"
