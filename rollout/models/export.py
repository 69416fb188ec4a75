"""A model as Hugging Face files that transformers 4 and 5, vLLM and others read alike.

transformers 5 writes rotary settings and tokenizer classes under names that transformers 4 does not know: it takes
defaults for the first, without a word, and fails at the second. It also refuses to write generation settings that many
published models carry. So the files are written here: weights as engines get them, a configuration in both spellings,
and what came with the base model byte for byte.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.models.shards import Bucket, for_checkpoint

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
GENERATION = "generation_config.json"
EXACT = ("e_score_correction_bias",)
"""Tensors that are written as they are, whatever the type of the others: biases by which experts are chosen, which move
in steps far below what bfloat16 tells apart. transformers and vLLM keep them in float32, too.
"""
SHARD = "5GB"
"""Largest file that weights are written in; a larger tensor has a file of its own."""
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "chat_template.*",
    "additional_chat_templates/*.jinja",
)
"""Patterns of the files that a tokenizer and its chat template may consist of."""


class ExportError(RuntimeError):
    """A model cannot be written, or what was written is not read back as it was; one line."""


def save_model(
    policy: nn.Module, folder: Path, source: Path | None = None, dtype: str = "float32", first: bool = True
) -> None:
    """Write weights, ``config.json`` and ``generation_config.json`` of ``policy`` into the existing ``folder``.

    Adapters are merged. ``source``: the directory that the model came from, if any; its generation configuration goes
    along as it is, also where it contradicts itself. ``dtype``: of the weights written, by torch's name. Where ranks
    hold shards of the policy, all of them call this, and one, the ``first``, writes. Raises ``ExportError`` when the
    configuration is not read back as the model has it, ``OSError`` for a failed write.
    """
    model: Any = policy.get_base_model() if hasattr(policy, "get_base_model") else policy  # type: ignore[operator]
    weights = for_checkpoint(policy)
    write_files(weights.metadata(), weights.buckets(), model.config, type(model).__name__, folder, dtype, first)
    if not first:
        return
    if source is not None and (source / GENERATION).is_file():
        shutil.copyfile(source / GENERATION, folder / GENERATION)
    elif model.can_generate():
        (folder / GENERATION).write_text(model.generation_config.to_json_string())


def write_files(
    metadata: list[Bucket],
    buckets: Iterable[Bucket],
    config: Any,
    architecture: str,
    folder: Path,
    dtype: str = "float32",
    first: bool = True,
) -> None:
    """Write weights and ``config.json`` of a model of class ``architecture`` into the existing ``folder``.

    ``metadata``: what ``buckets`` will bring, without data. Of many ranks all walk ``buckets`` and the ``first``
    writes. Raises as ``save_model``.
    """
    try:
        if first:
            _write_weights(metadata, buckets, folder, dtype)
    finally:
        for _ in buckets:  # all ranks walk to the end, also when the one that writes cannot
            pass
    if not first:
        return
    written = {**json.loads(config.to_json_string()), "architectures": [architecture], "dtype": dtype}
    _write_json(folder / CONFIG, in_both_spellings(written, config))
    _check_rotary(config, folder)


def save_tokenizer(tokenizer: Any, folder: Path, source: Path | None = None) -> None:
    """Write tokenizer and chat template into the existing ``folder``: ``source``'s own files, or ``tokenizer`` written
    anew.

    ``source``: the directory that ``tokenizer`` was loaded from, if any.
    """
    found = [path for pattern in TOKENIZER for path in sorted(source.glob(pattern))] if source is not None else []
    for path in found:
        assert source is not None
        target = folder / path.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    if found:
        return
    tokenizer.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    _write_json(settings, tokenizer_in_old_spelling(json.loads(settings.read_text())))


def in_both_spellings(written: dict[str, Any], config: Any = None) -> dict[str, Any]:
    """Return a configuration as transformers 5 writes it, with the keys added that transformers 4 looks for.

    Nested configurations (of a text model inside of another one) likewise. ``config``: what it was written from, which
    knows other names of its keys (``num_experts`` of what is now ``num_local_experts``).
    """
    added: dict[str, Any] = {
        key: in_both_spellings(value, getattr(config, key, None))
        for key, value in written.items()
        if _is_config(key, value)
    }
    names: dict[str, str] = getattr(config, "attribute_map", {})
    added |= {old: written[new] for old, new in names.items() if new in written and old not in written}
    if isinstance(written.get("dtype"), str):
        added["torch_dtype"] = written["dtype"]
    unknown = _NOT_WRITTEN.get(written.get("model_type", ""), {})
    added |= {key: kind for key, kind in unknown.items() if key not in written}
    if isinstance(written.get("rope_parameters"), dict):
        added |= _old_rotary(written["rope_parameters"], written.get("model_type", ""))
    return {**written, **added}


def _is_config(key: str, value: Any) -> bool:
    return key.endswith("_config") and isinstance(value, dict) and "model_type" in value


def _old_rotary(parameters: dict[str, Any], model_type: str) -> dict[str, Any]:
    """Return what ``rope_parameters`` was before: base, scaling and share of rotated dimensions, each a key of
    its own.
    """
    if any(isinstance(each, dict) for each in parameters.values()):  # by type of layer
        everywhere = parameters.get("full_attention") or {}
        local = (parameters.get("sliding_attention") or {}).get("rope_theta")
        return _old_rotary(everywhere, model_type) | ({} if local is None else {"rope_local_base_freq": local})
    names = _OF_GPT_NEOX if model_type == "gpt_neox" else _OLD_NAMES
    old = {name: parameters[key] for key, name in names.items() if key in parameters}
    scaling = {key: value for key, value in parameters.items() if key not in names}
    old["rope_scaling"] = None if scaling == {"rope_type": "default"} else scaling or None
    if scaling.get("rope_type") == "longrope":  # its readers of old count the keys
        old["rope_scaling"] = {"type": "longrope", **{key: scaling[key] for key in ("short_factor", "long_factor")}}
        if "original_max_position_embeddings" in scaling:
            old["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
    return old


_NOT_WRITTEN = {"deepseek_v3": {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}}
"""What transformers 5 has no key for, since its model of that type knows no other; vLLM looks for it."""
_OLD_NAMES = {"rope_theta": "rope_theta", "partial_rotary_factor": "partial_rotary_factor"}
"""Keys that were outside of the scaling, with their names."""
_OF_GPT_NEOX = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}
"""Names in the one family that has its own."""


def tokenizer_in_old_spelling(settings: dict[str, Any]) -> dict[str, Any]:
    """Return ``tokenizer_config.json`` of transformers 5 in words that transformers 4 knows and 5 still reads."""
    settings = dict(settings)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    return settings


def _write_weights(metadata: list[Bucket], buckets: Iterable[Bucket], folder: Path, dtype: str) -> None:
    """Write safetensors, in as many files as ``SHARD`` asks for, as their tensors come: beside the bucket that is at
    hand, one file's copy is in memory at a time.

    ``metadata``: what ``buckets`` will bring, without data.
    """
    import torch
    from huggingface_hub import split_state_dict_into_shards_factory

    wanted: torch.dtype = getattr(torch, dtype)

    def stored(tensor: torch.Tensor, name: str = "") -> torch.dtype:
        return wanted if tensor.is_floating_point() and not name.endswith(EXACT) else tensor.dtype

    plan = split_state_dict_into_shards_factory(
        {name: tensor for bucket in metadata for name, tensor in bucket},
        get_storage_size=lambda tensor: tensor.numel() * stored(tensor).itemsize,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=SHARD,
    )
    for old in [*folder.glob("model*.safetensors"), folder / f"{WEIGHTS}.index.json"]:
        old.unlink(missing_ok=True)
    # A copy where the type stays too: two names may share memory, which the format does not allow.
    stream = (
        (name, tensor.to("cpu", stored(tensor, name), copy=True).contiguous())
        for bucket in buckets
        for name, tensor in bucket
    )
    _write_files(stream, plan.filename_to_tensors, folder)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        _write_json(folder / f"{WEIGHTS}.index.json", index)


def _write_files(
    stream: Iterable[tuple[str, torch.Tensor]], members: Mapping[str, Sequence[str]], folder: Path
) -> None:
    """Write each file of ``members`` as soon as all of its tensors have come."""
    from safetensors.torch import save_file

    file_of = {name: file for file, names in members.items() for name in names}
    open_files: dict[str, dict[str, torch.Tensor]] = {file: {} for file in members}
    for name, tensor in stream:
        file = file_of[name]
        open_files[file][name] = tensor
        if len(open_files[file]) == len(members[file]):
            save_file(open_files.pop(file), folder / file, {"format": "pt"})


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_rotary(config: Any, folder: Path) -> None:
    """Check that older and newer keys say the same as the reader understands them; the older ones come first."""
    from transformers import AutoConfig

    ours = getattr(config.get_text_config(), "rope_parameters", None)
    theirs = getattr(AutoConfig.from_pretrained(folder).get_text_config(), "rope_parameters", None)
    if _numbers(ours) != _numbers(theirs):
        raise ExportError(
            f"{folder / CONFIG}: the rotary embedding is read back as {theirs}, and the model has {ours}; "
            "rollout.models.export does not know how this family's is written"
        )


def _numbers(parameters: Any) -> Any:
    """Return the settings without what a reader fills in, and with 1 equal to 1.0."""
    if not isinstance(parameters, dict):
        return parameters
    return {key: _numbers(value) for key, value in parameters.items() if value is not None and key != "type"}
