"""The policy's forward pass: token log-probabilities of packed sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kernels.logprob import LogitTransform, token_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def causal_lm(policy: nn.Module) -> PreTrainedModel:
    """The transformers model inside, whether or not peft wraps it."""
    return policy.get_base_model() if hasattr(policy, "get_base_model") else policy  # type: ignore[operator, return-value]


def packed_inputs(tokens: torch.Tensor, cu_seqlens: torch.Tensor) -> dict[str, Any]:
    """Keyword arguments of a transformers forward over packed ``tokens`` [T]: positions restart at each sequence."""
    lengths = cu_seqlens.diff()
    starts = torch.repeat_interleave(cu_seqlens[:-1], lengths)
    longest = int(lengths.max())
    return {
        "input_ids": tokens.long()[None],
        "position_ids": (torch.arange(len(tokens), device=tokens.device) - starts)[None],
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens,
        "max_length_q": longest,
        "max_length_k": longest,
        "use_cache": False,
    }


def logit_transform(model: PreTrainedModel) -> LogitTransform:
    """What the architecture does to the logits behind its head: Granite divides, Cohere multiplies, Gemma 2 caps."""
    text = model.config.get_text_config()
    scale = (getattr(text, "logit_scale", None) or 1.0) / (getattr(text, "logits_scaling", None) or 1.0)
    return LogitTransform(scale, getattr(text, "final_logit_softcapping", None))


def head_weight(head: Any) -> torch.Tensor:
    """The LM head's matrix [V, d], with the update of its adapters, if it has any."""
    if not hasattr(head, "get_delta_weight"):
        return head.weight
    return head.weight + sum(head.get_delta_weight(adapter) for adapter in head.active_adapters)


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
    return token_logprobs(
        hidden,
        head_weight(head),
        tokens[targets].long(),
        bias=head.bias,
        temperature=temperature,
        transform=logit_transform(model),
    )
