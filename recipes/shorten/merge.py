"""Model merging: the weights of a long-CoT and a short-CoT model averaged, no training [2501.12599 §2.4].

The plain average is ours: checked before anything is written, never more in memory than one output shard and one tensor
of each model. Other methods (slerp, ties, dare_ties, ...) are mergekit's.
"""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.shorten.merge_checkpoint import INDEX, SMALL, Checkpoint, MergeError, local, weight_files
from recipes.shorten.merge_checks import check_configs, check_tensors, check_tokenizers
from rl.state.disk import writing
from rollout.models.export import save_model
from rollout.plain import first_line

if TYPE_CHECKING:
    import torch

__all__ = ["MergeError", "MergeReport", "merge"]

SHARD = "2GB"
"""Largest file that the average is written in; a larger tensor has a file of its own."""


@dataclass(frozen=True)
class MergeReport:
    """Counts of a merge."""

    averaged: int
    """Number of floating tensors."""
    copied: int
    """Other tensors, taken from the long model."""
    tied: int
    """Tied weights that the long model stores a second time; they are written once."""
    bytes: int
    """Size of all tensors written."""
    shards: int


def merge(
    long: Path | str,
    short: Path | str,
    out: Path,
    weight: float = 0.5,
    method: str = "linear",
    base: Path | str | None = None,
) -> MergeReport:
    """Write ``weight`` x short + (1 - weight) x long into ``out``, a new Hugging Face directory that appears when
    whole.

    Models are directories or hub names; those with a LoRA adapter are merged into their base first. Configuration,
    tokenizer and types are the long model's. ``base``: what both come from, for the methods that merge differences.
    Raises ``MergeError`` when architecture, tensors or tokenizers differ, a weight is not finite, a model is quantised,
    or ``out`` is not empty; ``OSError`` when the disk is full.
    """
    if not 0 <= weight <= 1:
        raise MergeError(f"merge.weight {weight} is not a share between 0 and 1")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MergeError(f"{out} exists and is not empty; choose another place")
    aside = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    (aside / "model").mkdir(parents=True)
    try:
        with writing(aside):
            ours, theirs = _whole(local(long), aside / "long"), _whole(local(short), aside / "short")
            check_configs(ours, theirs)
            check_tokenizers(ours, theirs)
            if method == "linear":
                report = _linear(ours, theirs, aside / "model", weight)
            else:
                ancestor = None if base is None else _whole(local(base), aside / "base")
                report = _mergekit(ours, theirs, ancestor, aside / "model", weight, method)
            _copy_small(ours, aside / "model")
        if out.exists():
            out.rmdir()
        (aside / "model").rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return report


def _whole(path: Path, folder: Path) -> Path:
    """Return the model at ``path``; a LoRA adapter is merged into its base and saved in ``folder``."""
    if not (path / "adapter_config.json").is_file():
        return path
    from peft import AutoPeftModelForCausalLM, PeftConfig

    try:
        base = local(PeftConfig.from_pretrained(str(path)).base_model_name_or_path or "<no base named>")
        model = AutoPeftModelForCausalLM.from_pretrained(str(path)).merge_and_unload()
    except (OSError, RuntimeError, ValueError) as error:
        raise MergeError(f"{path}: this LoRA adapter cannot be merged into its base: {first_line(error)}") from error
    folder.mkdir()
    save_model(model, folder, base, str(model.dtype).removeprefix("torch."))
    _copy_small(path if (path / "tokenizer_config.json").is_file() else base, folder, keep=True)
    return folder


def _linear(long: Path, short: Path, out: Path, weight: float) -> MergeReport:
    """Write the average, file after file."""
    from huggingface_hub import split_state_dict_into_shards_factory
    from safetensors.torch import save_file

    with ExitStack() as stack:
        ours, theirs = Checkpoint(long, stack), Checkpoint(short, stack)
        check_tensors(ours, theirs)
        plan = split_state_dict_into_shards_factory(
            ours.tensors,
            get_storage_size=lambda stored: stored.bytes,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=SHARD,
        )
        size = 0
        for file, names in plan.filename_to_tensors.items():
            shard = {name: _mean(name, ours, theirs, weight) for name in names}
            size += sum(tensor.nbytes for tensor in shard.values())
            save_file(shard, out / file, metadata={"format": "pt"})
            del shard
    if plan.is_sharded:
        index = {"metadata": {"total_size": size}, "weight_map": plan.tensor_to_filename}
        (out / INDEX).write_text(json.dumps(index, indent=2))
    return _report(ours, size, len(plan.filename_to_tensors))


def _report(ours: Checkpoint, size: int, shards: int) -> MergeReport:
    averaged = sum(stored.floating for stored in ours.tensors.values())
    return MergeReport(averaged, len(ours.tensors) - averaged, ours.twice, size, shards)


def _mean(name: str, ours: Checkpoint, theirs: Checkpoint, weight: float) -> torch.Tensor:
    """Return the mean in the type of ``ours``, computed in float32 at least; a tensor that is not floating is
    ``ours``.
    """
    import torch

    mine = ours.read(name)
    if not mine.is_floating_point():
        return mine
    other = theirs.read(name)
    for tensor, path in ((mine, ours.path), (other, theirs.path)):
        if not tensor.isfinite().all():
            raise MergeError(f"{path}: {name!r} has NaN or infinite values")
    if weight == 0:
        return mine
    mean = mine.to(torch.promote_types(mine.dtype, torch.float32)) * (1 - weight)
    mean = mean.add_(other, alpha=weight).to(mine.dtype)
    if not mean.isfinite().all():
        raise MergeError(f"the average of {name!r} is too large for {mine.dtype}, the type of {ours.path}")
    return mean


def _mergekit(long: Path, short: Path, base: Path | None, out: Path, weight: float, method: str) -> MergeReport:
    """Write the weights by a method of mergekit."""
    from recipes.shorten.merge_mergekit import merge_by_mergekit

    merge_by_mergekit(long, short, base, out, weight, method)
    with ExitStack() as stack:
        ours, made = Checkpoint(long, stack), Checkpoint(out, stack)
        size = sum(stored.bytes for stored in made.tensors.values())
    return _report(ours, size, len(weight_files(out)))


def _copy_small(origin: Path, out: Path, keep: bool = False) -> None:
    """Copy configuration, tokenizer and chat template; ``keep``: files that ``out`` has already stay."""
    for path in sorted({path for pattern in SMALL for path in origin.glob(pattern)}):
        wanted = not path.name.endswith(".index.json") and path.name != "adapter_config.json"
        if path.is_file() and wanted and not (keep and (out / path.name).exists()):
            shutil.copy(path, out / path.name)
    templates = origin / "additional_chat_templates"
    if templates.is_dir():
        shutil.copytree(templates, out / templates.name, dirs_exist_ok=True)
