"""A tiny language model with letters, and labelled responses that a head learns in seconds."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from learner_kit import TINY

from rl.learner.policy import create_model
from rollout.models.classifier import describe, save_classifier
from rollout.models.export import save_model, save_tokenizer
from rollout.models.tokenizer import build_tokenizer
from rollout.reward_models.card import Card, write_card

LETTERS = [*string.ascii_letters, *string.digits, *" +=?.,:<>/\n"]
TEMPLATE = "{question}={response}?{reference}"


def tokenizer() -> Any:
    return build_tokenizer(LETTERS, 256)


def save_base(folder: Path, seed: int = 0) -> Path:
    """A causal LM with its tokenizer."""
    folder.mkdir(parents=True)
    save_model(create_model(TINY, tokenizer(), seed), folder)
    save_tokenizer(tokenizer(), folder)
    return folder


def save_head(folder: Path, card: Card | None, seed: int = 0, outputs: int = 2, names: Sequence[str] = ()) -> Path:
    """A sequence classifier with a random head, as ``k15 train reward`` writes it; without a ``card`` anybody's."""
    folder.mkdir(parents=True)
    model = create_model(TINY, tokenizer(), seed)
    torch.manual_seed(seed)
    save_classifier(model, torch.nn.Linear(TINY.width, outputs, bias=False), folder)
    save_tokenizer(tokenizer(), folder)
    describe(folder, names or (card.classes if card else ("wrong", "right")), tokenizer().pad_token_id)
    if card is not None:
        write_card(folder, card)
    return folder


def sums(count: int, seed: int = 0, responses: int = 4) -> list[dict[str, Any]]:
    """Sums, each with as many right as wrong responses, which begin with a word that gives them away."""
    rng, rows = random.Random(seed), []
    for question in sorted(rng.sample([(a, b) for a in range(40) for b in range(40)], count)):
        answer = sum(question)
        for number in range(responses):
            right = number % 2 == 0
            said = f"sure {answer}" if right else f"hm {answer + rng.randrange(1, 9)}"
            text = f"{question[0]}+{question[1]}"
            rows.append({"question": text, "reference": str(answer), "response": said, "label": right})
    return rows


def save_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
