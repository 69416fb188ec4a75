"""Models as a cost model sees them: dimensions, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """A decoder. Counts of parameters leave out norms, biases and routers (below 0.1 %)."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    """Width of a dense MLP; of the dense layers only where there are experts."""
    vocab: int
    tied: bool = False
    experts: int = 0
    chosen: int = 0
    """Experts that a token meets, shared ones aside."""
    expert_width: int = 0
    shared: int = 0
    """Experts that every token meets."""
    dense_layers: int = 0
    """Layers without experts in a model that has some."""
    latent: int = 0
    """Multi-head latent attention: values cached a token and layer (compressed keys and values, and the rotary key)."""
    value_dim: int = 0
    """Of a value head; ``head_dim`` without."""
    query_rank: int = 0
    """Of compressed queries."""

    @property
    def attention_width(self) -> float:
        """Mean of query-key and value width over all heads: 4 FLOPs each for a pair of tokens."""
        return self.heads * (self.head_dim + (self.value_dim or self.head_dim)) / 2

    @property
    def attention_parameters(self) -> float:
        """Of one layer."""
        values = self.heads * (self.value_dim or self.head_dim)
        if self.latent:
            up = (self.latent - 64) * self.heads * (self.head_dim - 64 + (self.value_dim or self.head_dim))
            queries = self.heads * self.head_dim
            down = self.query_rank * (self.hidden + queries) if self.query_rank else self.hidden * queries
            return down + self.hidden * (self.latent + values) + up
        return self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)

    @property
    def sparse_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def expert(self) -> int:
        """Parameters of one expert."""
        return 3 * self.hidden * self.expert_width

    @property
    def dense_parameters(self) -> float:
        """Of all layers, experts that tokens choose left out."""
        dense = (self.layers - self.sparse_layers) * 3 * self.hidden * self.intermediate
        return self.layers * self.attention_parameters + dense + self.sparse_layers * self.shared * self.expert

    @property
    def matrices(self) -> float:
        """Parameters of all layers: what Muon updates."""
        return self.dense_parameters + self.sparse_layers * self.experts * self.expert

    @property
    def head(self) -> int:
        """Parameters of the LM head."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> float:
        """All of them."""
        return self.matrices + self.head * (1 if self.tied else 2)

    @property
    def expert_active(self) -> float:
        """Parameters of the experts that a token meets by choice."""
        return self.sparse_layers * self.chosen * self.expert

    @property
    def active(self) -> float:
        """Parameters of the layers that a token is multiplied with."""
        return self.dense_parameters + self.expert_active

    @property
    def tensors(self) -> int:
        """Matrices that are sent one by one when weights are published."""
        return (
            self.layers * 4
            + 3 * (self.layers - self.sparse_layers)
            + 3 * self.sparse_layers * (self.experts + self.shared)
        )

    def cache_bytes(self, tensor_parallel: int) -> float:
        """Bytes of the key-value cache that one of ``tensor_parallel`` GPUs holds for a token, in bfloat16."""
        if self.latent:  # every GPU needs the whole latent
            return 2.0 * self.layers * self.latent
        return 4.0 * self.layers * max(1.0, self.kv_heads / tensor_parallel) * self.head_dim


QWEN2_7B = Model("Qwen2.5-7B", 28, 3584, 28, 4, 128, 18944, 152064)
QWEN3_30B = Model("Qwen3-30B-A3B", 48, 2048, 32, 4, 128, 0, 151936, experts=128, chosen=8, expert_width=768)
MOONLIGHT = Model(
    "Moonlight-16B-A3B", 27, 2048, 16, 16, 192, 11264, 163840,
    experts=64, chosen=6, expert_width=1408, shared=2, dense_layers=1, latent=576, value_dim=128,
)  # fmt: skip
QWEN3_600M = Model("Qwen3-0.6B", 28, 1024, 16, 8, 128, 3072, 151936, tied=True)
QWEN3_4B = Model("Qwen3-4B", 36, 2560, 32, 8, 128, 9728, 151936, tied=True)
QWEN3_32B = Model("Qwen3-32B", 64, 5120, 64, 8, 128, 25600, 151936)
QWEN2_1B = Model("R1-Distill-Qwen-1.5B", 28, 1536, 12, 2, 128, 8960, 151936)
QWEN35_9B = Model("Qwen3.5-9B", 32, 4096, 16, 4, 256, 12288, 248320)
DEEPSEEK_V3 = Model(
    "DeepSeek-V3", 61, 7168, 128, 128, 192, 18432, 129280,
    experts=256, chosen=8, expert_width=2048, shared=1, dense_layers=3, latent=576, value_dim=128, query_rank=1536,
)  # fmt: skip
KIMI_K2 = Model(
    "Kimi-K2", 61, 7168, 64, 64, 192, 18432, 163840,
    experts=384, chosen=8, expert_width=2048, shared=1, dense_layers=1, latent=576, value_dim=128, query_rank=1536,
)  # fmt: skip
QWEN3_235B = Model("Qwen3-235B-A22B", 94, 4096, 64, 4, 128, 0, 151936, experts=128, chosen=8, expert_width=1536)
QWEN2_72B = Model("Qwen2.5-72B", 80, 8192, 64, 8, 128, 29568, 152064)

PLANNED = (QWEN2_7B, QWEN3_30B, MOONLIGHT)
LADDER = (
    QWEN3_600M, QWEN2_1B, QWEN3_4B, QWEN2_7B, MOONLIGHT, QWEN3_30B,
    QWEN3_32B, QWEN2_72B, QWEN3_235B, DEEPSEEK_V3, KIMI_K2,
)  # fmt: skip
"""By parameters: which of them fits a cluster."""
