"""Check, at the start of every run, that the learner computes the model's own log-probs and gradients (of an encoder
its hidden states), also when several ranks share a sequence.

The truth is transformers' own implementation, one sequence after the other, in evaluation mode. The learner's pass is
the one that training uses: packed, in training mode, adapters and checkpointing in place, and one sequence is longer
than any sliding window that training can exceed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kernels.ulysses import check_heads
from rl.learner.batch import cumulative
from rl.learner.forward import causal_lm, packed_hidden, packed_inputs, packed_logprobs
from rollout.models import architecture

BOUND = 1e-3
"""Largest allowed difference of a log-prob, in nats, or of an encoder's hidden state, in float32."""
GRADIENT_BOUND = 0.02
"""Largest allowed difference of a parameter's gradient norm, relative to the norm."""
GRADIENT_NOISE = 1e-4
"""Differences below this share of the whole gradient's norm are rounding (a key bias has no gradient at all)."""
SHORT = (5, 12)
"""Tokens of the sequences whose gradients are compared."""
BEYOND = 9
"""Tokens by which the long sequence exceeds the longest window."""
MANY = 200
"""Tokens of the long sequence whose log-probs are compared, from its end."""
SHARED_BOUND = 1e-4
"""Largest allowed difference of a hidden state on one of several ranks, as a share of the largest hidden state."""
OWN_TOKEN = "k15_own_token"
"""Name in transformers of attention in which a token sees itself only."""


@dataclass(frozen=True)
class Pass:
    """The results of one implementation on the probe's sequences."""

    logprobs: torch.Tensor
    """[all compared tokens] nats; of an encoder all values of their hidden states."""
    gradients: dict[str, float]
    """Norm of the gradient of a weighted sum of the short sequences' log-probs, by parameter; those reached only."""
    repeatable: bool = True
    """True when the same forward pass gave the same bits twice."""


def sequences(policy: nn.Module, longest: int | None) -> list[torch.Tensor]:
    """Return the token sequences of the probe: two short ones, and a long one where the model has a window to go
    beyond.
    """
    text = causal_lm(policy).config.get_text_config()
    lengths = list(SHORT)
    narrow = [window for window in architecture.windows(text) if longest is None or window < longest]
    if narrow:
        lengths.append(narrow[-1] + BEYOND)
    return _tokens(policy, lengths)


def _tokens(policy: nn.Module, lengths: Sequence[int]) -> list[torch.Tensor]:
    vocabulary, device = causal_lm(policy).config.get_text_config().vocab_size, next(policy.parameters()).device
    return [torch.arange(3, 3 + 7 * n, 7, device=device) % min(vocabulary, 101) for n in lengths]


@torch.enable_grad()
def own_pass(policy: nn.Module, longest: int | None) -> Pass:
    """Run the model's own forward pass, with whatever attention it is set to."""

    def logprobs(tokens: torch.Tensor) -> torch.Tensor:
        if _encodes(policy):
            return policy(input_ids=tokens[None]).last_hidden_state[0].float().flatten()
        logits = policy(input_ids=tokens[None], use_cache=False, logits_to_keep=MANY + 1).logits[0, :-1].float()
        return logits.log_softmax(-1).gather(1, tokens[-len(logits) :, None]).squeeze(1)

    parts = sequences(policy, longest)
    short = torch.cat([logprobs(part) for part in parts[: len(SHORT)]])
    with torch.no_grad():
        long = [logprobs(part) for part in parts[len(SHORT) :]]
    return Pass(torch.cat([short.detach(), *long]), _gradients(policy, short))


@torch.enable_grad()
def packed_pass(policy: nn.Module, longest: int | None) -> Pass:
    """Run the learner's forward pass."""
    parts = sequences(policy, longest)
    short = _packed(policy, parts[: len(SHORT)])
    with torch.no_grad():
        again = _packed(policy, parts[: len(SHORT)])
        long = short[:0]
        if len(parts) > len(SHORT):  # beside a short one: a window must not reach over into it
            long = _packed(policy, [parts[0], parts[-1]])[len(parts[0]) - 1 :][-MANY:]
    repeatable = torch.equal(short, again)
    return Pass(torch.cat([short.detach(), long]), _gradients(policy, short), repeatable)


