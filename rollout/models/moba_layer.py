"""The part of block layers that vLLM's attention layers on CPUs and GPUs share [2502.13189 §2.2]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.config import VllmConfig, get_layers_from_vllm_config
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.models.utils import extract_layer_index
from vllm.v1.attention.backend import AttentionType
from vllm.v1.kv_cache_interface import AttentionSpec

from kernels.moba import MobaConfig, new_page_sums
from rollout.models import moba
from rollout.models.attention import BlockAttentionConfig


class BlockLayer:
    """Mixed into vLLM's implementation of a layer. Beside the cache it keeps one sum of keys per page.

    A sum belongs to its page's content, as the keys do: prefix sharing, preemption and reuse need no bookkeeping.
    """

    gate: MobaConfig | None = None
    """Block attention of the layer at present; ``None``: full attention, by vLLM."""
    own_gate: MobaConfig | None = None
    """``gate`` while block attention is on; ``None`` in layers that never have it."""
    page_sums: torch.Tensor | None = None
    """Float32 [pages, H_kv, D]: the sum of each full page's keys."""

    def become_block_layer(self, name: str, block: BlockAttentionConfig, page_tokens: int) -> None:
        """Make this a block layer. Raises ``ValueError`` for what a block layer cannot do."""
        if block.block_size % page_tokens:
            raise ValueError(
                f"moba.block_size {block.block_size} is not a multiple of vLLM's page of {page_tokens} tokens "
                "(its argument block_size)"
            )
        layer: Any = self
        window = layer.sliding_window
        wanted = {
            "a sliding window": window not in (None, -1, (-1, -1)),
            "ALiBi": layer.alibi_slopes is not None,
            "attention sinks": layer.sinks is not None,
            "soft-capped logits": bool(layer.logits_soft_cap),
            "an fp8 cache": layer.kv_cache_dtype.startswith("fp8"),
            "a cache shared between layers": layer.kv_sharing_target_layer_name is not None,
            f"{layer.attn_type} attention": layer.attn_type != AttentionType.DECODER,
        }
        for what, is_so in wanted.items():
            if is_so:
                raise ValueError(f"block attention does not go with {what}, which layer {name} has")
        self.gate = self.own_gate = moba.gate(block)

    def switch(self, on: bool) -> None:
        """Use block or full attention from now on. The cache must be empty: full attention keeps no sums."""
        self.gate = self.own_gate if on else None

    def sums_of(self, keys: torch.Tensor) -> torch.Tensor:
        """Return ``page_sums``, made when the cache [pages, H_kv, page, D] is first used."""
        if self.page_sums is None or self.page_sums.shape[0] != keys.shape[0]:
            self.page_sums = new_page_sums(keys)
        return self.page_sums


def announce(vllm_config: VllmConfig, layer_names: Sequence[str], spec: AttentionSpec) -> list[BlockLayer]:
    """Make the block layers of a cache group such, and return them; called when the model is there."""
    text = vllm_config.model_config.hf_text_config
    block = moba.read(text)
    if block is None:
        return []
    told = []
    for name, layer in get_layers_from_vllm_config(vllm_config, Attention, list(layer_names)).items():
        if not block.is_full(extract_layer_index(name), text.num_hidden_layers):
            layer.impl.become_block_layer(name, block, spec.block_size)
            told.append(layer.impl)
    return told
