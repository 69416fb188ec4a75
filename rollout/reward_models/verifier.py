"""The outcome verifier at work: a classifier of outcomes whose P(right) comes from evidence, and which may abstain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rewards.models.calibration import probabilities
from rewards.models.neighbours import Array
from rollout.config import EngineConfig
from rollout.models.classifier import HEAD, SCORE
from rollout.models.pretrained import context_of, embedded, loading, resolve_model
from rollout.reward_models.card import Card, CardError, read_card
from rollout.reward_models.evidence import Evidence, EvidenceError, read_evidence
from rollout.reward_models.head import DEFAULT, HeadModel, padded
from rollout.reward_models.labelled import RIGHT
from rollout.reward_models.opinion import Opinion
from rollout.reward_models.reading import Reader, check_fits
from rollout.types import TokenIds

if TYPE_CHECKING:
    from rollout.reward_models.config import RewardModelConfig


@dataclass(frozen=True)
class Verifier:
    """A trained verifier with what it takes to ask it."""

    body: Any
    """The model without its head."""
    weight: torch.Tensor
    """[classes, d] of the head."""
    reader: Reader
    evidence: Evidence

    @torch.no_grad()
    def outputs(self, inputs: Sequence[TokenIds]) -> tuple[Array, Array]:
        """Return logits [n, classes] and the hidden states [n, d] that the head reads, of inputs computed together."""
        tokens, mask = padded(inputs, self.reader.tokenizer.pad_token_id or 0)
        tokens, mask = tokens.to(self.body.device), mask.to(self.body.device)
        states = self.body(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
        if self.evidence.at == "means":
            pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        else:
            places = mask.sum(1) - 1 if self.evidence.at == "ends" else torch.zeros_like(mask[:, 0])
            pooled = states[torch.arange(len(states), device=states.device), places]
        logits = pooled @ self.weight.T
        return logits.double().cpu().numpy(), pooled.double().cpu().numpy()

    def opinions(self, inputs: Sequence[TokenIds]) -> list[Opinion]:
        """Return what it makes of inputs that are computed together."""
        logits, hidden = self.outputs(inputs)
        return self.evidence.opinions(probabilities(logits, self.reader.card.temperature), hidden)


def load_trained(path: str, engine: EngineConfig = DEFAULT) -> Verifier:
    """Load a verifier from a directory that ``k15 train verifier`` wrote, on the device and in the type of ``engine``.

    Raises ``CardError``, ``EvidenceError``, ``rollout.reward_models.reading.MisfitError`` and ``ModelPathError``.
    """
    from transformers import AutoTokenizer

    folder, card, evidence = _small_files(path)
    with loading(str(folder)):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        body, weight = _weights(folder, getattr(torch, engine.dtype))
    if (len(evidence.classes), evidence.neighbours.vectors[0].shape[1]) != tuple(weight.shape):
        raise EvidenceError(f"{path}: its evidence is of another model; train it again")
    vocabulary = body.get_input_embeddings().weight.shape[0]
    check_fits(tokenizer, vocabulary, card.tokenizer, path)
    limit = min(card.max_tokens, context_of(body.config) or card.max_tokens)
    reader = Reader(card, tokenizer, vocabulary, limit)
    return Verifier(body.to(engine.device).eval(), weight.to(engine.device).float(), reader, evidence)


def check_verifier(path: str) -> None:
    """Raises what ``load_verifier`` does, as far as a verifier's small files tell."""
    from transformers import AutoConfig, AutoTokenizer

    folder, card, evidence = _small_files(path)
    _check_right(path, evidence)
    with loading(str(folder)):
        tokenizer, config = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder)
    check_fits(tokenizer, embedded(config, tokenizer), card.tokenizer, path)


def _small_files(path: str) -> tuple[Path, Card, Evidence]:
    """Return where a verifier is, its card and its evidence."""
    folder = Path(resolve_model(path))
    card = read_card(folder)
    if card is None or card.kind != "verifier":
        raise CardError(f"{path}: no verifier: no card beside it says that it is one; `k15 train verifier` trains one")
    return folder, card, read_evidence(folder)


def _check_right(path: str, evidence: Evidence) -> None:
    if RIGHT not in evidence.classes:
        raise CardError(
            f"{path}: its classes are {', '.join(evidence.classes)}: a reward needs one that is called {RIGHT}"
        )


def _weights(folder: Path, dtype: torch.dtype) -> tuple[Any, torch.Tensor]:
    """Return the model without its head, and the head's matrix."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoModelForSequenceClassification

    if (folder / HEAD).is_file():
        return AutoModel.from_pretrained(folder, dtype=dtype), load_file(folder / HEAD)[SCORE]
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype)
    return model.base_model, model.score.weight.detach()


def load_verifier(path: str, config: RewardModelConfig) -> HeadModel:
    """Load the verifier at ``path`` as ``config`` says and begin to serve it. Raises as ``load_trained``, and
    ``CardError`` for one that knows nothing of right.
    """
    engine = config.engine or DEFAULT
    found = load_trained(path, engine)
    _check_right(path, found.evidence)
    return HeadModel(found, engine.max_batched_tokens, engine.threads)
