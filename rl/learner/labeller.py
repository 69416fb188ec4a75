"""The copy head that a learner starts with, and what labels its batches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rl.learner.forward import new_head
from rl.learner.policy import PolicyError
from rl.objectives.protocol import Head
from rollout.copying.head import FILE, HeadError, load_head
from rollout.copying.labels import NAMES, Alone, copy_labels, digits
from rollout.models.pretrained import resolve_model
from rollout.seeds import seed_of

if TYPE_CHECKING:
    from torch import nn

    from rl.learner.copies import Labeller
    from rl.objectives.config import CopyingConfig


def copy_head(policy: nn.Module, source: Path | None, seed: int) -> nn.Linear:
    """Return the copy head of ``policy``: the one that lies beside its files in ``source``, or one drawn from ``seed``.

    Raises ``PolicyError`` for a file that is none, or that is another model's.
    """
    head = new_head(policy, Head(len(NAMES)), seed_of(seed, "copying"))
    if source is None or not (source / FILE).is_file():
        return head
    try:
        saved = load_head(source)
    except HeadError as error:
        raise PolicyError(str(error)) from error
    if saved.weight.shape != head.weight.shape:
        widths = saved.in_features, head.in_features
        raise PolicyError(f"{source / FILE}: for states of {widths[0]} numbers, and this model's have {widths[1]}")
    head.load_state_dict(saved.state_dict())
    return head


def labeller(config: CopyingConfig, model: str, size: int) -> Labeller:
    """Return what labels by ``config``. ``model``: directory, hub name or ``package:NAME``, whose tokenizer says which
    of ``size`` token ids stand alone.

    Raises ``PolicyError`` for a model without a tokenizer.
    """
    alone = _alone(model, size) if config.mode == "ngram" else None
    return lambda prompt, response: copy_labels(prompt, response, config.mode, alone).target


def _alone(model: str, size: int) -> Alone:
    from transformers import AutoTokenizer

    try:
        return digits(AutoTokenizer.from_pretrained(resolve_model(model)), size)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise PolicyError(f"learner.copying.mode ngram needs the tokenizer of {model}: {reason}") from error
