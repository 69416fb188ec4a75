"""A language model with a head on its last token as transformers' sequence classifier, which vLLM pools, too."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.files import replace_file
from rollout.models.export import CONFIG, ExportError, save_model, write_files
from rollout.models.shards import Bucket, for_checkpoint, gathered

if TYPE_CHECKING:
    from torch import nn

SCORE = "score.weight"
"""The head's matrix [classes, d] in classifiers of decoders; it has no bias."""
HEAD = "head.safetensors"
"""File of an encoder's head."""


def classifier_metadata(config: Any, classes: int) -> tuple[str, Any, Bucket]:
    """Return class, configuration and tensors (without data) of the sequence classifier of a model's ``config``.

    Raises ``ExportError`` for an architecture without one, or whose classifier is no head on the last token.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    name = config.model_type
    config = copy.deepcopy(config)
    config.num_labels = classes
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
    except (ValueError, AttributeError, TypeError) as error:
        raise ExportError(
            f"transformers has no sequence classifier of {name} models, as which a reward head is saved; start from a "
            "model of another architecture (Llama, Qwen, Mistral, Gemma, Phi, GPT-2, ... have one)"
        ) from error
    tensors = [pair for bucket in for_checkpoint(model).metadata() for pair in bucket]
    if SCORE not in dict(tensors):
        raise ExportError(f"{type(model).__name__} has no {SCORE}: its classifier is no linear head on the last token")
    return type(model).__name__, config, tensors


def check_classifier(config: Any, names: Iterable[str], classes: int) -> set[str]:
    """Return which of ``names``, a language model's tensors, go into its classifier. Raises ``ExportError`` when that
    would need others.
    """
    architecture, _, tensors = classifier_metadata(config, classes)
    wanted = {name for name, _ in tensors} - {SCORE}
    if lacking := sorted(wanted - set(names)):
        raise ExportError(f"{architecture} needs {lacking[0]}, which the language model of {config.model_type} lacks")
    return wanted


def save_classifier(
    policy: nn.Module, head: nn.Linear, folder: Path, dtype: str = "float32", first: bool = True
) -> None:
    """Write ``policy`` without its LM head, and ``head`` as the classifier's, into the existing ``folder``.

    Adapters are merged; ``describe`` adds what the classes are called. Of many ranks all call this and the ``first``
    writes. Raises ``ExportError`` and ``OSError``.
    """
    import torch

    if head.bias is not None:
        raise ExportError("a head with a bias has no place in transformers' sequence classifiers")
    model: Any = policy.get_base_model() if hasattr(policy, "get_base_model") else policy  # type: ignore[operator]
    weights = for_checkpoint(policy)
    architecture, config, _ = classifier_metadata(model.config, head.out_features)
    all_of = [name for bucket in weights.metadata() for name, _ in bucket]
    kept = check_classifier(model.config, all_of, head.out_features)

    def chosen(buckets: Iterable[Bucket]) -> Iterator[Bucket]:
        for bucket in buckets:
            yield [pair for pair in bucket if pair[0] in kept]
        yield [(SCORE, gathered(head.weight))]

    described = [[pair for pair in bucket if pair[0] in kept] for bucket in weights.metadata()]
    size = [(SCORE, torch.empty(head.out_features, head.in_features, dtype=head.weight.dtype, device="meta"))]
    write_files([*described, size], chosen(weights.buckets()), config, architecture, folder, dtype, first)


def save_encoder(policy: nn.Module, head: nn.Linear, folder: Path, dtype: str = "float32", first: bool = True) -> None:
    """Write an encoder, and ``head`` beside it as ``HEAD``, into the existing ``folder``.

    Its own classifiers in transformers have more than one layer, each architecture others. Of many ranks all call this
    and the ``first`` writes. Raises ``ExportError`` and ``OSError``.
    """
    import torch
    from safetensors.torch import save_file

    save_model(policy, folder, None, dtype, first)
    weight = gathered(head.weight)
    if first:
        save_file({SCORE: weight.to("cpu", getattr(torch, dtype)).contiguous()}, folder / HEAD)


def describe(folder: Path, classes: Sequence[str], pad: int) -> None:
    """Write into the classifier's ``config.json`` what its ``classes`` are called, and the id that pads its inputs.

    Readers take the last token that is not ``pad``. Raises ``OSError``.
    """
    written = json.loads((folder / CONFIG).read_bytes())
    written |= {
        "id2label": {str(index): name for index, name in enumerate(classes)},
        "label2id": {name: index for index, name in enumerate(classes)},
        "problem_type": "single_label_classification" if len(classes) > 1 else "regression",
        "pad_token_id": pad,
    }
    if isinstance(text := written.get("text_config"), dict):
        text["pad_token_id"] = pad
    replace_file(folder / CONFIG, (json.dumps(written, indent=2, ensure_ascii=False) + "\n").encode())
