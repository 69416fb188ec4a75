"""The policy model: building it, loading it, and its token log-probabilities on packed sequences."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kernels.logprob import token_logprobs
from kernels.rope import install as install_rotary
from kernels.varlen import NAME as PACKED_ATTENTION
from kernels.varlen import register as register_packed_attention
from rl.config import LoraConfig, ModelConfig, ScratchModel
from rollout import moba, rotary
from rollout.pretrained import ModelPathError, resolve_model
from rollout.types import WeightVersion

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

PROBE_BOUND = 1e-3
"""Largest allowed difference in nats between our packed forward and the model's own, in float32."""


class PolicyError(ValueError):
    """A model or tokenizer that cannot be trained: what, where, what to do."""


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Refuse a tokenizer without an end token; give one without a padding token the end token, and say so."""
    if tokenizer.eos_token_id is None:
        raise PolicyError(f"tokenizer of {where} has no eos_token, so no response could end; set one and save it again")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        logger.warning("tokenizer of %s has no pad_token; using its eos_token %r", where, tokenizer.eos_token)


def create_model(base: ScratchModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """A Llama with random weights drawn from ``seed``: tied embeddings, float32, vocabulary of ``tokenizer``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    check_tokenizer(tokenizer, "the scratch model")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=base.width,
        intermediate_size=base.mlp_width,
        num_hidden_layers=base.layers,
        num_attention_heads=base.heads,
        num_key_value_heads=base.kv_heads,
        max_position_embeddings=base.context,
        rope_parameters={"rope_type": "default", "rope_theta": base.rope_theta},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def load_model(path: str | Path) -> PreTrainedModel:
    """A causal LM in float32 (master weights) from a directory, hub name or ``package:NAME``.

    Raises ``ModelPathError`` when there is no such model and ``PolicyError`` when it cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(resolve_model(str(path)), dtype=torch.float32)
    except (OSError, ValueError) as error:
        if isinstance(error, ModelPathError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise PolicyError(f"model {path} cannot be loaded as a causal LM: {reason}") from error


def prepare(model: PreTrainedModel, config: ModelConfig, seed: int = 0) -> nn.Module:
    """Make a model trainable by k15: device, packed or block attention, no dropout, adapters, checkpointing.

    Dropout is switched off because the log-ratio must be exactly 0 at an iteration's first step (invariant 5), which
    needs the same function twice. Raises ``PolicyError`` when our packed forward disagrees with the model's own.
    """
    model.to(config.device)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    _check_head(model)
    _check_attention(model, config)
    _use_packed_attention(model, config)
    use_attention(model, config, version=0)
    policy: nn.Module = model
    if config.lora is not None:
        policy = _add_lora(model, config.lora, seed)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    policy.train()
    return policy


def _check_head(model: PreTrainedModel) -> None:
    """Refuse models that change the logits after the head: our log-probs would miss it."""
    text = model.config.get_text_config()
    for key, neutral in (("final_logit_softcapping", None), ("logit_scale", 1.0), ("logits_scaling", 1.0)):
        if getattr(text, key, neutral) not in (None, neutral):
            raise PolicyError(
                f"{type(model).__name__} sets {key}={getattr(text, key)}; k15's log-probs do not implement it"
            )
    if not isinstance(model.get_output_embeddings(), nn.Linear):
        raise PolicyError(f"{type(model).__name__} has no linear LM head; k15 trains causal LMs with one")


def _check_attention(model: PreTrainedModel, config: ModelConfig) -> None:
    """Refuse what RL cannot work with, and to train a block-attention model with full attention by accident."""
    try:
        rotary.check(model)
    except ValueError as error:
        raise PolicyError(str(error)) from error
    trained_with = moba.read(model.config.get_text_config())
    if trained_with is not None and config.attention.moba is None:
        raise PolicyError(
            f"this {type(model).__name__} was trained with block attention ({trained_with}): set model.attention.moba "
            f"to the same, or remove {moba.NAME!r} from its config.json to go on with full attention"
        )


def use_attention(policy: nn.Module, config: ModelConfig, version: WeightVersion) -> None:
    """What attention computes in RL iteration ``version``: block or full attention [C.4], and the context stage."""
    from transformers.utils import is_flash_attn_2_available

    flash = config.device == "cuda" and config.compute_dtype == "bfloat16" and is_flash_attn_2_available()
    full = "flash_attention_2" if flash else PACKED_ATTENTION
    try:
        rotary.use(causal_lm(policy), config.attention.stage(version))
        moba.use(causal_lm(policy), config.attention.block(version), otherwise=full)
    except ValueError as error:
        raise PolicyError(f"model.attention: {error}") from error


def _use_packed_attention(model: PreTrainedModel, config: ModelConfig) -> None:
    """Switch to packed attention and our rotation; check on a few tokens that they compute what the model's own do."""
    tokens = torch.arange(12, device=config.device) % model.config.get_text_config().vocab_size
    cu_seqlens = torch.tensor([0, 5, 12], dtype=torch.int32, device=config.device)
    targets = torch.tensor([*range(1, 5), *range(6, 12)], device=config.device)
    with torch.no_grad():
        own = torch.cat([model(part[None]).logits[0, :-1].float().log_softmax(-1) for part in (tokens[:5], tokens[5:])])
        own = own.gather(1, tokens[targets, None]).squeeze(1)
        install_rotary(model)
        register_packed_attention()
        model.set_attn_implementation(PACKED_ATTENTION)
        ours, _ = packed_logprobs(model, tokens, cu_seqlens, targets)
    gap = (ours - own).abs().max().item()
    if not gap <= PROBE_BOUND:
        raise PolicyError(
            f"{type(model).__name__}: packed log-probs differ from the model's own by {gap:.3g} nats "
            f"(bound {PROBE_BOUND}); its attention or head does something the learner does not implement"
        )


