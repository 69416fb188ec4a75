"""The tokenizer of a pretraining, and its texts as tokens."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from rl.learner.config import ScratchModel
from rl.pretraining import Texts
from rl.pretraining_config import PretrainConfig
from rl.text.documents import Documents, open_source
from rl.text.encoding import cache_folder, encoder
from rl.text.shards import Shards
from rl.text.stretch import TextError
from rollout.files import replace_file, replacing_folder
from rollout.models.export import save_tokenizer
from rollout.models.tokenizer import byte_tokenizer

FOLDER = "text"
"""Of the tokens, in the run's folder, unless ``cache`` names another."""


def sources_of(config: PretrainConfig) -> dict[str, Documents]:
    """Return the documents of every text. Raises ``TextError`` for what can be told without reading."""
    folder = os.environ.get("K15_DATA")
    return {name: open_source(source, folder, config.seed) for name, source in config.text.items()}


def tokenizer_of(config: PretrainConfig, sources: dict[str, Documents], folder: Path) -> Any:
    """Return the tokenizer: the model's, or for one from scratch bytes, or pairs of them that are learnt once and kept
    in ``folder``.

    Raises ``TextError``, ``ModelPathError`` and ``OSError``.
    """
    from transformers import AutoTokenizer

    from rollout.models.pretrained import loading, resolve_model

    base = config.model.base
    if not isinstance(base, ScratchModel):
        with loading(base.path):
            return AutoTokenizer.from_pretrained(str(resolve_model(base.path)))
    context = max(base.context, config.longest)
    if config.tokenizer.kind == "bytes":
        return byte_tokenizer(context)
    if not folder.exists():
        learnt = byte_tokenizer(context, _some(config, sources), config.tokenizer.vocabulary)
        with replacing_folder(folder) as aside:
            save_tokenizer(learnt, aside)
    return AutoTokenizer.from_pretrained(str(folder))


def _some(config: PretrainConfig, sources: dict[str, Documents]) -> Iterator[str]:
    """Yield the beginnings of all texts, ``tokenizer.learnt_from`` characters shared out among them."""
    for source in sources.values():
        left = config.tokenizer.learnt_from // len(sources)
        for stretch in chain.from_iterable(source.read(0, "train")):
            text = "\n".join([*(message.content for message in stretch.asked), stretch.text])[:left]
            yield text
            left -= len(text)
            if left <= 0:
                break


def open_texts(config: PretrainConfig, sources: dict[str, Documents], tokenizer: Any, root: Path) -> Texts:
    """Return the texts, as tokens in folders below ``root``. Raises ``PromptError`` for a tokenizer without an end."""
    encode = encoder(tokenizer)
    shards = {
        name: Shards(name, source, cache_folder(root, name, source, tokenizer), encode, len(tokenizer))
        for name, source in sources.items()
    }
    return Texts(shards, config.seed)


def check_same(texts: Texts, record: Path) -> None:
    """Check that the texts are those that the training began with, which ``record`` tells from then on.

    Raises ``TextError``.
    """
    now = {name: shards.folder.name for name, shards in texts.shards.items()}
    if not record.exists():
        replace_file(record, (json.dumps(now, indent=1) + "\n").encode())
        return
    began = json.loads(record.read_bytes())
    if changed := [name for name, folder in now.items() if began.get(name, folder) != folder]:
        raise TextError(
            f"text {changed[0]!r} has changed since {record.parent} began; restore it, or choose another --run-dir"
        )


def held_out_rows(shards: Shards, length: int, tokens: int) -> tuple[list[Any], float]:
    """Return held-out windows, some ``tokens`` of them in all, and the bytes of text that a token stands for.

    Raises ``TextError`` when there is not one whole window.
    """
    ids, size = shards.heldout(max(tokens, length))
    count = len(ids) // length
    if not count:
        raise TextError(
            f"text {shards.name!r} has {len(ids):,} held-out tokens, fewer than one sequence ({length:,}): add text, "
            "or lower length"
        )
    return [ids[place * length : (place + 1) * length] for place in range(count)], size / len(ids)
