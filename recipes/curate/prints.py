"""What the search for duplicates keeps of a text: a few hashes and a MinHash signature, half a kilobyte in all.

Rows do not depend on each other, so shards can be taken apart in any number of processes and put together after.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from datasketch import MinHash
from numpy.typing import NDArray

from recipes.curate.masks import masked, numbers
from recipes.curate.text import NUMBER, digest, template, words
from rollout.files import written_aside

CHUNK = 256
"""Rows whose n-grams are hashed at a time: some 200 KB per permutation."""
ANY_NUMBER = digest(NUMBER)
NO_NUMBERS = digest("")
PAD = 0
"""Token that fills up a text shorter than an n-gram."""
_FACTORS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F], np.uint64)


@dataclass(frozen=True)
class Prints:
    """Columns with one entry per text."""

    canonical: NDArray[np.int64]
    """[n]: digest of ``text.canonical``."""
    template: NDArray[np.int64]
    """[n]: digest of the template; 0 of a text without numbers, which has none."""
    numbers: NDArray[np.int64]
    """[n]: digest of the different numbers, sorted."""
    masked: NDArray[np.int64]
    """[n]: digest of the ``masked`` tokens."""
    signatures: NDArray[np.uint32]
    """[n, permutations]: MinHash of the n-grams of the template."""

    def __len__(self) -> int:
        return len(self.canonical)


def prints(statements: Iterable[object], *, ngram: int, permutations: int) -> Prints:
    """Return what is kept of some texts (strings, or an Arrow array of them), the same in every process."""
    vocabulary: dict[str, int] = {}
    whole, forms, counted, telling, signed = [], [], [], [], []
    waiting: list[list[int]] = []
    seeds = MinHash(permutations, hashfunc=int).permutations
    for statement in statements:
        text = str(statement)
        tokens = words(text)
        whole.append(digest(" ".join(tokens)))
        tokens = masked(text, tokens)
        counted.append(digest(" ".join(sorted(set(numbers(tokens))))))
        telling.append(digest(" ".join(tokens)))
        form = template_hashes(tokens, vocabulary)
        forms.append(digest(repr(form)) if ANY_NUMBER in form else 0)
        waiting.append(form + [PAD] * (ngram - len(form)))
        if len(waiting) == CHUNK:
            signed.append(signatures(waiting, ngram, seeds))
            waiting = []
    if waiting or not signed:
        signed.append(signatures(waiting, ngram, seeds))
    return Prints(
        canonical=np.array(whole, np.int64),
        template=np.array(forms, np.int64),
        numbers=np.array(counted, np.int64),
        masked=np.array(telling, np.int64),
        signatures=np.concatenate(signed),
    )


def concatenated(shards: Sequence[Prints]) -> Prints:
    """Return the columns of all shards, in their order."""
    return Prints(
        canonical=np.concatenate([shard.canonical for shard in shards]),
        template=np.concatenate([shard.template for shard in shards]),
        numbers=np.concatenate([shard.numbers for shard in shards]),
        masked=np.concatenate([shard.masked for shard in shards]),
        signatures=np.concatenate([shard.signatures for shard in shards]),
    )


def save_prints(path: Path, numbers: NDArray[np.int64], taken: Prints) -> None:
    """Write the prints of the rows ``numbers`` [n]. Raises ``OSError``."""
    columns = {field.name: getattr(taken, field.name) for field in fields(Prints)}
    with written_aside(path) as aside, aside.open("wb") as file:
        np.savez(file, of=numbers, **columns)


def load_prints(path: Path, numbers: NDArray[np.int64]) -> Prints:
    """Return the prints of some of the rows that ``save_prints`` had. Raises ``OSError``."""
    with np.load(path) as held:
        at = np.searchsorted(held["of"], numbers)
        return Prints(**{field.name: held[field.name][at] for field in fields(Prints)})


def signatures(texts: Sequence[Sequence[int]], ngram: int, seeds: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the MinHash [n, permutations] of texts given as hashes of tokens, each of at least ``ngram`` of them.

    They are what ``datasketch.MinHash`` computes of ``hashed``, five times as fast: a chunk at a time, one permutation
    (``seeds`` [2, permutations]: factor and summand modulo 2^32) after the other.
    """
    if not texts:
        return np.empty((0, seeds.shape[1]), np.uint32)
    lengths = np.array([len(text) for text in texts])
    tokens = np.array([token for text in texts for token in text], np.int64).astype(np.uint64)
    ends = np.cumsum(lengths)
    inside = np.ones(len(tokens), bool)
    for back in range(1, ngram):
        inside[ends - back] = False  # n-grams that would run into the next text
    grams = finalised(hashed(tokens, ngram)[inside[: len(tokens) - ngram + 1]])
    starts = np.concatenate([[0], np.cumsum(lengths - ngram + 1)[:-1]])
    found = np.empty((len(texts), seeds.shape[1]), np.uint32)
    for column, (factor, summand) in enumerate(seeds.T):
        found[:, column] = np.minimum.reduceat(grams * factor + summand, starts)
    return found


def hashed(tokens: NDArray[np.uint64], ngram: int) -> NDArray[np.uint32]:
    """Return 32 bits for each run of ``ngram`` hashes of tokens; those of one token are spread over all of them."""
    runs = len(tokens) - ngram + 1
    found = np.zeros(runs, np.uint64)
    for place in range(ngram):
        found = (found ^ tokens[place : place + runs]) * _FACTORS[0]
        found ^= found >> np.uint64(29)
    return (found * _FACTORS[1] >> np.uint64(32)).astype(np.uint32)


def finalised(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return MurmurHash3's finaliser of 32-bit hashes, which ``datasketch`` puts before its permutations."""
    values = (values ^ values >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    values = (values ^ values >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return values ^ values >> np.uint32(16)


def template_hashes(tokens: Sequence[str], vocabulary: dict[str, int]) -> list[int]:
    """Return the hashes of the tokens of a template (``text.template``); ``vocabulary`` remembers those of before."""
    found: list[int] = []
    for token in tokens:
        value = vocabulary.get(token)
        if value is None:
            value = vocabulary[token] = digest(template([token])[0])
        if value != ANY_NUMBER or not found or found[-1] != ANY_NUMBER:
            found.append(value)
    return found
