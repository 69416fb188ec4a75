"""The k1.5 policy objective [2501.12599 §2.3]: advantages and the surrogate loss. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

Baseline = Literal["mean", "exp_mean"]
Level = Literal["token", "sequence"]
LengthNorm = Literal["none", "response", "max_tokens"]


def baseline_value(rewards: Sequence[float], baseline: Baseline, tau: float) -> float:
    """tau log Z of one problem, estimated from its k rewards [2501.12599 §2.3.2].

    ``mean``: their mean, the paper's choice and the limit of tau to infinity. ``exp_mean``: tau log mean exp(r / tau),
    the exact form; the maximum is taken out so that small tau cannot overflow.
    """
    if baseline == "mean":
        return math.fsum(rewards) / len(rewards)
    top = max(rewards)
    return top + tau * math.log(math.fsum(math.exp((r - top) / tau) for r in rewards) / len(rewards))


def advantages(rewards: Sequence[float | None], baseline: Baseline = "mean", tau: float = 0.01) -> list[float | None]:
    """A_j = r_j - tau log Z for the k total rewards of one problem [2501.12599 eq. 3].

    ``None`` marks a masked rollout: it gets no advantage and does not enter the baseline. With fewer than two rewards
    left there is nothing to compare (the mean would make A = 0 always) and every entry is ``None``.
    """
    known = [r for r in rewards if r is not None]
    if len(known) < 2:
        return [None] * len(rewards)
    level = baseline_value(known, baseline, tau)
    return [None if r is None else r - level for r in rewards]


@dataclass(frozen=True)
class SequenceLoss:
    """The surrogate of some sequences, and what the log needs of them. n: sequences."""

    loss: torch.Tensor
    """Scalar: the sum over the sequences of l_j / norm_j. The caller divides by the minibatch's sequence count."""
    log_ratio: torch.Tensor
    """[n] Delta_j = log pi_theta - log pi_reference, summed over the loss tokens, in nats; detached."""
    saturated: torch.Tensor
    """[n] bool: the regulariser outweighs the advantage, A_j (A_j - tau Delta_j) < 0; detached."""


def policy_loss(
    logprobs: torch.Tensor,
    reference: torch.Tensor,
    sequence: torch.Tensor,
    advantage: torch.Tensor,
    norm: torch.Tensor,
    tau: float,
    weight: torch.Tensor | None = None,
) -> SequenceLoss:
    """l_j = -A_j log pi_theta(o_j) + tau/2 Delta_j^2 over the loss tokens [2501.12599 eq. 3].

    ``logprobs`` [T] with gradient and ``reference`` [T]: log-probs of the loss tokens under the policy and under the
    policy frozen at the start of the iteration. ``sequence`` [T] ints: the sequence that each token belongs to.
    ``advantage`` [n] and ``norm`` [n]: A_j, and what l_j is divided by (1 in the paper). Log-ratios are summed over
    tokens and never divided by the length inside the square: that would change tau with the length. ``weight`` [T]
    scales each token's share of the gradient, not the loss as told: see ``importance_weights``.
    """
    if weight is not None:
        logprobs = torch.lerp(logprobs.detach(), logprobs, weight)
    n = advantage.shape[0]
    log_pi = logprobs.new_zeros(n).index_add(0, sequence, logprobs)
    delta = logprobs.new_zeros(n).index_add(0, sequence, logprobs - reference)
    losses = -advantage * log_pi + 0.5 * tau * delta.square()
    log_ratio = delta.detach()
    return SequenceLoss((losses / norm).sum(), log_ratio, advantage * (advantage - tau * log_ratio) < 0)


def importance_weights(
    reference: torch.Tensor, sampler: torch.Tensor, sequence: torch.Tensor, n: int, cap: float, level: Level
) -> torch.Tensor:
    """Truncated importance weights min(cap, pi_i / mu) [T] of the loss tokens, without gradient.

    The identity behind the loss holds for samples of any policy
    [2501.12599 §2.3.2], its expectation is over the policy that
    sampled: an engine in another type, or older weights, as told by the log-probs that it recorded. ``reference`` and
    ``sampler`` [T]: log-probs under the frozen policy and of the sampler. ``sequence`` [T]: as in ``policy_loss``, n
    sequences. ``sequence`` level weighs all tokens of a response by the ratio of its whole probability: without bias
    below the cap, and of a variance that grows with the length.
    """
    ratio = (reference - sampler).detach()
    if level == "sequence":
        ratio = ratio.new_zeros(n).index_add(0, sequence, ratio)[sequence]
    return ratio.exp().clamp(max=cap)


def effective_share(weights: torch.Tensor) -> float:
    """Effective sample size over sample size, (sum w)^2 / (n sum w^2): 1 for equal weights. NaN without any."""
    return (weights.sum().square() / (len(weights) * weights.square().sum())).item() if len(weights) else math.nan


def length_norms(response_tokens: torch.Tensor, kind: LengthNorm, max_tokens: int) -> torch.Tensor:
    """What each sequence's loss is divided by: 1 (the paper), its loss tokens, or the cap of a response.

    ``response_tokens`` [n]: tokens that carry loss, at least 1. Without division long responses dominate the gradient.
    """
    if kind == "response":
        return response_tokens.to(torch.float32)
    divisor = float(max_tokens) if kind == "max_tokens" else 1.0
    return torch.full(response_tokens.shape, divisor, device=response_tokens.device)
