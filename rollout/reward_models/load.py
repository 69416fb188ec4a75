"""From a path to the reward model that it names, and what its files are."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.models.digest import FILES, digest_of
from rollout.models.pretrained import ModelPathError, check_weights, files_of, loading, resolve_model
from rollout.reward_models.card import NAME, Card, read_card


@dataclass(frozen=True)
class Found:
    """A reward model on disk or on the hub."""

    path: str
    """Hugging Face directory or hub name."""
    card: Card
    """Its own, or what its architecture says of it."""
    folder: Path | None
    """The directory of its files; ``None``: on the hub, and not here yet."""


def find(name: str) -> Found:
    """Find the reward model that ``name`` means: a directory, that of the run that trained it, or a hub name.

    Only small files are read. Without a card (``reward_model.json``) a sequence classifier is a head, and a causal LM a
    judge. Raises ``ModelPathError`` for what is no model, or none that can judge, and ``CardError``.
    """
    path = resolve_model(str(_exported(name)))
    check_weights(path)
    with loading(path):
        config = _config(path)
    folder = files_of(path)
    card = read_card(folder) if folder is not None else None
    return Found(path, card or by_architecture(name, config), folder)


def _exported(name: str) -> Path | str:
    """Return the model of a run where ``name`` is one. Raises ``ModelPathError`` for a run without one."""
    run = Path(name).expanduser()
    if (run / "config.json").is_file():
        return name
    if (run / "model" / "config.json").is_file():
        return run / "model"
    if (run / "config.yaml").is_file():
        raise ModelPathError(
            f"{name}: a run that has exported no model yet; let it finish (the command that began it goes on)"
        )
    return name


def _config(path: str) -> dict[str, Any]:
    file = Path(path) / "config.json"
    if file.is_file():
        found = json.loads(file.read_bytes())
        if not isinstance(found, dict):
            raise ModelPathError(f"{file}: not a JSON object; copy the model again")
        return found
    from transformers import AutoConfig

    whole: dict[str, Any] = AutoConfig.from_pretrained(path).to_dict()
    return whole


def by_architecture(name: str, config: dict[str, Any]) -> Card:
    """Return the card of a model that has none of its own. Raises ``ModelPathError`` for one that cannot judge."""
    architectures = [str(one) for one in config.get("architectures") or ()]
    if any(one.endswith("ForSequenceClassification") for one in architectures):
        return Card(kind="head")
    if any(one.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for one in architectures):
        from rollout.reward_models.asking import judge_card

        return judge_card()
    raise ModelPathError(
        f"{name}: {', '.join(architectures) or 'its config.json names no architecture'}: neither a sequence classifier "
        f"nor a causal LM, and without a {NAME} that says what it is; give a model that can judge"
    )


def digest(found: Found) -> str:
    """Return the SHA-256 of all files that a model's opinions may depend on; of one that is not here, of its name."""
    if found.folder is None:
        return hashlib.sha256(found.path.encode()).hexdigest()
    files = (file for pattern in FILES for file in found.folder.glob(pattern) if file.is_file())
    return digest_of(files, found.folder)
