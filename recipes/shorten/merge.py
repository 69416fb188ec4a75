"""Model merging: the weights of a long-CoT and a short-CoT model averaged, no training [A.10].

The plain average is ours: one output shard in memory at a time, checked tensor by tensor. mergekit's methods (slerp,
ties, dare_ties, ...) are called by their names where it is installed.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.disk import writing

if TYPE_CHECKING:
    import torch

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
IGNORED = frozenset(
    {
        "_name_or_path",
        "architectures",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "pad_token_id",
        "transformers_version",
        "use_cache",
    }
)
"""Keys of a config.json that may differ between two models whose weights fit each other."""
NEEDS_BASE = (
    "ties",
    "dare_ties",
    "dare_linear",
    "task_arithmetic",
    "breadcrumbs",
    "breadcrumbs_ties",
    "della",
    "model_stock",
)
"""Methods of mergekit that merge differences from a common ancestor."""


class MergeError(ValueError):
    """Two models cannot be merged; one line naming the first difference, or what else is in the way."""


@dataclass(frozen=True)
class MergeReport:
    """What a merge did."""

    averaged: int
    """Floating tensors."""
    copied: int
    """Other tensors, taken from the long model."""
    bytes: int
    """Of all tensors written."""
    shards: int


def merge(
    long: Path, short: Path, out: Path, weight: float = 0.5, method: str = "linear", base: Path | None = None
) -> MergeReport:
    """``weight`` x short + (1 - weight) x long into ``out``, a new Hugging Face directory.

    Configuration, tokenizer and types are the long model's. Directories with a LoRA adapter are merged into their base
    first. Raises ``MergeError`` when architecture, shapes or tokenizers differ, a weight is not finite, or ``out`` is
    not empty.
    """
    if not 0 <= weight <= 1:
        raise MergeError(f"merge.weight {weight} is not a share between 0 and 1")
    if out.exists() and any(out.iterdir()):
        raise MergeError(f"{out} exists and is not empty; choose another place")
    aside = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    with ExitStack() as stack:
        long, short = (stack.enter_context(_without_adapter(path)) for path in (long, short))
        check_configs(long, short)
        check_tokenizers(long, short)
        aside.mkdir(parents=True)
        try:
            with writing(aside):
                if method == "linear":
                    report = _linear(long, short, aside, weight)
                else:
                    report = _mergekit(long, short, base, aside, weight, method)
            _copy_surroundings(long, aside)
            if out.exists():
                out.rmdir()
            aside.rename(out)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    return report


@contextmanager
def _without_adapter(path: Path) -> Iterator[Path]:
    """The model at ``path``; a LoRA adapter is merged into its base, in a temporary directory."""
    if not (path / "adapter_config.json").is_file():
        yield path
        return
    from peft import AutoPeftModelForCausalLM

    base = json.loads((path / "adapter_config.json").read_text())["base_model_name_or_path"]
    with tempfile.TemporaryDirectory(prefix="k15-merge-") as folder:
        AutoPeftModelForCausalLM.from_pretrained(path).merge_and_unload().save_pretrained(folder)
        origin = path if (path / "tokenizer_config.json").is_file() else Path(base)
        _copy_surroundings(origin, Path(folder))
        yield Path(folder)


def check_configs(long: Path, short: Path) -> None:
    """Raises ``MergeError`` naming the first key of the configurations that keeps the weights from fitting."""
    ours, theirs = _config(long), _config(short)
    for key in ("model_type", *sorted((ours.keys() | theirs.keys()) - IGNORED)):
        if ours.get(key) != theirs.get(key):
            raise MergeError(
                f"{short} does not fit {long}: {key} is {theirs.get(key)!r}, there it is {ours.get(key)!r}; "
                "merging needs two models of the same architecture"
            )
    if ours.get("quantization_config"):
        raise MergeError(
            f"{long} is quantised ({ours['quantization_config'].get('quant_method')}): dequantise it first"
        )


def _config(path: Path) -> dict[str, Any]:
    """As transformers reads it: with the defaults that a file leaves out."""
    from transformers import AutoConfig

    try:
        config: dict[str, Any] = AutoConfig.from_pretrained(path).to_dict()
    except (OSError, ValueError) as error:
        raise MergeError(f"{path}: no model: {str(error).strip().splitlines()[0]}") from error
    return config


def check_tokenizers(long: Path, short: Path) -> None:
    """Raises ``MergeError`` naming the first difference: the rows of the embeddings must mean the same."""
    from transformers import AutoTokenizer

    try:
        ours, theirs = AutoTokenizer.from_pretrained(long), AutoTokenizer.from_pretrained(short)
    except (OSError, ValueError) as error:
        raise MergeError(f"no tokenizer beside the model: {str(error).strip().splitlines()[0]}") from error
    mine, other = ({index: token for token, index in one.get_vocab().items()} for one in (ours, theirs))
    for index in sorted(mine.keys() | other.keys()):
        if mine.get(index) != other.get(index):
            raise MergeError(
                f"the tokenizer of {short} is another one than that of {long}: token {index} is {other.get(index)!r}, "
                f"there it is {mine.get(index)!r}"
            )
    parts = {
        "special tokens": [one.special_tokens_map for one in (ours, theirs)],
        "merges": [_pieces(one) for one in (ours, theirs)],
        "chat template": [one.chat_template for one in (ours, theirs)],
    }
    for name, (one, two) in parts.items():
        if one != two:
            raise MergeError(f"the tokenizer of {short} is another one than that of {long}: their {name} differ")


def _pieces(tokenizer: Any) -> Any:
    """How the text is cut into tokens, beside the vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    tree = json.loads(backend.to_str())
    return tree["model"].get("merges"), tree.get("normalizer"), tree.get("pre_tokenizer")