def _packed(policy: nn.Module, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    lengths = torch.tensor([0, *(len(part) for part in parts)], device=parts[0].device)
    if _encodes(policy):
        return packed_hidden(policy, torch.cat(list(parts)), lengths.cumsum(0).int()).flatten()
    follows = torch.cat([torch.arange(len(part), device=part.device) for part in parts]).nonzero().flatten()
    return packed_logprobs(policy, torch.cat(list(parts)), lengths.cumsum(0).int(), follows)[0]


def _encodes(policy: nn.Module) -> bool:
    """Return whether hidden states are compared: there is no LM head."""
    return causal_lm(policy).get_output_embeddings() is None


def _gradients(policy: nn.Module, logprobs: torch.Tensor) -> dict[str, float]:
    weights = torch.linspace(-1, 2, len(logprobs), device=logprobs.device)
    (logprobs * weights).sum().backward()  # type: ignore[no-untyped-call]
    norms = {name: p.grad.norm().item() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad(set_to_none=True)
    return norms


def difference(own: Pass, ours: Pass) -> str:
    """Return what is wrong with the learner's pass; empty when nothing is."""
    if not ours.repeatable:
        return "two forward passes in training mode differ: something random in it (dropout?) cannot be switched off"
    gap = (own.logprobs - ours.logprobs).abs().max().item()
    if not gap <= BOUND:
        return (
            f"packed log-probs differ from the model's own by {gap:.3g} nats (bound {BOUND}); its attention or head "
            "does something that k15 does not implement"
        )
    noise = GRADIENT_NOISE * sum(norm**2 for norm in own.gradients.values()) ** 0.5
    for name, norm in own.gradients.items():
        found = ours.gradients.get(name, 0.0)
        if not abs(norm - found) <= GRADIENT_BOUND * norm + noise:
            return f"the gradient of {name} has norm {found:.3g} in k15 and {norm:.3g} in the model's own forward pass"
    return ""


@torch.no_grad()
def sharing(policy: nn.Module, ranks: int) -> str:
    """Return why ``ranks`` ranks cannot share this model's sequences; empty when they can.

    They exchange attention heads and nothing else. So the heads have to be divisible, and where attention sees only the
    token itself, the part of a stream that a rank has must come out as it does within the whole: a state space or a
    convolution would have needed the tokens before it.
    """
    from transformers import AttentionInterface

    model = causal_lm(policy)
    before = model.config.get_text_config()._attn_implementation
    AttentionInterface.register(OWN_TOKEN, functools.partial(_own_token, ranks))
    model.set_attn_implementation(OWN_TOKEN)
    try:
        parts = _tokens(policy, [SHORT[0], SHORT[1] * ranks])
        tokens, ends = torch.cat(parts), cumulative([len(part) for part in parts]).to(parts[0].device)
        inputs = [packed_inputs(tokens, ends), *(packed_inputs(tokens, ends, rank, ranks) for rank in range(ranks))]
        whole, *shares = [model.base_model(**some).last_hidden_state[0] for some in inputs]
    except ValueError as error:
        return f"learner.ranks.sequence: {error}"
    finally:
        model.set_attn_implementation(before)
    gap = (torch.cat(shares)[: len(whole)] - whole).abs().max()
    if not gap <= SHARED_BOUND * whole.abs().max():
        return (
            f"learner.ranks.sequence {ranks}: its tokens meet elsewhere than in attention (a state space? a "
            "convolution?), and ranks exchange attention heads only; set it to 1"
        )
    return ""


def _own_token(
    ranks: int,
    module: nn.Module,  # noqa: ARG001
    query: torch.Tensor,
    key: torch.Tensor,  # noqa: ARG001
    value: torch.Tensor,
    *_: Any,
    **__: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention signature, [1, H, t, D] -> [1, t, H, D]: the token's own value. Raises ``ValueError`` for
    heads that ``ranks`` cannot share.
    """
    check_heads(query.shape[1], ranks)
    return value.repeat_interleave(query.shape[1] // value.shape[1], 1).transpose(1, 2), None
