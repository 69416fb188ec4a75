"""What labels the copies of a learner's batches, from its configuration and its model's tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rl.learner.policy import PolicyError
from rollout.copying.labels import Alone, copy_labels, digits

if TYPE_CHECKING:
    from rl.learner.copies import Labeller
    from rl.objectives.config import CopyingConfig


def labeller(config: CopyingConfig, source: Path | None, size: int) -> Labeller:
    """Return what labels by ``config``. ``source``: the model's directory, whose tokenizer says which of ``size`` token
    ids stand alone.

    Raises ``PolicyError`` for a directory without a tokenizer.
    """
    alone = _alone(source, size) if config.mode == "ngram" else None
    return lambda prompt, response: copy_labels(prompt, response, config.mode, alone).target


def _alone(source: Path | None, size: int) -> Alone:
    from transformers import AutoTokenizer

    try:
        return digits(AutoTokenizer.from_pretrained(source), size)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise PolicyError(f"learner.copying.mode ngram needs the tokenizer of {source}: {reason}") from error
