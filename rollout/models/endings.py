"""The tokens that end a response: for demonstrations, sampling, decoding and export."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.files import replace_file
from rollout.models.templates import PromptError, turn_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def end_tokens(
    tokenizer: PreTrainedTokenizerBase, model: str | None = None, vocabulary: int | None = None
) -> tuple[int, ...]:
    """Return the token ids that end a response, without repeats; the first is the one that demonstrations teach.

    In this order: the token with which the chat template ends an assistant's turn; the tokenizer's EOS; those that the
    files of ``model`` (a directory or hub name) declare. Any of them ends a response, since a model may have been
    trained with each; what lies beyond its embedding of ``vocabulary`` rows it cannot say. Raises ``PromptError`` when
    there is none: such a policy could never stop.
    """
    own = [turn_end(tokenizer), tokenizer.eos_token_id]
    declared = declared_end(model) if model else []
    known = dict.fromkeys(int(token) for token in (*own, *declared) if token is not None)
    if not known:
        raise PromptError(
            f"tokenizer {tokenizer.name_or_path!r} has no EOS token and its chat template ends turns with none: the "
            "policy could never stop; set tokenizer.eos_token and save it"
        )
    found = tuple(token for token in known if vocabulary is None or token < vocabulary)
    if not found:
        raise PromptError(
            f"{model or tokenizer.name_or_path}: all tokens that end a response ({', '.join(map(str, known))}) lie "
            f"beyond the {vocabulary} rows of its embedding, so none could end; use the tokenizer that belongs to the "
            "weights"
        )
    return found


def declared_end(model: str) -> list[int]:
    """Return the end tokens of a model's generation config; where that has none, or is missing, of its ``config.json``.

    The files are read as they stand: the classes of transformers would fill in defaults of their own.
    """
    found = _ids(_read(model, "generation_config.json").get("eos_token_id"))
    if found:
        return found
    config = _read(model, "config.json")
    text = config.get("text_config")
    inner = _ids(text.get("eos_token_id")) if isinstance(text, Mapping) else []
    return _ids(config.get("eos_token_id")) or inner


def declare_end(folder: Path, end: Sequence[int]) -> None:
    """Make ``generation_config.json`` of an exported model name all of ``end``, so that other programs stop there too.

    Whatever else stands in the file stays, and all of it where it names them already.
    """
    path = folder / "generation_config.json"
    content = json.loads(path.read_bytes()) if path.exists() else {}
    if set(end) <= set(_ids(content.get("eos_token_id"))):
        return
    content["eos_token_id"] = list(end) if len(end) > 1 else end[0]
    replace_file(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def _read(model: str, name: str) -> Mapping[str, Any]:
    """Read a JSON file of a directory or of the hub; empty where the model has none. Raises ``PromptError``."""
    from transformers.utils import cached_file

    try:
        path = cached_file(model, name)
    except OSError:
        return {}
    try:
        content = json.loads(Path(path).read_bytes()) if path else {}
    except ValueError as error:
        raise PromptError(f"{path}: not valid JSON ({error}); mend it or copy the model again") from error
    return content if isinstance(content, dict) else {}


def _ids(value: Any) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else [int(token) for token in value]
