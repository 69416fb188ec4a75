"""Tiny random models of the architectures that people bring, for ``benchmarks.zoo`` and the tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
VOCABULARY = 64
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
HEADS = {**SIZES, "head_dim": 32}
WINDOW = 24
"""Tokens of a sliding window, fewer than those of a training sequence."""


def _rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10_000.0, **values}


LLAMA3 = _rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
YARN = _rope("yarn", factor=4.0, original_max_position_embeddings=64)
PARTIAL = _rope("default", partial_rotary_factor=0.25)
UNLIKE = "packed sequences would be computed wrongly"
MIXED = ["sliding_attention", "full_attention"]
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
LATENT = {"kv_lora_rank": 32, "q_lora_rank": None, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 32,
          "num_key_value_heads": 2}  # fmt: skip
DEEPSEEK3 = {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 32,
             "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.5,
             "topk_method": "noaux_tc", "scoring_func": "sigmoid"}  # fmt: skip
LLAMA4 = {"num_local_experts": 2, "attention_chunk_size": WINDOW, "interleave_moe_layer_step": 2,
          "intermediate_size_mlp": 64, "no_rope_layers": [1, 0],
          "layer_types": ["chunked_attention", "full_attention"]}  # fmt: skip
LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16,
          "linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention"]}  # fmt: skip
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256}
FALCON = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
GEMMA3 = {**HEADS, "sliding_window": WINDOW, "query_pre_attn_scalar": 32, "layer_types": MIXED}
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}  # fmt: skip
GRANITE = {"logits_scaling": 8.0, "attention_multiplier": 0.1, "residual_multiplier": 0.5, "embedding_multiplier": 12.0}
DROPOUT = {"residual_dropout": 0.1, "embedding_dropout": 0.1, "attention_dropout": 0.1}
OPT = {"ffn_dim": 96, "word_embed_proj_dim": 64, "dropout": 0.1, "attention_dropout": 0.1, "layerdrop": 0.1}


@dataclass(frozen=True)
class Model:
    """One row of the zoo."""

    name: str
    """As people call it."""
    family: str
    """transformers' class of its configuration, without ``Config``."""
    settings: dict[str, Any]
    """Of that configuration."""
    special: str = ""
    """What is unlike Llama."""
    refused: str = ""
    """Why the learner refuses it at the start; empty when it trains."""
    refused_by_vllm: str = ""
    """Why it cannot train with vLLM engines, if it trains with ``hf``."""

    def verdict(self, engine: str) -> str:
        """``trains`` or ``refused``, with the ``hf`` or the ``vllm`` engine."""
        return "refused" if self.refused or (engine == "vllm" and self.refused_by_vllm) else "trains"

    def config(self) -> Any:
        """transformers' configuration."""
        import transformers

        return getattr(transformers, f"{self.family}Config")(**self.settings)