class Weights:
    """A model's safetensors, one tensor at a time; a key that is tied to another one is found there."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        from safetensors import safe_open

        self.path = path
        self.files = weight_files(path)
        self._open = [stack.enter_context(safe_open(str(file), "pt")) for file in self.files]
        self._where = {key: handle for handle in self._open for key in handle.keys()}  # noqa: SIM118 - no mapping
        self.tied = _tied(path)

    def keys_of(self, file: Path) -> list[str]:
        """Keys stored in one file."""
        return list(self._open[self.files.index(file)].keys())

    def get(self, key: str) -> torch.Tensor | None:
        """The tensor; ``None`` when there is none, nor one that it is tied to."""
        for name in (key, self.tied.get(key, key)):
            if name in self._where:
                tensor: torch.Tensor = self._where[name].get_tensor(name)
                return tensor
        return None

    def stray(self, other: Weights) -> list[str]:
        """Keys of ``other`` that this model has no tensor for; those of ``other`` that are tied do not count."""
        return sorted(key for key in other._where if key not in self._where and key not in other.tied)


def weight_files(path: Path) -> list[Path]:
    """The safetensors of a model, in the order of their names. Raises ``MergeError`` when there are none."""
    if (path / INDEX).is_file():
        names = set(json.loads((path / INDEX).read_text())["weight_map"].values())
        return [path / name for name in sorted(names)]
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    hint = "; save it again with save_pretrained of a current transformers" if [*path.glob("*.bin")] else ""
    raise MergeError(f"{path}: no {WEIGHTS} and no {INDEX}{hint}")


def _tied(path: Path) -> dict[str, str]:
    """Tensors that are the same one as another, by the model's own rules; empty for models that tie nothing."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path)
    if not config.get_text_config().tie_word_embeddings:
        return {}
    with torch.device("meta"):
        return dict(AutoModelForCausalLM.from_config(config).all_tied_weights_keys)


def _linear(long: Path, short: Path, out: Path, weight: float) -> MergeReport:
    """One output file for each of the long model's, under the same names."""
    from safetensors.torch import save_file

    averaged = copied = size = 0
    with ExitStack() as stack:
        ours, theirs = Weights(long, stack), Weights(short, stack)
        for name in ours.stray(theirs):
            raise MergeError(f"{short} has a tensor {name!r} that {long} lacks")
        for file in ours.files:
            shard: dict[str, torch.Tensor] = {}
            for key in ours.keys_of(file):
                shard[key], is_mean = _mean(key, ours, theirs, weight)
                averaged, copied = averaged + is_mean, copied + (not is_mean)
                size += shard[key].numel() * shard[key].element_size()
            save_file(shard, out / file.name, metadata={"format": "pt"})
    if (long / INDEX).is_file():
        shutil.copy(long / INDEX, out / INDEX)
    return MergeReport(averaged, copied, size, len(ours.files))


