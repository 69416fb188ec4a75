"""Checks that two models can be merged: same architecture, same tokenizer, same tensors; the first difference is
named.
"""

from __future__ import annotations

import json
from itertools import zip_longest
from pathlib import Path
from typing import Any

from recipes.shorten.merge_checkpoint import Checkpoint, MergeError
from rollout.plain import first_line

SIZES = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size")
"""Keys that are compared first: the others follow from them."""
HARMLESS = frozenset(
    {
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "initializer_range",
        "max_position_embeddings",
        "pad_token_id",
        "transformers_version",
        "use_cache",
    }
)
"""Keys of a config.json that may differ between two models whose weights mean the same."""


def check_configs(long: Path, short: Path) -> None:
    """Raises ``MergeError`` naming the first key of the configurations that keeps the weights from fitting."""
    ours, theirs = _config(long), _config(short)
    for key in (*SIZES, *sorted((ours.keys() | theirs.keys()) - HARMLESS)):
        if ours.get(key) != theirs.get(key):
            raise MergeError(
                f"{short} does not fit {long}: {key} is {theirs.get(key)!r}, there it is {ours.get(key)!r}; "
                "merging needs two models of the same architecture"
            )


def _config(path: Path) -> dict[str, Any]:
    """Return the configuration as transformers reads it, with the defaults that a file leaves out."""
    from transformers import AutoConfig

    try:
        config: dict[str, Any] = AutoConfig.from_pretrained(path).to_dict()
    except (OSError, ValueError) as error:
        raise MergeError(f"{path}: no model: {first_line(error)}") from error
    quantised = config.get("quantization_config")
    if quantised:
        raise MergeError(f"{path} is quantised ({quantised.get('quant_method')}): dequantise it first")
    return config


def check_tokenizers(long: Path, short: Path) -> None:
    """Raises ``MergeError`` naming the first difference: the rows of the embeddings must mean the same."""
    ours, theirs = _tokenizer(long), _tokenizer(short)
    head = f"the tokenizer of {short} is another one than that of {long}:"
    vocabularies = ({index: token for token, index in one.get_vocab().items()} for one in (ours, theirs))
    _compare(head, "token ", *vocabularies)
    _compare(head, "special token ", ours.special_tokens_map, theirs.special_tokens_map)
    mine, other = _pieces(ours), _pieces(theirs)
    _compare(head, "merge ", dict(enumerate(mine.pop("merges"))), dict(enumerate(other.pop("merges"))))
    _compare(head, "", mine, other)
    one, two = (str(tokenizer.chat_template or "") for tokenizer in (ours, theirs))
    for place, (left, right) in enumerate(zip_longest(one, two)):
        if left != right:
            raise MergeError(
                f"{head} their chat templates differ from character {place} on: {two[place : place + 30]!r}, there it "
                f"is {one[place : place + 30]!r}"
            )


def _tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise MergeError(f"{path}: no tokenizer beside the model: {first_line(error)}") from error


def _compare(head: str, what: str, mine: dict[Any, Any], other: dict[Any, Any]) -> None:
    for key in sorted(mine.keys() | other.keys()):
        if mine.get(key) != other.get(key):
            raise MergeError(f"{head} {what}{key} is {_clipped(other.get(key))}, there it is {_clipped(mine.get(key))}")


def _clipped(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _pieces(tokenizer: Any) -> dict[str, Any]:
    """Return the settings that cut text into tokens, beside the vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return {"merges": []}
    tree = json.loads(backend.to_str())
    return {
        "merges": tree["model"].get("merges") or [],
        "normalizer": tree.get("normalizer"),
        "pre_tokenizer": tree.get("pre_tokenizer"),
    }


def check_tensors(ours: Checkpoint, theirs: Checkpoint) -> None:
    """Raises ``MergeError`` for the first tensor that only one has, or in another shape or kind; headers suffice."""
    for name, mine in ours.tensors.items():
        other = theirs.tensors.get(name)
        if other is None:
            raise MergeError(f"{theirs.path} lacks the tensor {name!r} of {ours.path}")
        if mine.shape != other.shape:
            raise MergeError(
                f"{name!r} has shape {[*other.shape]} in {theirs.path}, {[*mine.shape]} in {ours.path}: not the same "
                "model"
            )
        for one, path in ((mine, ours.path), (other, theirs.path)):
            if one.dtype.startswith(("F8", "F4")):
                raise MergeError(f"{path} is quantised ({name!r} is {one.dtype}): dequantise it first")
        if mine.floating != other.floating:
            raise MergeError(f"{name!r} is {other.dtype} in {theirs.path}, {mine.dtype} in {ours.path}")
    for name in theirs.tensors:
        if name not in ours.tensors:
            raise MergeError(f"{theirs.path} has a tensor {name!r} that {ours.path} lacks")
