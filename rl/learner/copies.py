"""Copy labels of what is packed for training: computed from token ids when a batch is made, on every rank alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rollout.copying.labels import SEAM, Labels
from rollout.types import Rollout, TokenIds, Tokens, joined

Labeller = Callable[[Tokens, Tokens], Labels]
"""From source and target ids to the labels of the target."""


def of_rollout(rollout: Rollout, label: Labeller) -> Labels:
    """Return the labels [size] of all tokens behind the prompt; what an environment wrote is O.

    The source of each of the policy's turns is the prompt and what the environment has written by then.
    """
    parts: list[TokenIds] = [rollout.prompt.token_ids]
    found: list[Labels] = []
    turn: list[TokenIds] = []
    seam = np.array([SEAM], np.int32)

    def labelled() -> None:
        if turn:
            source = joined([piece for part in parts for piece in (seam, part)][1:], np.int32)
            found.append(label(source, joined(turn, np.int32)))
            turn.clear()

    for segment in rollout.segments:
        if segment.sampled:
            turn.append(segment.token_ids)
            continue
        labelled()
        found.append(np.zeros(len(segment), np.int8))
        parts.append(segment.token_ids)
    labelled()
    return joined(found, np.int8)


def of_rollouts(rollouts: Sequence[Rollout], label: Labeller) -> Labels:
    """Return the labels [T] of ``rollouts`` as they are packed, one behind the other; prompts are O."""
    pieces = [
        piece for rollout in rollouts for piece in (np.zeros(len(rollout.prompt), np.int8), of_rollout(rollout, label))
    ]
    return joined(pieces, np.int8)


def of_pairs(pairs: Sequence[tuple[Tokens, Tokens]], label: Labeller) -> Labels:
    """Return the labels [T] of (prompt ids, response ids) as they are packed; prompts are O."""
    pieces = [
        piece for prompt, response in pairs for piece in (np.zeros(len(prompt), np.int8), label(prompt, response))
    ]
    return joined(pieces, np.int8)