def _add_lora(model: PreTrainedModel, lora: LoraConfig, seed: int) -> nn.Module:
    import peft

    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    adapters = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, adapters)
        except ValueError as error:
            raise PolicyError(f"model.lora.target_modules {targets}: {error}") from error


def causal_lm(policy: nn.Module) -> PreTrainedModel:
    """The transformers model inside, whether or not peft wraps it."""
    return policy.get_base_model() if hasattr(policy, "get_base_model") else policy  # type: ignore[operator, return-value]


def packed_inputs(tokens: torch.Tensor, cu_seqlens: torch.Tensor) -> dict[str, Any]:
    """Keyword arguments of a transformers forward over packed ``tokens`` [T]: positions restart at each sequence."""
    lengths = cu_seqlens.diff()
    starts = torch.repeat_interleave(cu_seqlens[:-1], lengths)
    longest = int(lengths.max())
    return {
        "input_ids": tokens[None],
        "position_ids": (torch.arange(len(tokens), device=tokens.device) - starts)[None],
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens,
        "max_length_q": longest,
        "max_length_k": longest,
        "use_cache": False,
    }


def packed_logprobs(
    policy: nn.Module,
    tokens: torch.Tensor,
    cu_seqlens: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    compute_dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob and entropy [L], nats, float32, of the tokens at the indices ``targets`` [L] of packed ``tokens`` [T].

    Each token is predicted from those before it in its own sequence, so no target may be a sequence's first token.
    ``cu_seqlens`` [n + 1]. Only the L hidden states that predict a target meet the LM head. The entropy carries no
    gradient.
    """
    model = causal_lm(policy)
    head = model.get_output_embeddings()
    with torch.autocast(tokens.device.type, dtype=compute_dtype, enabled=compute_dtype != torch.float32):
        hidden = model.base_model(**packed_inputs(tokens, cu_seqlens)).last_hidden_state[0]
    hidden = hidden.index_select(0, targets - 1).to(compute_dtype)
    return token_logprobs(hidden, head.weight, tokens[targets], bias=head.bias, temperature=temperature)
