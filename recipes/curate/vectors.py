"""The embeddings of the rows on disk, a shard at a time, and whitened in one file that is read as it lies.

``vectors/00000.npz``      numbers of rows and their raw vectors, in half precision
``vectors/encoder.json``   whose they are: encoder, and rows
``vectors/whitener.npz``   fitted on all of them, and on nothing else: never on an evaluation set
``vectors/whitened.npy``   [n, k] float32 of length 1, in the order of ``pool.npy``
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recipes.curate.rows import SHARD, Numbers, Rows
from recipes.curate.showing import Showing
from recipes.curate.spread import Spread
from rollout.embedding.config import EncoderConfig, WhiteningConfig
from rollout.embedding.null import Null, null_of
from rollout.embedding.vectors import VectorsError
from rollout.embedding.whitening import Whitener, moments
from rollout.files import replace_file, written_aside

ENCODER = "encoder.json"
RAW = ("encoder", "rows")
"""What raw vectors depend on."""
Vectors = npt.NDArray[np.float32]
FEWEST = 2
"""Vectors that have a covariance."""


@dataclass(frozen=True)
class Encode:
    """Encodes a shard's statements; sent to other processes, each of which loads the encoder once."""

    config: EncoderConfig

    def __call__(self, piece: tuple[int, Sequence[str]]) -> tuple[int, npt.NDArray[np.float16]]:
        """Return the shard's number and its vectors [n, d]."""
        shard, texts = piece
        return shard, loaded(self.config).encode(texts).astype(np.float16)


@lru_cache(maxsize=1)
def loaded(config: EncoderConfig) -> Any:
    """Return the encoder, loaded once in a process. Raises ``ModelPathError``."""
    from rollout.embedding.encoders import load_encoder

    return load_encoder(config)


@dataclass(frozen=True)
class Embedded:
    """The vectors of a pool of rows."""

    folder: Path
    rows: Rows
    pool: Numbers
    """All rows that have a vector."""
    encoder: EncoderConfig
    whitening: WhiteningConfig
    seed: int
    identity: str
    """Changes when any row does."""

    def make(self, spread: Spread, view: Showing) -> None:
        """Encode what is not encoded yet, and whiten all. Raises ``VectorsError`` and ``ModelPathError``."""
        if len(self.pool) < FEWEST:
            raise VectorsError(
                f"{len(self.pool)} row is left, and whitening needs {FEWEST}: name more rows, or leave out what "
                "compares embeddings (--duplicates null --coverage null, no --against)"
            )
        told = self._told()
        state = self.folder / "state.json"
        if state.exists() and json.loads(state.read_bytes()) == told:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state.unlink(missing_ok=True)  # what it tells of is about to change, and a kill may come before the rest has
        if not self._shards_are_of(told):
            for old in self.folder.glob("[0-9]*.npz"):
                old.unlink()
            replace_file(self.folder / ENCODER, json.dumps({name: told[name] for name in RAW}).encode())
        self._encode(spread, view)
        view.stage("whiten")
        self._whiten()
        replace_file(state, json.dumps(told).encode())

    def _told(self) -> dict[str, Any]:
        return {
            "encoder": loaded(self.encoder).fingerprint,
            "rows": self.identity,
            "whitening": self.whitening.model_dump(mode="json"),
            "pool": hashlib.sha256(self.pool.tobytes()).hexdigest(),
        }

    def _shards_are_of(self, told: dict[str, Any]) -> bool:
        file = self.folder / ENCODER
        return file.exists() and json.loads(file.read_bytes()) == {name: told[name] for name in RAW}

    def _encode(self, spread: Spread, view: Showing) -> None:
        done = [shard for shard, own in self._owned() if self._has(shard, own)]
        total = len(self.pool)
        earlier = sum(len(own) for shard, own in self._owned() if shard in done)
        view.stage("encode", total, earlier)
        view.advance(earlier)
        owned = dict(self._owned())

        def pieces() -> Iterator[tuple[int, Sequence[str]]]:
            for shard, own in owned.items():
                if shard not in done:
                    yield shard, self.rows.texts(own).to_pylist()

        for shard, vectors in spread(Encode(self.encoder), pieces()):
            with written_aside(self._file(shard)) as aside, aside.open("wb") as file:
                np.savez(file, numbers=owned[shard], vectors=vectors)
            view.advance(len(vectors))

    def _owned(self) -> Iterator[tuple[int, Numbers]]:
        """Yield the rows of the pool by shard."""
        for shard in range(self.rows.shards):
            low, high = np.searchsorted(self.pool, [shard * SHARD, (shard + 1) * SHARD])
            if low < high:
                yield shard, self.pool[low:high]

    def _file(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.npz"

    def _has(self, shard: int, own: Numbers) -> bool:
        file = self._file(shard)
        if not file.exists():
            return False
        with np.load(file) as held:
            return bool(np.isin(own, held["numbers"], assume_unique=True).all())

    def raw(self) -> Iterator[Vectors]:
        """Yield the raw vectors [n, d] of the pool, a shard at a time, in order."""
        for shard, own in self._owned():
            with np.load(self._file(shard)) as held:
                yield held["vectors"][np.searchsorted(held["numbers"], own)].astype(np.float32)

    def _whiten(self) -> None:
        dimension = next(self.raw()).shape[1]
        whitener = moments(self.raw(), dimension).finalize(self.whitening.k, self.whitening.shrink)
        whitener.save(self.folder / "whitener.npz")
        with written_aside(self.folder / "whitened.npy") as aside:
            out = np.lib.format.open_memmap(aside, "w+", np.float32, (len(self.pool), whitener.k))
            begin = 0
            for vectors in self.raw():
                out[begin : begin + len(vectors)] = whitener.transform(vectors)
                begin += len(vectors)
            out.flush()
            del out

    @cached_property
    def whitener(self) -> Whitener:
        """The map fitted on the pool."""
        return Whitener.load(self.folder / "whitener.npz")

    @cached_property
    def whitened(self) -> Vectors:
        """[n, k] of the whole pool, on disk."""
        found: Vectors = np.load(self.folder / "whitened.npy", mmap_mode="r")
        return found

    @cached_property
    def null(self) -> Null:
        """Cosines of random pairs of the pool."""
        return null_of(self.whitened, self.seed)

    def of(self, numbers: Numbers) -> Vectors:
        """Return the whitened vectors [n, k] of some rows of the pool, in memory."""
        at = np.searchsorted(self.pool, numbers)
        if (at >= len(self.pool)).any() or (self.pool[at] != numbers).any():
            raise ValueError("rows without a vector were asked for")
        return np.ascontiguousarray(self.whitened[at])

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return the whitened vectors of other texts, an evaluation set's."""
        return self.whitener.transform(loaded(self.encoder).encode(texts))