MODELS = (
    Model("Llama, tied", "Llama", {**HEADS, "tie_word_embeddings": True}),
    Model("Llama, untied", "Llama", {**HEADS, "tie_word_embeddings": False}),
    Model("Llama 3.1", "Llama", {**HEADS, "rope_parameters": LLAMA3}, "rotary embedding scaled by parts"),
    Model("Llama, YaRN", "Llama", {**HEADS, "rope_parameters": YARN}, "rotary embedding scaled by YaRN"),
    Model("Qwen 2", "Qwen2", {**SIZES, "tie_word_embeddings": True}, "biases on queries, keys and values"),
    Model("Qwen 3", "Qwen3", {**HEADS, "tie_word_embeddings": False}, "normed queries and keys"),
    Model("Qwen 3 MoE", "Qwen3Moe", {**HEADS, **EXPERTS}, "experts"),
    Model("DeepSeek-V3, Moonlight", "DeepseekV3", {**SIZES, **LATENT, **DEEPSEEK3},
          "latent attention, experts chosen by biases"),
    Model("Mistral", "Mistral", {**HEADS, "sliding_window": WINDOW}, "sliding window in every layer"),
    Model("Mixtral", "Mixtral", {**HEADS, "num_local_experts": 4, "sliding_window": None}, "experts"),
    Model("Gemma 2", "Gemma2", {**HEADS, "sliding_window": WINDOW, "query_pre_attn_scalar": 32, "layer_types": MIXED,
          "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
          "sliding windows, soft-capped scores and logits"),
    Model("Gemma 3", "Gemma3Text", GEMMA3, "sliding windows"),
    Model("Gemma 3, with vision", "Gemma3", {"text_config": GEMMA3, "vision_config": VISION, "image_token_index": 63,
          "mm_tokens_per_image": 4, **ENDS}, "its text model is trained, the vision tower frozen",
          refused_by_vllm="vLLM wants torchvision and the image processor"),
    Model("Phi 3", "Phi3", {**SIZES, "sliding_window": WINDOW}, "fused projections, sliding window"),
    Model("GPT-NeoX", "GPTNeoX", {**SIZES, "rope_parameters": PARTIAL, "tie_word_embeddings": False,
          "hidden_dropout": 0.1}, "parallel residual, fused projections, partial rotation",
          refused_by_vllm="its log-probs are not the model's"),
    Model("GPT-2", "GPT2", {**GPT2, **ENDS}, "learned positions, convolutions for matrices"),
    Model("OLMo 2", "Olmo2", SIZES, "norms behind the blocks"),
    Model("SmolLM3", "SmolLM3", {**SIZES, "no_rope_layers": [1, 0]}, "layers without rotation"),
    Model("Granite", "Granite", {**SIZES, **GRANITE}, "scaled embeddings, residuals, scores and logits"),
    Model("StarCoder 2", "Starcoder2", {**SIZES, **DROPOUT, "sliding_window": WINDOW, "use_bias": True},
          "dropout without modules, sliding window"),
    Model("Cohere", "Cohere", {**SIZES, "logit_scale": 0.25}, "scaled logits, interleaved rotation"),
    Model("OPT", "OPT", {**SIZES, **OPT}, "dropout without modules, learned positions"),
    Model("Llama 4", "Llama4Text", {**HEADS, **LLAMA4}, "chunked attention, experts", refused=UNLIKE),
    Model("Qwen 3.5", "Qwen3_5Text", {**HEADS, **LINEAR}, "layers of linear attention", refused=UNLIKE),
    Model("Mamba", "Mamba", {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, **ENDS},
          "no attention", refused=UNLIKE),
    Model("Bloom", "Bloom", {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": 2, "n_head": 2, **ENDS},
          "biased scores", refused=UNLIKE),
    Model("Falcon", "Falcon", {**FALCON, **ENDS},
          "attention without transformers' interface", refused=UNLIKE),
    Model("gpt-oss", "GptOss", {**HEADS, "num_local_experts": 4, "sliding_window": WINDOW, "layer_types": MIXED,
          "rope_parameters": _rope("default")},
          "attention sinks", refused="attention sinks are not implemented"),
)  # fmt: skip


def save(model: Model, folder: Path, tokenizer: Any = None, seed: int = 0) -> Path:
    """Random weights, sharp enough that log-probs differ clearly, into ``folder``."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = AutoModelForCausalLM.from_config(model.config(), dtype=torch.float32)
        kept = set(built.state_dict())
        buffers = [buffer for name, buffer in built.named_buffers() if name in kept]
        for parameter in (*built.parameters(), *buffers):  # also norms and biases: losing one has to show, as has a cap
            parameter.data.add_(torch.randn_like(parameter), alpha=0.2 if parameter.ndim > 1 else 0.05)
    built.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


HEAD = """# Models

What trains, and with which engine. Each row is a small random model of that architecture that has trained two
iterations with responses longer than its sliding window: engine and learner agreed on every log-prob after each
publish, a resumed learner and the exported model computed the same bits. `python -m benchmarks.zoo --engine hf` (a
minute) and `--engine vllm` judge the table again; `--page` writes this page.

| model | unlike Llama | `hf` engine | vLLM on a CPU |
|---|---|---|---|
"""
FOOT = """
Whatever the learner would compute differently from transformers is refused before anything is spent: at the start of a
run it compares log-probs and the gradient of every parameter with the model's own forward pass, in the mode that
training uses and at a length beyond every sliding window (`rl/learner/probe.py`). Then engine and learner are compared,
before the warm-up. After the first optimiser step every parameter with a gradient must have changed
(`rl/learner/movement.py`).

- Dropout is switched off wherever an architecture keeps it.
- Of multimodal Gemma 3 the text model is trained; the vision tower is frozen.
- Adapters (`model.lora`) may sit on `lm_head` unless it is tied to the embeddings; then they are refused there.
- Block attention (`model.attention.moba`) is refused with sliding windows or soft-capped scores.
- Rotary embeddings whose frequencies follow the current length (`dynamic`, `longrope`) are refused.
- Several ranks share a sequence (`learner.ranks.sequence`) where their number divides the query heads and tokens meet
  in attention only; both are tried at the start of a run.
- Encoders (BERT and its kin) train as classifiers, `k15 train verifier`: in full, with full attention, and compared
  with transformers by their hidden states. They are no policies.
"""


def page() -> str:
    """``docs/models.md``."""

    def cell(model: Model, engine: str) -> str:
        verdict = model.verdict(engine)
        return f"refused: {model.refused or model.refused_by_vllm}" if verdict == "refused" else verdict

    rows = [f"| {m.name} | {m.special} | {cell(m, 'hf')} | {cell(m, 'vllm')} |\n" for m in MODELS]
    return HEAD + "".join(rows) + FOOT
