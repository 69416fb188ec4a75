"""Text as tokens on the disk: made once, in shards, from which windows are drawn by number.

FOLDER/00000.train.npy     tokens of the first documents, each followed by the end token
FOLDER/00000.heldout.npy   tokens of what is held out of them
FOLDER/00000.json          how far the source was read by then, and whether there is more; written last

A shard is a pure function of the source and its number, so a kill at any moment costs one shard at most, and what is
drawn never depends on when it was made, or by whom: processes that share a folder take turns.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rl.text.documents import Documents, Split
from rl.text.encoding import Encode
from rl.text.stretch import Stretch, TextError
from rollout.files import remove_asides, replace_file, written_aside
from rollout.lock import taking_turns
from rollout.seeds import seed_of

Ids = npt.NDArray[Any]
SHARD = 1 << 22
"""Tokens after which a shard is full."""
MADE_UP = 1 << 19
"""Of a source without end, which a short training would else wait for."""
MADE_UP_HELD_OUT = 1 << 17
"""Tokens that are held out of one."""
AT_ONCE = 1 << 18
"""Bytes of text that are encoded together; a shard is over its size by little more than these."""
OPEN = 8
"""Files of tokens that are open at a time: the limit of a process may be a thousand."""
HELD_OUT = 64
"""One stretch in so many is held out of a source that ends, by its text: what occurs twice is on one side."""
LEAST_HELD_OUT = 8
"""Or, where the first shard has none that is: its last part, one in so many of its tokens."""


@dataclass(frozen=True)
class Shard:
    """What a shard's ``.json`` says."""

    documents: int
    """Read to their end by then, from the source's first on."""
    stretches: int
    """Read of the next one."""
    tokens: int
    """That are trained on."""
    heldout: int
    """Tokens that are not."""
    heldout_bytes: int
    """Of UTF-8 text that the held-out tokens stand for."""
    last: bool
    """Whether the source has ended."""


