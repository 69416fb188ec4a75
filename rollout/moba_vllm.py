"""MoBA in vLLM on CPUs: an attention backend for prefill, chunked prefill, prefix-cache hits and decode [C.1, C.9].

The plug-in puts it in the place of vLLM's CPU backend, of which it is a subclass: layers of a model without a ``moba``
entry in its configuration, and layers that keep full attention, take vLLM's own path, cache layout included.
"""

from __future__ import annotations

import torch
from vllm.config import VllmConfig
from vllm.v1.attention.backend import AttentionLayer
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadata,
    CPUAttentionMetadataBuilder,
)
from vllm.v1.kv_cache_interface import AttentionSpec

from rollout.moba_layer import BlockLayer, Pages, announce


class MobaCpuBackend(CPUAttentionBackend):
    """vLLM's CPU backend, with block attention in the layers that ask for it."""

    @staticmethod
    def get_impl_cls() -> type[MobaCpuImpl]:
        """See vLLM."""
        return MobaCpuImpl

    @staticmethod
    def get_builder_cls() -> type[MobaCpuMetadataBuilder]:
        """See vLLM."""
        return MobaCpuMetadataBuilder


class MobaCpuMetadataBuilder(CPUAttentionMetadataBuilder):
    """Made once per group of layers, after the model and before its first token."""

    def __init__(
        self, kv_cache_spec: AttentionSpec, layer_names: list[str], vllm_config: VllmConfig, device: torch.device
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        announce(vllm_config, layer_names, kv_cache_spec)


class MobaCpuImpl(BlockLayer, CPUAttentionBackendImpl):
    """One layer. A block layer never mixes with vLLM's kernel: that one packs keys its own way."""

    def do_kv_cache_update(
        self,
        layer: torch.nn.Module,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """See vLLM; key and value [T, H_kv, D], kv_cache [pages, H_kv, page, 2 D], slot_mapping [T]."""
        if self.gate is None:
            super().do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)
        else:
            self.write_blocks(key, value, pages_of(kv_cache), slot_mapping)

    def forward(
        self,
        layer: AttentionLayer,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: CPUAttentionMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See vLLM; query and output [T, H, D]."""
        if self.gate is None or attn_metadata is None:
            arguments = (query, key, value, kv_cache, attn_metadata, output, output_scale, output_block_scale)
            return super().forward(layer, *arguments)
        self.attend_blocks(query, pages_of(kv_cache), attn_metadata, self.scale, output)
        return output


def pages_of(kv_cache: torch.Tensor) -> Pages:
    """Keys before values within a head's part of a page: each page of a head is then contiguous."""
    pages, heads, page_tokens, width = kv_cache.shape
    keys, values = kv_cache.view(pages, heads, 2 * page_tokens, width // 2).chunk(2, dim=2)
    return keys, values
