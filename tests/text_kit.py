"""Small texts as shards of bytes, for the tests of pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rl.text.documents import Documents
from rl.text.shards import Shards
from rl.text.stretch import Stretch, stretches

END = 256
"""The token that ends a document."""
TEXTS = [f"document {n} " + "word " * (n % 17) for n in range(200)]


def encode(found: Sequence[Stretch]) -> list[list[int]]:
    """Return a token for each byte."""
    return [[*one.text.encode(), *([END] if one.ends and one.text else [])] for one in found]


def of_texts(texts: Sequence[str]) -> Documents:
    """Return a source of these documents."""
    return Documents(lambda start, _: (stretches([text]) for text in texts[start:]), "texts")


def shards(source: Documents, folder: Path, size: int = 300) -> Shards:
    """Return the shards of a source, none of which is made yet."""
    return Shards("prose", source, folder, encode, 257, size)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder of shards."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != ".lock"}


def everything(found: Shards) -> list[int]:
    """Return all tokens to train on of the shards that there are."""
    return [int(token) for number in range(len(found)) for token in found.train(number)]
