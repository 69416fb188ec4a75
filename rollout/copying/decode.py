"""Decoding that copies whole spans, with a transformers model: for final structured outputs, not for rollouts.

It changes what the policy may say, so nothing here enters a gradient: a learner computes log-probs without any mask.
Greedy or sampled; beams, of which p(z) was no part in the paper, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rollout.constraints import Constraint
from rollout.copying.labels import Labels, O
from rollout.copying.masking import Allowed, allowed_mask, masked_logits
from rollout.copying.spans import OUTSIDE, Choice, Source, Span, choose, follow, tag_of
from rollout.engine import Sampling
from rollout.engines.hf_sampling import draw, left_padded
from rollout.seeds import seed_of
from rollout.types import TokenIds, Tokens

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn."""

    max_new_tokens: int
    stops: tuple[int, ...]
    """Ids that end a response; they are allowed only outside of copies."""
    temperature: float = 0.0
    """0: the best token."""
    seed: int = 0
    """With a row's number and a token's position, decides what is sampled."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """One response."""

    token_ids: TokenIds
    """[n], with the stop token where there was one."""
    tags: Labels
    """[n] O, B or I of each token, as it was drawn; all O where no head told."""
    fallbacks: int
    """Spans that went on beyond what the source has, and were begun anew."""
    stopped: bool
    """Whether a stop token ended it."""


class _Row:
    """A response on its way."""

    def __init__(self) -> None:
        self.drawn: list[int] = []
        self.tags: list[int] = []
        self.fallbacks = 0
        self.stopped = False

    def allowed(self, probabilities: Sequence[float]) -> Allowed:  # noqa: ARG002  of O, B and I; empty without a head
        """Return what may come next."""
        return None

    def add(self, token: int) -> None:
        """Take the token that was drawn."""
        self.drawn.append(token)
        self.tags.append(O)

    def decoded(self) -> Decoded:
        """Return it as it stands."""
        return Decoded(np.array(self.drawn, np.int32), np.array(self.tags, np.int8), self.fallbacks, self.stopped)


class _Structured(_Row):
    """One that a constraint holds."""

    def __init__(self, constraint: Constraint | None) -> None:
        super().__init__()
        self.constraint = constraint

    def allowed(self, probabilities: Sequence[float]) -> Allowed:  # noqa: ARG002
        """See ``_Row``."""
        return None if self.constraint is None else self.constraint.allowed(self.drawn)


class _Tagged(_Row):
    """One whose head says what is copied."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source, self.choice = source, Choice(O)
        self.span: Span = OUTSIDE

    def allowed(self, probabilities: Sequence[float]) -> Allowed:
        """See ``_Row``."""
        self.choice = choose(self.source, self.span, tag_of(probabilities, self.span))
        return self.choice.allowed

    def add(self, token: int) -> None:
        """See ``_Row``."""
        self.span = follow(self.source, self.span, self.choice, token)
        self.fallbacks += self.choice.fell
        self.drawn.append(token)
        self.tags.append(self.choice.tag)


def masked_decode(
    model: PreTrainedModel, head: nn.Linear, prompts: Sequence[Tokens], sources: Sequence[Tokens], decoding: Decoding
) -> list[Decoded]:
    """Return a response to each of ``prompts`` whose copies, which ``head`` tells, are spans of its source.

    ``head``: see ``rollout.copying.head.load_head``. The tag is the most probable one, so that it is a function of the
    weights and of what was drawn before.
    """
    rows = [_Tagged(Source.of(source, decoding.stops)) for source in sources]
    return _decode(model, head, prompts, rows, decoding)


def structured_decode(
    model: PreTrainedModel, constraints: Sequence[Constraint | None], prompts: Sequence[Tokens], decoding: Decoding
) -> list[Decoded]:
    """Return a response to each of ``prompts``, held by its constraint, or by nothing."""
    return _decode(model, None, prompts, [_Structured(constraint) for constraint in constraints], decoding)


@torch.inference_mode()
def _decode(
    model: PreTrainedModel,
    head: nn.Linear | None,
    prompts: Sequence[Tokens],
    rows: Sequence[_Row],
    decoding: Decoding,
) -> list[Decoded]:
    """Draw every row to its end, all in one batch."""
    from transformers import DynamicCache

    if len(prompts) != len(rows):
        raise ValueError(f"{len(prompts)} prompts, and sources or constraints of {len(rows)}")
    sampling = Sampling(temperature=decoding.temperature)
    last = _LastState(model)
    inputs, mask = left_padded(prompts, model.device)
    positions, cache = (mask.cumsum(1) - 1).clamp(min=0), DynamicCache(config=model.config)
    for step in range(decoding.max_new_tokens):
        with last:
            logits = model(
                input_ids=inputs, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
            ).logits[:, -1]
        tags = [] if head is None else head(last.states.to(head.weight.dtype)).float().softmax(-1).tolist()
        allowed = [None if row.stopped else row.allowed(tags[i] if tags else ()) for i, row in enumerate(rows)]
        noise = [seed_of(decoding.seed, row, step) / 2**63 for row in range(len(rows))]
        held = masked_logits(logits.float(), allowed_mask(allowed, logits.shape[1], logits.device))
        tokens, _ = draw(held, [sampling] * len(rows), noise)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if not row.stopped:
                row.add(token)
                row.stopped = token in decoding.stops
        if all(row.stopped for row in rows):
            break
        inputs, positions = tokens[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
    return [row.decoded() for row in rows]


class _LastState:
    """Keeps the body's last hidden state of the last token [n, d], which a copy head reads, of the passes within."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._body = model.base_model
        self.states = torch.empty(0)

    def __enter__(self) -> None:
        def keep(_: Any, __: Any, output: Any) -> None:
            self.states = output.last_hidden_state[:, -1]

        self._hook = self._body.register_forward_hook(keep)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