class Shards:
    """The shards of one source in ``folder`` (``rl.text.encoding.cache_folder``). ``encode`` makes tokens below
    ``vocabulary``. ``name`` is the source's, for messages. ``size``: tokens after which a shard is full.
    """

    def __init__(
        self, name: str, source: Documents, folder: Path, encode: Encode, vocabulary: int, size: int | None = None
    ) -> None:
        self.name, self.source, self.folder = name, source, folder
        self._encode, self._size = encode, size or (MADE_UP if source.endless else SHARD)
        self._type = np.uint16 if vocabulary <= 1 << 16 else np.uint32
        self.tokens = 0
        """To train on, of the shards that are known."""
        self._known: list[Shard] = []
        self._open: dict[tuple[int, Split], Ids] = {}
        self._reading: tuple[tuple[int, int], Iterator[Stretch]] | None = None
        """Documents and stretches that the iterator is behind of, so that shard after shard can be made of it."""

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, number: int) -> Shard:
        return self._known[number]

    @property
    def ended(self) -> bool:
        """Whether there are no more."""
        return bool(self._known) and self._known[-1].last

    def fill(self, tokens: int, told: Callable[[int], None] = lambda _: None) -> None:
        """Make shards until there are ``tokens`` to train on, or the source ends. ``told`` hears how many there are.

        Raises ``TextError`` and ``OSError``.
        """
        while self.tokens < tokens and not self.ended:
            number = len(self._known)
            if (found := self._read(number)) is None:
                with taking_turns(self.folder, TextError, "folder for it"):
                    if (found := self._read(number)) is None:  # nobody has made it in the meantime
                        remove_asides(self.folder)
                        found = self._make(number)
            self._known.append(found)
            self.tokens += found.tokens
            told(self.tokens)

    def train(self, number: int) -> Ids:
        """Return the tokens of a shard that are trained on, read as they are used."""
        return self._tokens(number, "train")

    def heldout(self, tokens: int) -> tuple[Ids, int]:
        """Return up to ``tokens`` held-out tokens, and the bytes of text that they stand for, as far as shards go.

        Raises ``TextError`` when there are none.
        """
        parts, size, share = [], 0, 0.0
        for number, shard in enumerate(self._known):
            if size >= tokens:
                break
            taken = self._tokens(number, "heldout")[: tokens - size]
            parts.append(np.asarray(taken))
            size += len(taken)
            share += shard.heldout_bytes * len(taken) / max(1, shard.heldout)
        if not size:
            raise TextError(f"text {self.name!r} is too short to hold anything out of it; add text")
        return np.concatenate(parts), round(share)

    def _path(self, number: int, what: str) -> Path:
        return self.folder / f"{number:05d}.{what}"

    def _tokens(self, number: int, split: Split) -> Ids:
        found = self._open.pop((number, split), None)
        if found is None:
            if len(self._open) >= OPEN:
                del self._open[next(iter(self._open))]
            found = np.load(self._path(number, f"{split}.npy"), mmap_mode="r")
        self._open[number, split] = found  # behind the others, the last to be closed
        return found

    def _read(self, number: int) -> Shard | None:
        path = self._path(number, "json")
        try:
            return Shard(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise TextError(f"{path}: damaged ({error}); remove {self.folder}, and it is made again") from error

    def _from(self, documents: int, stretches: int) -> Iterator[Stretch]:
        """Yield the stretches of the source behind so many documents and stretches of the next."""
        for number, document in enumerate(self.source.read(documents, "train")):
            yield from islice(document, stretches if number == 0 else 0, None)

    def _make(self, number: int) -> Shard:
        at = (self._known[-1].documents, self._known[-1].stretches) if number else (0, 0)
        stream = self._reading[1] if self._reading and self._reading[0] == at else self._from(*at)
        self._reading = None  # should it fail, it is begun anew
        made = _Making(self._encode, self._type, self._size, apart=self.source.endless)
        (documents, stretches), last = at, True
        for stretch in stream:
            made.add(stretch)
            documents, stretches = (documents + 1, 0) if stretch.ends else (documents, stretches + 1)
            if made.size >= self._size:
                last = False
                break
        if not documents and not stretches:
            raise TextError(f"text {self.name!r} has no document; name another")
        train, heldout, held_bytes = made.parts(first=number == 0)
        if self.source.endless and number == 0:
            heldout, held_bytes = self._drawn_apart()
        for split, tokens in (("train", train), ("heldout", heldout)):
            with written_aside(self._path(number, f"{split}.npy")) as aside, aside.open("wb") as file:
                np.save(file, tokens)
                file.flush()
                os.fsync(file.fileno())
        shard = Shard(documents, stretches, len(train), len(heldout), held_bytes, last)
        replace_file(self._path(number, "json"), (json.dumps(asdict(shard)) + "\n").encode())
        self._reading = (documents, stretches), stream
        return shard

    def _drawn_apart(self) -> tuple[Ids, int]:
        size = min(self._size, MADE_UP_HELD_OUT)
        made = _Making(self._encode, self._type, size, apart=True)
        for document in self.source.read(0, "heldout"):
            for stretch in document:
                made.add(stretch)
            if made.size >= size:
                break
        tokens, _, _ = made.parts(first=False)
        return tokens, made.bytes


class _Making:
    """The tokens of a shard of ``size`` while its stretches are read. ``apart``: nothing of them is held out."""

    def __init__(self, encode: Encode, kind: type, size: int, apart: bool) -> None:
        self._encode, self._type, self._apart = encode, kind, apart
        self._at_once = min(AT_ONCE, size)
        self._waiting: list[Stretch] = []
        self._bytes_waiting = 0
        self._train: list[Ids] = []
        self._heldout: list[Ids] = []
        self.size = 0
        """Tokens of what was encoded so far."""
        self.bytes = 0
        """Of its text."""
        self._heldout_bytes = 0

    def add(self, stretch: Stretch) -> None:
        """Take a stretch in."""
        self._waiting.append(stretch)
        self._bytes_waiting += 1 + stretch.bytes
        if self._bytes_waiting >= self._at_once:
            self._flush()

    def _flush(self) -> None:
        for stretch, ids in zip(self._waiting, self._encode(self._waiting), strict=True):
            tokens: Ids = np.array(ids, dtype=self._type)
            self.bytes += stretch.bytes
            self.size += len(tokens)
            if not self._apart and seed_of("held out", stretch.text) % HELD_OUT == 0:
                self._heldout.append(tokens)
                self._heldout_bytes += stretch.bytes
            else:
                self._train.append(tokens)
        self._waiting, self._bytes_waiting = [], 0

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
