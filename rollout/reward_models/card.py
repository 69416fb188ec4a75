"""``reward_model.json``: what a reward model is and how it is asked, beside its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, JsonValue, ValidationError, model_validator

from rewards.models.template import check
from rollout.config import Config
from rollout.files import replace_file
from rollout.strict_json import dumps

NAME = "reward_model.json"
TEMPLATE = "{question}\n\nReference answer: {reference}\n\nResponse:\n{response}"
"""What a head or verifier reads, unless told otherwise."""


class CardError(ValueError):
    """A reward model's card cannot be used; one line."""


class Card(Config):
    """Read by whoever serves the model, so that it reads in use what it read in training."""

    kind: Literal["head", "judge", "verifier"]
    """``head``: a sequence classifier. ``judge``: a causal LM that reasons and ends in a JSON verdict. ``verifier``: a
    classifier of outcomes with its evidence."""
    template: str = TEMPLATE
    """What it reads of a response: text with {question}, {reference} and {response}."""
    sees: Literal["whole", "answer"] = "whole"
    """The whole response, or what follows its thinking (all of it where no thinking ends)."""
    classes: tuple[str, ...] = ("wrong", "right")
    """Names of a classifier's outputs, in order."""
    temperature: float = Field(1.0, gt=0)
    """Its logits are divided by this: calibration."""
    max_tokens: int = Field(2048, ge=1)
    """Longest input; of a longer one there is no opinion."""
    system: str = ""
    """Of a judge: the system message; empty: none."""
    arguments: dict[str, JsonValue] = {}
    """Of a judge: arguments of its chat template, e.g. ``enable_thinking``."""
    tokenizer: str = ""
    """Digest of the vocabulary that it was trained with (``rollout.reward_models.reading``); empty: unknown."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        check(self.template)
        return self


def write_card(folder: Path, card: Card) -> None:
    """Write the card of the model in ``folder``."""
    replace_file(folder / NAME, (dumps(card.model_dump(mode="json"), indent=2) + "\n").encode())


def read_card(folder: Path) -> Card | None:
    """Return the card of the model in ``folder``, or ``None``. Raises ``CardError`` for one that is not as it should
    be.
    """
    file = folder / NAME
    if not file.is_file():
        return None
    try:
        return Card.model_validate(json.loads(file.read_bytes()))
    except (ValueError, ValidationError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
        raise CardError(f"{file}: {what}; mend it, or write the model again") from error
