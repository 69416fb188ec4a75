"""MoBA in vLLM on CPUs: an attention backend for prefill, chunked prefill, prefix-cache hits and decode
[2502.13189 §2.2].

The plug-in puts it in the place of vLLM's CPU backend, of which it is a subclass: layers of a model without a ``moba``
entry in its configuration, and layers that keep full attention, take vLLM's own path.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from vllm.config import VllmConfig
from vllm.v1.attention.backend import AttentionLayer, CommonAttentionMetadata
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadata,
    CPUAttentionMetadataBuilder,
)
from vllm.v1.kv_cache_interface import AttentionSpec

from rollout.engines.moba_pages import Kernel, Plan, add_to_sums, attend, halves, plan
from rollout.models.moba_layer import BlockLayer, announce


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


@dataclass
class MobaCpuMetadata(CPUAttentionMetadata):
    """vLLM's metadata, with the plan of the block layers for this step."""

    plan: Plan | None = None
    """``None`` while no layer of the group is a block layer."""


class MobaCpuMetadataBuilder(CPUAttentionMetadataBuilder):
    """Made once per group of layers, after the model and before its first token."""

    def __init__(
        self, kv_cache_spec: AttentionSpec, layer_names: list[str], vllm_config: VllmConfig, device: torch.device
    ) -> None:
        super().__init__(kv_cache_spec, layer_names, vllm_config, device)
        self.block_layers = announce(vllm_config, layer_names, kv_cache_spec)

    def build(
        self, common_prefix_len: int, common_attn_metadata: CommonAttentionMetadata, fast_build: bool = False
    ) -> MobaCpuMetadata:
        """See vLLM."""
        built = MobaCpuMetadata(**vars(super().build(common_prefix_len, common_attn_metadata, fast_build)))
        gates = [layer.gate for layer in self.block_layers if layer.gate is not None]
        if gates:
            if built.causal is not True or built.dynamic_causal is not None:
                raise ValueError("block attention is causal, and vLLM asks for attention that is not")
            kernel = Kernel(self.num_heads, self.num_kv_heads, self.head_dim, self.dtype, self.isa)
            ends, lengths = built.query_start_loc.tolist(), built.seq_lens.tolist()
            built.plan = plan(kernel, gates[0], ends, lengths, built.block_table)
        return built


class MobaCpuImpl(BlockLayer, CPUAttentionBackendImpl):
    """One layer, with block or full attention; its cache is vLLM's in either case."""

    def do_kv_cache_update(
        self,
        layer: torch.nn.Module,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """See vLLM; key and value [T, H_kv, D], kv_cache [pages, H_kv, page, 2 D], slot_mapping [T]."""
        super().do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)
        if self.gate is not None:
            sums = self.sums_of(halves(kv_cache)[0])
            add_to_sums(sums, key[: slot_mapping.shape[0]], slot_mapping, kv_cache.shape[2])

    def forward(
        self,
        layer: AttentionLayer,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: MobaCpuMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See vLLM; query and output [T, H, D]."""
        if self.gate is None or attn_metadata is None or attn_metadata.plan is None:
            arguments = (query, key, value, kv_cache, attn_metadata, output, output_scale, output_block_scale)
            return super().forward(layer, *arguments)
        sums, table = self.sums_of(halves(kv_cache)[0]), attn_metadata.block_table
        attend(attn_metadata.plan, self.gate, self.scale, layer.isa, (query, key, value), kv_cache, sums, table, output)
        return output
