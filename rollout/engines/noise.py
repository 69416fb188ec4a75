"""Draws tokens for a whole batch at once, from noise that depends on a request's seed and a token's position alone.

A random generator for each request would be state to keep, and a call (on a GPU a kernel) for each of them at every
step. Here the noise is a hash of (seed, position), SplitMix64, and one number for each row chooses its token by
inverting the row's distribution. Whatever else is in the batch, however a response is cut into stretches, and whether
tokens are drawn one by one or several at a time as a guess is verified: the noise is the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import pad

BITS = 48
"""Random bits of a draw: with that many, the largest times any total stays below the total in float64."""
BELOW_ONE = 1.0 - 2.0**-52

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return SplitMix64's output function: a permutation of 64-bit words in which every bit depends on every bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Return a number of [0, 1) for each pair of a seed and the index that the drawn token will have, prompt included.

    Each seed has a SplitMix64 stream of its own, and the position counts in it. [n], [n] -> [n].
    """
    words = _mixed(_mixed(seeds + _GOLDEN) + (positions.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (words >> np.uint64(64 - BITS)) / 2.0**BITS


def choose(
    logits: torch.Tensor, noise: torch.Tensor, fixed: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each row the token that ``noise`` points to in the softmax of its logits, and its log-prob in nats.

    A token's chance is its probability to 1e-6 of itself, and exactly 0 where the logit is -inf. Where ``fixed``
    names a token (not -1), that one is taken. Float32 [n, V] logits, float64 [n] noise of [0, 1), int64 [n] ->
    int64 [n], float32 [n].
    """
    top = logits.amax(-1, keepdim=True)
    weights = (logits - top).exp_()
    # Two short searches, first among the sums of blocks and then in one block, instead of one along the vocabulary.
    size = 1 << (weights.shape[1].bit_length() // 2)
    blocks = pad(weights, (0, -weights.shape[1] % size)).unflatten(1, (-1, size))
    block_edges = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    total = block_edges[:, -1:]
    target = noise[:, None] * total
    block = _first_above(block_edges, target)
    before = block_edges.gather(1, (block - 1).clamp(min=0)) * (block > 0)
    edges = blocks.gather(1, block[:, :, None].expand(-1, -1, size))[:, 0].cumsum(-1, dtype=torch.float64)
    token = block * size + _first_above(edges, target - before)
    if fixed is not None:
        token = torch.where(fixed[:, None] < 0, token, fixed[:, None])
    logprob = logits.gather(1, token) - top - total.log().float()
    return token[:, 0], logprob[:, 0]


def _first_above(edges: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the first index in each rising row of ``edges`` [n, m] whose value is above ``target``, kept below the
    row's end: the same mass summed in another order may differ in its last bits. [n, m], [n, 1] -> [n, 1].
    """
    return (edges <= target.minimum(edges[:, -1:] * BELOW_ONE)).sum(-1, keepdim=True)
