"""Text as tokens on the disk: made once, in shards, from which windows are drawn by number.

FOLDER/00000.train.npy     tokens of the first documents, each followed by the end token
FOLDER/00000.heldout.npy   tokens of what is held out of them
FOLDER/00000.json          how many documents were read by then, and whether there are more; written last

A shard is a pure function of the source and its number, so a kill at any moment costs one shard at most, and what is
drawn never depends on when it was made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rl.text.documents import Documents, Split, Stretch, TextError
from rollout.files import replace_file, written_aside
from rollout.seeds import seed_of

Ids = npt.NDArray[Any]
Encode = Callable[[Sequence[str]], Sequence[Sequence[int]]]
"""Tokens of each text."""
SHARD = 1 << 22
"""Tokens after which a shard is full."""
AT_ONCE = 256
"""Stretches that are encoded together."""
HELD_OUT = 64
"""One stretch in so many is held out of a source that ends, by its text: what occurs twice is on one side."""
LEAST_HELD_OUT = 8
"""Or, where the first shard has none that is: its last part, one in so many of its tokens."""


@dataclass(frozen=True)
class Shard:
    """What a shard's ``.json`` says."""

    documents: int
    """Read by its end, from the source's first on."""
    tokens: int
    """That are trained on."""
    heldout: int
    """Tokens that are not."""
    heldout_bytes: int
    """Of UTF-8 text that the held-out tokens stand for."""
    last: bool
    """Whether the source has ended."""


class Shards:
    """The shards of one source in ``folder``. ``encode`` makes tokens below ``vocabulary``; ``end`` ends a document.

    ``name`` is the source's, for messages.
    """

    def __init__(
        self, name: str, source: Documents, folder: Path, encode: Encode, end: int, vocabulary: int, size: int = SHARD
    ) -> None:
        self.name, self.source, self.folder = name, source, folder
        self._encode, self._end, self._size = encode, end, size
        self._type = np.uint16 if vocabulary <= 1 << 16 else np.uint32
        self._known: list[Shard] = []
        self._open: dict[tuple[int, Split], Ids] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, number: int) -> Shard:
        return self._known[number]

    @property
    def tokens(self) -> int:
        """Tokens to train on, of the shards that there are."""
        return sum(shard.tokens for shard in self._known)

    @property
    def ended(self) -> bool:
        """Whether there are no more."""
        return bool(self._known) and self._known[-1].last

    def fill(self, tokens: int, told: Callable[[int], None] = lambda _: None) -> None:
        """Make shards until there are ``tokens`` to train on, or the source ends. ``told`` hears how many there are.

        Raises ``TextError`` and ``OSError``.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        while self.tokens < tokens and not self.ended:
            found = self._read(len(self._known))
            self._known.append(found or self._make(len(self._known)))
            told(self.tokens)

    def train(self, number: int) -> Ids:
        """Return the tokens of a shard that are trained on, read as they are used."""
        return self._tokens(number, "train")

    def heldout(self, tokens: int) -> tuple[Ids, int]:
        """Return up to ``tokens`` held-out tokens, and the bytes of text that they stand for, as far as shards go."""
        parts, size, share = [], 0, 0.0
        for number, shard in enumerate(self._known):
            taken = self._tokens(number, "heldout")[: max(0, tokens - size)]
            parts.append(np.asarray(taken))
            size += len(taken)
            share += shard.heldout_bytes * len(taken) / max(1, shard.heldout)
        return np.concatenate(parts), round(share)

    def _path(self, number: int, what: str) -> Path:
        return self.folder / f"{number:05d}.{what}"

    def _tokens(self, number: int, split: Split) -> Ids:
        if (number, split) not in self._open:
            self._open[number, split] = np.load(self._path(number, f"{split}.npy"), mmap_mode="r")
        return self._open[number, split]

    def _read(self, number: int) -> Shard | None:
        path = self._path(number, "json")
        return Shard(**json.loads(path.read_bytes())) if path.exists() else None

    def _make(self, number: int) -> Shard:
        start = self._known[-1].documents if self._known else 0
        made = _Making(self._encode, self._end, self._type, apart=self.source.endless)
        documents, last = start, not self.source.endless
        for document in self.source.read(start, "train"):
            made.add(document)
            documents += 1
            if made.size >= self._size:
                last = False
                break
        train, heldout, held_bytes = made.parts(first=number == 0)
        if self.source.endless and number == 0:
            drawn = _Making(self._encode, self._end, self._type, apart=True)
            for document in self.source.read(0, "heldout"):
                drawn.add(document)
                if drawn.size >= self._size // HELD_OUT:
                    break
            heldout, _, _ = drawn.parts(first=False)
            held_bytes = drawn.bytes
        if last and not start and not documents:
            raise TextError(f"text {self.name!r} has no document; name another")
        for split, tokens in (("train", train), ("heldout", heldout)):
            with written_aside(self._path(number, f"{split}.npy")) as aside, aside.open("wb") as file:
                np.save(file, tokens)
        shard = Shard(documents, len(train), len(heldout), held_bytes, last)
        replace_file(self._path(number, "json"), (json.dumps(asdict(shard)) + "\n").encode())
        return shard


class _Making:
    """The tokens of a shard while its documents are read. ``apart``: nothing of them is held out."""

    def __init__(self, encode: Encode, end: int, kind: type, apart: bool) -> None:
        self._encode, self._end, self._type, self._apart = encode, end, kind, apart
        self._waiting: list[Stretch] = []
        self._train: list[Ids] = []
        self._heldout: list[Ids] = []
        self.size = 0
        self.bytes = 0
        """Of the text of all that was added."""
        self._heldout_bytes = 0

    def add(self, document: Iterable[Stretch]) -> None:
        """Take a document in."""
        for stretch in document:
            self._waiting.append(stretch)
            if len(self._waiting) == AT_ONCE:
                self._flush()

    def _flush(self) -> None:
        if not self._waiting:  # tokenizers of transformers refuse to encode no text
            return
        for stretch, ids in zip(self._waiting, self._encode([one.text for one in self._waiting]), strict=True):
            tokens: Ids = np.array([*ids, self._end] if stretch.ends else ids, dtype=self._type)
            size = len(stretch.text.encode())
            self.bytes += size
            self.size += len(tokens)
            if not self._apart and seed_of("held out", stretch.text) % HELD_OUT == 0:
                self._heldout.append(tokens)
                self._heldout_bytes += size
            else:
                self._train.append(tokens)
        self._waiting = []

    def parts(self, first: bool) -> tuple[Ids, Ids, int]:
        """Return what is trained on, what is held out, and the bytes of the latter. ``first``: something has to be."""
        self._flush()
        nothing: Ids = np.empty(0, self._type)
        train, heldout = (np.concatenate(part) if part else nothing for part in (self._train, self._heldout))
        if first and not self._apart and not len(heldout):
            cut = len(train) - len(train) // LEAST_HELD_OUT
            share = self.bytes * (len(train) - cut) // max(1, len(train))
            return train[:cut], train[cut:], share
        return train, heldout, self._heldout_bytes
