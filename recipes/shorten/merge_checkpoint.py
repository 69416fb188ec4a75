"""The weights of a model directory for merging: names, shapes and types at once, tensors one at a time."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollout.plain import first_line

if TYPE_CHECKING:
    import torch

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SMALL = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
"""Files beside the weights: configuration, tokenizer, chat template."""
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of the floating types that weights can be averaged in, by safetensors' names."""


class MergeError(ValueError):
    """Two models cannot be merged; one line naming the first difference, or what else is in the way."""


@dataclass(frozen=True)
class Stored:
    """A tensor of a file, unread."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """As safetensors calls it: BF16, F32, I64, ..."""

    @property
    def floating(self) -> bool:
        """True when it is averaged; others are copied."""
        return self.dtype in FLOATS

    @property
    def bytes(self) -> int:
        """Size on disk; numbers other than floats are counted generously, as 8 bytes each."""
        return math.prod(self.shape) * FLOATS.get(self.dtype, 8)


class Checkpoint:
    """The safetensors of a model, open until ``stack`` closes.

    A weight that the model ties to another one is found under the other one's name, whichever of the two the files
    store; stored twice, it counts once. Raises ``MergeError`` for files that are no safetensors.
    """

    def __init__(self, path: Path, stack: ExitStack) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        self._where: dict[str, Any] = {}
        for file in weight_files(path):
            try:
                handle = stack.enter_context(safe_open(str(file), "pt"))
            except (OSError, SafetensorError) as error:
                raise MergeError(f"{file}: cannot be read: {first_line(error)}") from error
            self._where |= dict.fromkeys(handle.keys(), handle)
        self.tensors: dict[str, Stored] = {}
        """Tensors by the names that a merged model stores them under."""
        self.twice = 0
        """Tied weights that the files store a second time."""
        tied = tied_names(path)
        for name in self._where:
            source = tied.get(name, name)
            if source == name or source not in self._where:
                self.tensors[source] = self._stored_as(name)
            elif self._read(name).equal(self._read(source)):
                self.twice += 1
            else:
                raise MergeError(
                    f"{path}: {name!r} differs from {source!r}, though its config.json ties them "
                    "(tie_word_embeddings): set that to what is true"
                )

    def _stored_as(self, name: str) -> Stored:
        header = self._where[name].get_slice(name)
        return Stored(name, tuple(header.get_shape()), header.get_dtype())

    def _read(self, stored: str) -> torch.Tensor:
        tensor: torch.Tensor = self._where[stored].get_tensor(stored)
        return tensor

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor of ``tensors``."""
        return self._read(self.tensors[name].name)


def weight_files(path: Path) -> list[Path]:
    """Return the safetensors of a model, in the order of their names. Raises ``MergeError`` when one is missing."""
    if (path / INDEX).is_file():
        files = [path / name for name in sorted(set(json.loads((path / INDEX).read_text())["weight_map"].values()))]
    else:
        files = [path / WEIGHTS]
    for file in files:
        if not file.is_file():
            raise MergeError(
                f"{path}: no {file.name}; weights in another format (.bin, .gguf, ...) must be loaded with "
                "transformers and saved again with save_pretrained"
            )
    return files


def tied_names(path: Path) -> dict[str, str]:
    """Return the weights that the model ties to another one, by its own rules: name -> the other one's name."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(path)
    if not any(getattr(one, "tie_word_embeddings", False) for one in (config, config.get_text_config())):
        return {}
    kind = getattr(transformers, (config.architectures or [""])[0], None)
    with torch.device("meta"):
        model = kind(config) if kind else transformers.AutoModelForCausalLM.from_config(config)
    return dict(model.all_tied_weights_keys)


def local(model: Path | str) -> Path:
    """Return the directory of a model; a hub name is downloaded into the hub's cache. Raises ``MergeError``."""
    from huggingface_hub import snapshot_download

    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(str(model), allow_patterns=["*.safetensors", *SMALL], ignore_patterns="*/*"))
    except (OSError, ValueError) as error:
        raise MergeError(f"{model}: no such directory, and no model of the hub: {first_line(error)}") from error
