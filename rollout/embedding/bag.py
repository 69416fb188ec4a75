"""Responses as vectors without any model: which tokens they have, and which of them follow each other.

Each token, and each pair of neighbours, has a random direction of signs; a response is the mean over its own (random
indexing). Distances are those between the counts themselves, up to chance of about a quarter. Whitening over the
responses of a run then does what latent semantic analysis does: what goes along with each other counts once.

With 64 dimensions the eigenvectors of a covariance take half a millisecond; from 96 on BLAS takes all cores for it, and
a hundred times as long where these have other work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rollout.types import Tokens

Keys = np.ndarray[Any, np.dtype[np.uint64]]
BITS = 32
DIMENSION = 2 * BITS
"""Half of it for tokens, half for pairs."""
START = 2**32 - 1
"""What the first token follows; no token has this number."""


def bags(responses: Sequence[Tokens]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the vectors [n, 64] of responses, each of one token or more. Raises ``ValueError`` for an empty one.

    A function of the tokens alone, the same on every machine; responses of the same tokens have the same vector.
    """
    found = np.empty((len(responses), DIMENSION))
    for row, response in zip(found, responses, strict=True):
        if not len(response):
            raise ValueError("a response without tokens has no vector: leave it out")
        tokens = np.asarray(response).astype(np.uint64)
        before = np.concatenate([np.array([START], np.uint64), tokens[:-1]])
        row[:BITS] = _mean(tokens)
        row[BITS:] = _mean((before << np.uint64(32)) | tokens)
    return found


def _mean(keys: Keys) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the mean [32] of the signs of ``keys``; sums of whole numbers, so that no order of them matters."""
    different, counts = np.unique(keys, return_counts=True)
    ones = np.unpackbits(mixed(different).astype("<u4").view(np.uint8).reshape(-1, BITS // 8), axis=1)
    return 2.0 * (counts @ ones) / len(keys) - 1.0


def mixed(keys: Keys) -> Keys:
    """Return 64 bits that look drawn at random, for each of ``keys``: splitmix64."""
    found = keys + np.uint64(0x9E3779B97F4A7C15)
    found = (found ^ (found >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    found = (found ^ (found >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return found ^ (found >> np.uint64(31))