def _mean(key: str, ours: Weights, theirs: Weights, weight: float) -> tuple[torch.Tensor, bool]:
    """The averaged tensor and True, or the long model's and False where it is no floating one."""
    mine, other = ours.get(key), theirs.get(key)
    assert mine is not None
    if other is None:
        raise MergeError(f"{theirs.path} lacks the tensor {key!r} of {ours.path}")
    if mine.shape != other.shape:
        raise MergeError(
            f"{key!r} has shape {[*other.shape]} in {theirs.path}, {[*mine.shape]} in {ours.path}: not the same model"
        )
    if not mine.is_floating_point():
        return mine, False
    for tensor, path in ((mine, ours.path), (other, theirs.path)):
        if not tensor.isfinite().all():
            raise MergeError(f"{path}: {key!r} has NaN or infinite values")
    if weight == 0:
        return mine, True
    mean = mine.double().mul_(1 - weight).add_(other.double(), alpha=weight)
    return mean.to(mine.dtype), True


def _copy_surroundings(origin: Path, out: Path) -> None:
    """Everything small that belongs to a model besides its weights."""
    for path in sorted(origin.iterdir()):
        wanted = path.suffix in (".json", ".jinja", ".model", ".txt") and path.name not in (
            INDEX,
            "adapter_config.json",
        )
        if path.is_file() and wanted and not (out / path.name).exists():
            shutil.copy(path, out / path.name)


def _mergekit(long: Path, short: Path, base: Path | None, out: Path, weight: float, method: str) -> MergeReport:
    """Any method of mergekit that takes two models."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge
        from mergekit.merge_methods.registry import registered_methods
        from mergekit.options import MergeOptions
    except ImportError as error:
        raise MergeError(
            f"merge.method {method!r} is mergekit's, which is not installed: pip install 'k15[merge]'; 'linear' needs "
            f"nothing ({error})"
        ) from error
    known = sorted(one.spec.name for one in registered_methods())
    if method not in known:
        raise MergeError(f"mergekit has no method {method!r}; it has {', '.join(known)}")
    plan: dict[str, Any] = {"merge_method": method, "parameters": {"normalize": True}}
    models: list[dict[str, Any]] = [
        {"model": str(long), "parameters": {"weight": 1 - weight, "density": 0.5}},
        {"model": str(short), "parameters": {"weight": weight, "density": 0.5}},
    ]
    if method in ("slerp", "nuslerp"):
        plan |= {"base_model": str(long)} if method == "slerp" else {}
        plan["parameters"] = {"t": weight} if method == "slerp" else {}
    elif method in NEEDS_BASE:
        if base is None:
            raise MergeError(f"merge.method {method!r} needs the model that both come from; only a run knows it")
        check_configs(long, base)
        plan["base_model"] = str(base)
    try:
        run_merge(
            MergeConfiguration.model_validate({**plan, "models": models}),
            str(out),
            MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True, lazy_unpickle=True, random_seed=0),
        )
    except (RuntimeError, ValueError) as error:
        raise MergeError(f"mergekit, {method}: {str(error).strip().splitlines()[0]}") from error
    return _count(out)


def _count(out: Path) -> MergeReport:
    """What another program wrote."""
    from safetensors import safe_open

    files, tensors, size = weight_files(out), 0, 0
    for file in files:
        with safe_open(str(file), "pt") as handle:
            for key in handle.keys():  # noqa: SIM118 - no mapping
                tensor = handle.get_tensor(key)
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    raise MergeError(f"mergekit made {key!r} NaN or infinite")
                tensors, size = tensors + 1, size + tensor.numel() * tensor.element_size()
    return MergeReport(tensors, 0, size, len(files))
