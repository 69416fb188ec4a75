"""The policy's forward pass on packed sequences: log-probabilities, hidden states, heads."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

from kernels import ulysses
from kernels.logprob import LogitTransform, token_logprobs
from kernels.varlen import boundaries
from rl.learner.rows import Rows, part_tokens
from rl.objectives.protocol import At, Head, Needs, Outputs
from rollout.evidence.merge import contrast

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from transformers import PreTrainedModel

    from rl.learner.batch import Batch
    from rl.learner.beside import Beside

ToAll = Callable[[torch.Tensor], torch.Tensor]
HEAD_ROWS = 1024
"""Rows of logits computed at a time for an LM head that is not a matrix; recomputed in the backward pass."""


def causal_lm(policy: nn.Module) -> PreTrainedModel:
    """Return the transformers model, also where peft wraps it."""
    return policy.get_base_model() if hasattr(policy, "get_base_model") else policy  # type: ignore[operator, return-value]


def packed_inputs(tokens: torch.Tensor, cu_seqlens: torch.Tensor, rank: int = 0, ranks: int = 1) -> dict[str, Any]:
    """Return the keyword arguments of a transformers forward over packed ``tokens`` [T]: positions restart at each
    sequence.

    Of several ``ranks`` each gets its part of the tokens. Parts are contiguous and have ``part_tokens`` each: tokens 0,
    every one of them a sequence of its own, fill up the stream. The boundaries are those of the whole of it.
    """
    part = part_tokens(len(tokens), ranks)
    missing = part * ranks - len(tokens)
    if missing:
        tokens = F.pad(tokens, (0, missing))
        filled = torch.arange(1, missing + 1, dtype=cu_seqlens.dtype, device=cu_seqlens.device)
        cu_seqlens = torch.cat([cu_seqlens, cu_seqlens[-1:] + filled])
    starts = torch.repeat_interleave(cu_seqlens[:-1], cu_seqlens.diff(), output_size=len(tokens))
    longest = max(end - start for start, end in pairwise(boundaries(cu_seqlens)))
    own = slice(rank * part, (rank + 1) * part)
    return {
        "input_ids": tokens[own].long()[None],
        "position_ids": (torch.arange(len(tokens), device=tokens.device) - starts)[own][None],
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens,
        "max_length_q": longest,
        "max_length_k": longest,
        "use_cache": False,
    }


def logit_transform(model: PreTrainedModel) -> LogitTransform:
    """Return what the architecture does to the logits behind its head: Granite divides, Cohere multiplies, Gemma 2
    caps.
    """
    text = model.config.get_text_config()
    scale = (getattr(text, "logit_scale", None) or 1.0) / (getattr(text, "logits_scaling", None) or 1.0)
    return LogitTransform(scale, getattr(text, "final_logit_softcapping", None))


def head_weight(head: Any) -> torch.Tensor:
    """Return the LM head's matrix [V, d], including the update of its adapters."""
    if not hasattr(head, "get_delta_weight"):
        return head.weight
    return head.weight + sum(head.get_delta_weight(adapter) for adapter in head.active_adapters)


def is_linear(head: Any) -> bool:
    """Return whether the LM head is one matrix, with or without adapters, so that the chunked kernel computes it."""
    return isinstance(head, nn.Linear) or hasattr(head, "get_delta_weight")


def packed_hidden(
    policy: nn.Module,
    tokens: torch.Tensor,
    cu_seqlens: torch.Tensor,
    compute_dtype: torch.dtype = torch.float32,
    sequence: ProcessGroup | None = None,
) -> torch.Tensor:
    """Return the last hidden states [T, d] of packed ``tokens`` [T]; ``cu_seqlens`` [n + 1].

    With ``sequence``, ranks that all have these tokens: those of this rank's part of them, [``part_tokens``, d].
    """
    model = causal_lm(policy)
    if sequence is None:
        inputs = packed_inputs(tokens, cu_seqlens)
    else:
        ulysses.install(model)
        inputs = packed_inputs(tokens, cu_seqlens, sequence.rank(), sequence.size())
        inputs[ulysses.ARGUMENT] = sequence
    with torch.autocast(tokens.device.type, dtype=compute_dtype, enabled=compute_dtype != torch.float32):
        hidden: torch.Tensor = model.base_model(**inputs).last_hidden_state[0]
    return hidden


