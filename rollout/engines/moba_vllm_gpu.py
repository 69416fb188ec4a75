"""MoBA in vLLM on GPUs: FlashAttention's backend with block layers. Chosen by name, never put in its place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from vllm.config import VllmConfig
from vllm.v1.attention.backend import AttentionCGSupport, CommonAttentionMetadata
from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionBackend,
    FlashAttentionImpl,
    FlashAttentionMetadata,
    FlashAttentionMetadataBuilder,
)
from vllm.v1.kv_cache_interface import AttentionSpec, KVCacheSpec

from kernels.moba import moba_paged_attention, write_pages
from kernels.moba.paged import ROW_QUERIES
from rollout.models.moba_layer import BlockLayer, announce


class MobaFlashBackend(FlashAttentionBackend):
    """Full layers are FlashAttention's; block layers share its cache layout."""

    @staticmethod
    def get_name() -> str:
        """See vLLM; a member of its registry."""
        return "CUSTOM"

    @staticmethod
    def get_impl_cls() -> type[MobaFlashImpl]:
        """See vLLM."""
        return MobaFlashImpl

    @staticmethod
    def get_builder_cls() -> type[MobaFlashMetadataBuilder]:
        """See vLLM."""
        return MobaFlashMetadataBuilder


@dataclass
class MobaFlashMetadata(FlashAttentionMetadata):
    """FlashAttention's metadata, with the lengths of this step where its block layers need them on the host."""

    on_host: tuple[list[int], list[int]] | None = None
    """Tokens of each sequence, and ends of its rows of q: read from the device once, not in each layer."""


class MobaFlashMetadataBuilder(FlashAttentionMetadataBuilder):
    """Made once per group of layers, after the model and before its first token."""

    def __init__(
        self, kv_cache_spec: AttentionSpec, layer_names: list[str], vllm_config: VllmConfig, device: torch.device
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self.block_layers = announce(vllm_config, layer_names, kv_cache_spec)

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> MobaFlashMetadata:
        """See vLLM."""
        built = MobaFlashMetadata(**vars(super().build(common_prefix_len, common_attn_metadata, fast_build)))
        if built.max_query_len > ROW_QUERIES and any(layer.gate is not None for layer in self.block_layers):
            built.on_host = built.seq_lens.tolist(), common_attn_metadata.query_start_loc_cpu.tolist()
        return built

    @classmethod
    def get_cudagraph_support(cls, vllm_config: VllmConfig, kv_cache_spec: KVCacheSpec) -> AttentionCGSupport:  # noqa: ARG003
        """See vLLM; prompts read lengths on the host, so attention stays outside of captured graphs."""
        return AttentionCGSupport.NEVER


class MobaFlashImpl(BlockLayer, FlashAttentionImpl):
    """One layer, with block or full attention."""

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
            tokens = slot_mapping.shape[0]
            keys, values = pages_of(kv_cache)
            write_pages(key[:tokens], value[:tokens], keys, values, self.sums_of(keys), slot_mapping)

    def forward(
        self,
        layer: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: MobaFlashMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See vLLM; query and output [T, H, D]."""
        if self.gate is None or attn_metadata is None:
            arguments = (query, key, value, kv_cache, attn_metadata, output, output_scale, output_block_scale)
            return super().forward(layer, *arguments)
        if attn_metadata.causal is not True:
            raise ValueError("block attention is causal, and vLLM asks for attention that is not")
        tokens = attn_metadata.num_actual_tokens
        keys, values = pages_of(kv_cache)
        output[:tokens] = moba_paged_attention(
            query[:tokens],
            keys,
            values,
            self.sums_of(keys),
            attn_metadata.block_table,
            attn_metadata.seq_lens,
            attn_metadata.query_start_loc,
            self.gate,
            self.scale,
            attn_metadata.max_query_len,
            attn_metadata.on_host,
        )
        return output


def pages_of(kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the keys beside values within a token, as FlashAttention has them."""
    keys, values = kv_cache.chunk(2, dim=-1)
    return keys, values