def lm_logprobs(
    policy: nn.Module,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    compute_dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-prob and entropy [L] of the token ids ``targets`` [L] from the states [L, d] that predict them.

    In nats and float32; the entropy carries no gradient.
    """
    model = causal_lm(policy)
    head, transform = model.get_output_embeddings(), logit_transform(model)
    hidden = hidden.to(compute_dtype)
    if is_linear(head):
        weight = head_weight(head)
        return token_logprobs(hidden, weight, targets, bias=head.bias, temperature=temperature, transform=transform)

    def part(states: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(states.device.type, dtype=compute_dtype, enabled=compute_dtype != torch.float32):
            logits = head(states)
        logprobs = (transform(logits.float()) / temperature).log_softmax(-1)
        entropy = torch.special.entr(logprobs.detach().exp()).sum(-1)
        return logprobs.gather(1, ids[:, None]).squeeze(1), entropy

    parts = [
        torch.utils.checkpoint.checkpoint(part, states, ids, use_reentrant=False)
        for states, ids in zip(hidden.split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True)
    ]
    return torch.cat([logprobs for logprobs, _ in parts]), torch.cat([entropy for _, entropy in parts])


def merged_logprobs(
    policy: nn.Module,
    spoke: torch.Tensor,
    prior: torch.Tensor,
    targets: torch.Tensor,
    beta: float,
    temperature: float = 1.0,
    compute_dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-prob and entropy [L] of ``targets`` [L] under what two states each merge to [2403.17552]: that of the
    window that spoke, and that without evidence, [L, d]. As engines draw; in nats and float32.

    ``HEAD_ROWS`` rows of logits at a time, computed again in the backward pass.
    """
    model = causal_lm(policy)
    head, transform = model.get_output_embeddings(), logit_transform(model)

    def part(one: torch.Tensor, other: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(one.device.type, dtype=compute_dtype, enabled=compute_dtype != torch.float32):
            said, before = (
                transform(head(states.to(compute_dtype)).float()).log_softmax(-1) for states in (one, other)
            )
        logprobs = (contrast(said, before, beta) / temperature).log_softmax(-1)
        entropy = torch.special.entr(logprobs.detach().exp()).sum(-1)
        return logprobs.gather(1, ids[:, None]).squeeze(1), entropy

    pieces = zip(spoke.split(HEAD_ROWS), prior.split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True)
    parts = [torch.utils.checkpoint.checkpoint(part, *piece, use_reentrant=False) for piece in pieces]
    return torch.cat([logprobs for logprobs, _ in parts]), torch.cat([entropy for _, entropy in parts])


def packed_logprobs(
    policy: nn.Module,
    tokens: torch.Tensor,
    cu_seqlens: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    compute_dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-prob and entropy [L], nats, float32, of the tokens at the indices ``targets`` [L] of packed ``tokens``
    [T].

    Each token is predicted from those before it in its own sequence, so no target may be a sequence's first token.
    ``cu_seqlens`` [n + 1]. Only the L hidden states that predict a target meet the LM head. The entropy carries no
    gradient.
    """
    hidden = packed_hidden(policy, tokens, cu_seqlens, compute_dtype).index_select(0, targets - 1)
    return lm_logprobs(policy, hidden, tokens[targets], temperature, compute_dtype)


class PolicyModel(nn.Module):
    """The policy for objectives: takes packed tokens and returns the outputs that an objective needs.

    Body, LM head and log-probs are one forward pass, so that all of it happens where sharded parameters are whole.
    """

    def __init__(
        self,
        policy: nn.Module,
        compute_dtype: torch.dtype,
        head: nn.Linear | None = None,
        sequence: ProcessGroup | None = None,
        copying: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.policy, self.compute_dtype = policy, compute_dtype
        self.head = head
        """A head beside the LM head; ``None`` when no objective needs one."""
        self.copying = copying
        """The copy head (``rl.objectives.copying``); ``None`` when ``learner.copying`` is."""
        self.sequence = sequence
        """The ranks that share each batch: all are given the whole of it, and get the outputs of all of it. Each
        computes a part, also of the gradient: those of all ranks add up. ``None``: this process is alone."""

    def forward(self, batch: Batch, needs: Needs, temperature: float = 1.0) -> Outputs:
        """Return what ``needs`` asks for, on the loss tokens of ``batch`` (their log-probs at ``temperature``) or on
        its sequences. Raises ``ValueError`` for what the policy cannot give.
        """
        tokens, ends = batch.tokens, batch.cu_seqlens
        if batch.beside is not None:  # read in one pass with the sequences
            tokens, ends = batch.beside.behind(tokens, ends)
        hidden = packed_hidden(self.policy, tokens, ends, self.compute_dtype, self.sequence)
        found: dict[str, torch.Tensor] = {}
        if needs.logprobs:
            rows, ids = self._rows(batch, "tokens"), batch.tokens[batch.positions].long()
            states = hidden.index_select(0, rows.index)
            if batch.beside is None:
                logprobs, entropy = lm_logprobs(self.policy, states, ids[rows.own], temperature, self.compute_dtype)
            else:
                logprobs, entropy = self._merged(batch, batch.beside, hidden, states, ids, temperature)
            found |= {"logprobs": rows.of_all(logprobs), "entropy": rows.of_all(entropy)}
        if batch.beside is not None:
            hidden = hidden[: len(batch.tokens)]
        if needs.hidden is not None:
            states, of_all = self._states(hidden, batch, needs.hidden)
            found["hidden"] = of_all(states)
        if needs.head is not None:
            if self.head is None:
                raise ValueError("this learner has no head of its own: its own objective did not ask for one")
            states, of_all = self._states(hidden, batch, needs.head.at)
            found["head"] = of_all(self.head(states.to(self.head.weight.dtype)))
        if needs.copying:
            if self.copying is None:
                raise ValueError("this learner has no copy head: learner.copying is null")
            states, of_all = self._states(hidden, batch, "tokens")
            found["copying"] = of_all(self.copying(states.to(self.copying.weight.dtype)))
        return Outputs(**found)

    def _merged(
        self,
        batch: Batch,
        beside: Beside,
        hidden: torch.Tensor,
        states: torch.Tensor,
        ids: torch.Tensor,
        temperature: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-prob and entropy [L] of the loss tokens ``ids``, of those drawn with evidence under what the row
        without it, whose ``states`` [L, d] predict them, and the window that spoke for them merge to. ``hidden``: of
        all rows, the windows' behind the others.
        """
        if self.sequence is not None:
            raise ValueError("learner.ranks.sequence has to be 1 for rollouts with evidence in windows")
        places = beside.predicting(batch.sequence, len(batch))
        alone, spoken = (places < 0).nonzero().flatten(), (places >= 0).nonzero().flatten()
        merged = merged_logprobs(
            self.policy,
            hidden.index_select(0, len(batch.tokens) + places[spoken]),
            states.index_select(0, spoken),
            ids[spoken],
            beside.beta,
            temperature,
            self.compute_dtype,
        )
        if not len(alone):
            return merged
        plain = lm_logprobs(self.policy, states.index_select(0, alone), ids[alone], temperature, self.compute_dtype)
        order = torch.cat([spoken, alone]).argsort()
        logprobs, entropy = (torch.cat(pair).index_select(0, order) for pair in zip(merged, plain, strict=True))
        return logprobs, entropy

    def _states(self, hidden: torch.Tensor, batch: Batch, at: At) -> tuple[torch.Tensor, ToAll]:
        """Return the states of this rank's rows, and what makes values of all rows from values of these."""
        if at == "means":
            if self.sequence is not None:
                raise ValueError("learner.ranks.sequence has to be 1 for means over the tokens of sequences")
            return means(hidden, batch.cu_seqlens), lambda values: values
        rows = self._rows(batch, at)
        return hidden.index_select(0, rows.index), rows.of_all

    def _rows(self, batch: Batch, at: At) -> Rows:
        if at == "tokens":
            rows = batch.positions - 1
        else:
            rows = batch.cu_seqlens[:-1].long() if at == "starts" else batch.cu_seqlens[1:].long() - 1
        return Rows.of(rows, len(batch.tokens), self.sequence)


def means(hidden: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
    """Return the mean [n, d] over each sequence of packed states [T, d], in float32."""
    lengths = cu_seqlens.diff()
    sequence = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
    sums = hidden.new_zeros(len(lengths), hidden.shape[1], dtype=torch.float32).index_add(0, sequence, hidden.float())
    return sums / lengths[:, None]


def beside(head: nn.Module | None, copying: nn.Module | None) -> nn.Module | None:
    """Return what is trained beside the model as one module: an objective's ``head``, the copy head, both, or none."""
    if copying is None:
        return head
    return nn.ModuleDict({"copying": copying} | ({} if head is None else {"own": head}))


def new_head(policy: nn.Module, head: Head, seed: int) -> nn.Linear:
    """Return a linear head in float32 on ``policy``'s last hidden state, drawn from ``seed``; biases are 0."""
    width = causal_lm(policy).config.get_text_config().hidden_size
    made = nn.Linear(width, head.outputs, bias=head.bias)
    with torch.no_grad():
        made.weight.normal_(std=(width + 1) ** -0.5, generator=torch.Generator().manual_seed(seed))
        if head.bias:
            made.bias.zero_()
    return made.to(next(policy.parameters()).device)
