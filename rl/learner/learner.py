"""The learner: policy, optimiser, and one iteration of k1.5's online mirror descent
[2501.12599 §2.3.2]. Knows no Ray.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights

from rl.config import RunConfig
from rl.learner.batch import Batch, PackCounts, Seed, cumulative, pack_demonstrations, split_by_tokens
from rl.learner.forward import causal_lm, packed_logprobs
from rl.learner.movement import Watch
from rl.learner.policy import PolicyError, load_model, prepare, use_attention
from rl.objectives.mirror_descent import SequenceLoss, effective_share, importance_weights, length_norms, policy_loss
from rl.optim.muon import build_optimizer
from rollout.models import moba
from rollout.models.export import save_model
from rollout.models.pretrained import files_of
from rollout.types import Tokens, WeightVersion


class NonFiniteGradients(RuntimeError):
    """Too many steps in a row had NaN or infinite gradients (invariant 7)."""


@dataclass(frozen=True)
class StepMetrics:
    """One optimiser step. Log-ratios are those of the forward pass, before the step's own update."""

    loss: float
    """The surrogate per sequence, as minimised."""
    grad_norm: float
    """Global norm before clipping; NaN or infinite when the step was skipped."""
    skipped: bool
    """True when the gradients were not finite: the weights did not change."""
    logratio_mean: float
    """Mean over sequences of Delta = log pi_theta - log pi_i, in nats per sequence [2501.12599 eq. 3]."""
    logratio_std: float
    """Standard deviation over sequences."""
    logratio_max: float
    """Largest absolute value over sequences."""
    logratio_per_token: float
    """Sum of absolute log-ratios over the trained tokens, in nats per token."""
    saturated: float
    """Share of sequences on which the regulariser outweighs the advantage."""
    entropy: float
    """Mean entropy of the next-token distribution at trained tokens, in nats."""
    sequences: int
    """Sequences in the minibatch."""
    tokens: int
    """Tokens that carried loss."""
    lr: float
    """Learning rate, ramp included; 0 when the step was skipped."""


@dataclass(frozen=True)
class IterationStats:
    """One iteration of training."""

    steps: tuple[StepMetrics, ...]
    """Empty when nothing was trainable."""
    gap_mean: float
    """Mean |sampler - learner| log-prob over trained tokens of the current version, in nats; NaN without any."""
    gap_max: float
    """Largest such difference."""
    update_rms: dict[str, float]
    """RMS of the last step's update over the learning rate: ``muon`` (0.2 by design) and ``adamw``."""
    counts: PackCounts
    """What ``pack`` kept and left out."""
    tokens: int
    """Tokens that carried loss."""
    seconds: float
    """Wall time of reference and updates together."""
    density: float | None = None
    """Share of full causal attention computed for the batch, over all layers; ``None`` without block attention."""
    full_share: float | None = None
    """Share of the batch's tokens that see their whole past in the block layers; ``None`` without block attention."""
    importance_mean: float | None = None
    """Mean importance weight of the trained tokens; ``None`` without ``learner.objective.importance``."""
    importance_ess: float | None = None
    """Effective sample size over their number."""

    @property
    def skipped(self) -> int:
        """Steps skipped for non-finite gradients."""
        return sum(step.skipped for step in self.steps)


class Learner:
    """Owns the model and its optimiser. ``model_path``: a Hugging Face directory; weights are loaded in float32.

    Raises ``rl.learner.policy.PolicyError`` for a model that cannot be trained.
    """

    def __init__(self, config: RunConfig, model_path: str | Path) -> None:
        if config.model.threads:
            torch.set_num_threads(config.model.threads)
        self.config = config
        self.device = config.model.device
        self.compute_dtype: torch.dtype = getattr(torch, config.model.compute_dtype)
        self.source = files_of(model_path)
        """Directory of the files that the model was loaded from; some go along with an export."""
        try:
            self.model = prepare(load_model(model_path), config.model, config.seed, config.engine.max_model_len)
        except PolicyError as error:
            raise PolicyError(str(error) if str(model_path) in str(error) else f"{model_path}: {error}") from error
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.model, config.learner.optimizer, self.device)
        self.bad_streak = 0
        """Steps with non-finite gradients in a row."""
        self._watch: Watch | None = Watch(self.model)
        """Until the first step has moved what it should."""

    def enter(self, version: WeightVersion) -> None:
        """Compute attention as configured for the iteration of weights ``version``."""
        use_attention(self.model, self.config.model, version)

    def begin_iteration(self) -> None:
        """A fresh optimiser: every iteration is a different optimisation problem [2501.12599 §2.3.2]."""
        if self.config.learner.optimizer.reset_each_iteration:
            self.optimizer.reset()

    @torch.no_grad()
    def reference(self, minibatch: Batch) -> Batch:
        """``minibatch`` with log-probs under the present weights, and with its sequences in micro-batch order.

        The same micro-batches are cut again in training, so the log-ratio of the first step is exactly 0: a different
        packing would differ in the last bits (invariant 5).
        """
        ordered = self._in_micro_batch_order(minibatch)
        parts = ordered.micro_batches(self.config.learner.micro_batch_tokens)
        return replace(ordered, reference_logprobs=torch.cat([self._logprobs(part)[0].cpu() for part in parts]))

    def step(self, minibatch: Batch) -> StepMetrics:
        """One optimiser step on a minibatch that carries its reference log-probs.

        Raises ``NonFiniteGradients`` after ``max_bad_steps`` skipped steps in a row.
        """
        if minibatch.reference_logprobs is None:
            raise ValueError("minibatch has no reference log-probs: call Learner.reference on it first")
        return self._descend(minibatch)[0]

    def first_step(self, minibatch: Batch) -> tuple[StepMetrics, Batch]:
        """The step that opens an iteration, and ``minibatch`` with the reference log-probs that it had.

        The policy is still its own reference, so the log-probs that carry the gradient serve as both: the log-ratio is
        0, exactly as if ``reference`` had been called first, and a forward pass is saved. While it is 0, sequences
        without advantage (groups all right or all wrong) have no gradient: they count, but are run only if there are
        no others.
        """
        with_signal = minibatch.select(minibatch.advantages.nonzero().flatten().tolist())
        ordered = self._in_micro_batch_order(with_signal if len(with_signal) else minibatch)
        metrics, logprobs = self._descend(ordered)
        return metrics, replace(ordered, reference_logprobs=logprobs)

    def sft_step(self, pairs: Sequence[tuple[Tokens, Tokens]], lr: float) -> float:
        """One optimiser step on (prompt ids, response ids) pairs; returns the loss in nats per response token.

        Masked cross-entropy, divided by the response tokens of the whole batch however it is cut [2501.12599 §2.2].
        """
        batch = pack_demonstrations(pairs)
        tokens = int(batch.loss_mask.sum())
        self.optimizer.zero_grad()
        total = 0.0
        for part in batch.micro_batches(self.config.learner.micro_batch_tokens):
            loss = -self._logprobs(part, temperature=1.0)[0].sum() / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        self._update(lr)
        return total

    @torch.no_grad()
    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-prob of each token given those before it, at temperature 1, in nats; [n][len - 1]: none for the first."""
        lengths = [len(sequence) for sequence in sequences]
        scores: list[list[float]] = [[] for _ in sequences]
        for cut in split_by_tokens(lengths, self.config.learner.micro_batch_tokens):
            members = [index for index in cut if lengths[index] > 1]
            if not members:
                continue
            tokens = torch.tensor([token for index in members for token in sequences[index]])
            cu_seqlens = cumulative([lengths[index] for index in members])
            follows = torch.ones(len(tokens), dtype=torch.bool)
            follows[cu_seqlens[:-1].long()] = False
            targets = follows.nonzero().flatten()
            tokens, cu_seqlens, targets = (part.to(self.device) for part in (tokens, cu_seqlens, targets))
            logprobs, _ = packed_logprobs(self.model, tokens, cu_seqlens, targets, compute_dtype=self.compute_dtype)
            for index, values in zip(members, logprobs.split([lengths[i] - 1 for i in members]), strict=True):
                scores[index] = values.tolist()
        return scores

    def train_iteration(self, batch: Batch, seed: Seed) -> IterationStats:
        """Freeze the reference, reset the optimiser, run the configured updates on shares of ``batch``.

        ``seed`` shuffles the sequences into minibatches. An empty batch trains nothing.
        """
        started = time.perf_counter()
        self.begin_iteration()
        minibatches = batch.minibatches(self.config.learner.updates, seed)
        later = [self.reference(minibatch) for minibatch in minibatches[1:]]
        opening = [self.first_step(minibatch) for minibatch in minibatches[:1]]
        referenced = [minibatch for _, minibatch in opening] + later
        gaps = torch.cat([sampler_gaps(minibatch) for minibatch in referenced]) if referenced else torch.empty(0)
        weights = [weight for each in referenced if (weight := self._importance(each)) is not None]
        steps = (*(metrics for metrics, _ in opening), *(self.step(minibatch) for minibatch in later))
        density, full_share = self._attention_shares(batch)
        return IterationStats(
            steps=steps,
            gap_mean=gaps.mean().item() if len(gaps) else float("nan"),
            gap_max=gaps.max().item() if len(gaps) else float("nan"),
            update_rms=self.optimizer.update_rms() if steps else {},
            counts=batch.counts,
            tokens=sum(step.tokens for step in steps),
            seconds=time.perf_counter() - started,
            density=density,
            full_share=full_share,
            importance_mean=torch.cat(weights).mean().item() if weights else None,
            importance_ess=effective_share(torch.cat(weights)) if weights else None,
        )

    def _attention_shares(self, batch: Batch) -> tuple[float | None, float | None]:
        if self.config.model.attention.moba is None or not len(batch):
            return None, None
        text = causal_lm(self.model).config.get_text_config()
        return moba.shares(moba.read(text), batch.lengths.tolist(), text.num_hidden_layers)

    def save(self, folder: str | Path) -> None:
        """Weights, optimiser, and random states into the existing directory ``folder``.

        Raises ``NonFiniteGradients`` rather than write weights that are not finite.
        """
        for name, parameter in self.model.named_parameters():
            if not parameter.isfinite().all():
                raise NonFiniteGradients(f"{name} has NaN or infinite values; refusing to checkpoint them")
        folder = Path(folder)
        save_weights(self.model, str(folder / "model.safetensors"))
        torch.save({"optimizer": self.optimizer.state_dict(), "bad_streak": self.bad_streak}, folder / "optimizer.pt")
        torch.save(_random_states(), folder / "random.pt")

    def load(self, folder: str | Path) -> None:
        """Inverse of ``save``: training goes on bit for bit."""
        folder = Path(folder)
        load_weights(self.model, folder / "model.safetensors", device=self.device)
        state = torch.load(folder / "optimizer.pt", map_location=self.device, weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        self.bad_streak = state["bad_streak"]
        _restore_random_states(torch.load(folder / "random.pt", weights_only=True))

    def export_hf(self, folder: str | Path, dtype: str = "float32") -> None:
        """Model files that transformers and vLLM load, adapters merged; the tokenizer is the caller's.

        Raises ``rollout.models.export.ExportError``.
        """
        save_model(self.model, Path(folder), self.source, dtype)

    def _in_micro_batch_order(self, minibatch: Batch) -> Batch:
        """``minibatch`` with its sequences in the order in which its micro-batches take them."""
        cuts = split_by_tokens(minibatch.lengths.tolist(), self.config.learner.micro_batch_tokens)
        return minibatch.select([index for cut in cuts for index in cut])

    def _descend(self, minibatch: Batch) -> tuple[StepMetrics, torch.Tensor]:
        """One optimiser step, and the log-probs [m] of the loss tokens before it (detached, CPU).

        Without reference log-probs these are the reference.
        """
        self.optimizer.zero_grad()
        losses: list[SequenceLoss] = []
        entropies: list[torch.Tensor] = []
        before: list[torch.Tensor] = []
        for part in minibatch.micro_batches(self.config.learner.micro_batch_tokens):
            logprobs, entropy = self._logprobs(part)
            before.append(logprobs.detach().cpu())
            known = part.reference_logprobs is not None
            anchored = part if known else replace(part, reference_logprobs=before[-1])
            result = self._loss(anchored.to(self.device), logprobs)
            (result.loss / minibatch.total).backward()  # type: ignore[no-untyped-call]
            losses.append(replace(result, loss=result.loss.detach()))
            entropies.append(entropy)
        grad_norm, skipped = self._update(None)
        return self._step_metrics(minibatch, losses, torch.cat(entropies), grad_norm, skipped), torch.cat(before)

    def _logprobs(self, part: Batch, temperature: float | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs and entropies [L] of the loss tokens, at the temperature that they were sampled at."""
        return packed_logprobs(
            self.model,
            part.tokens.to(self.device),
            part.cu_seqlens.to(self.device),
            part.positions.to(self.device),
            temperature=self.config.rollout.temperature if temperature is None else temperature,
            compute_dtype=self.compute_dtype,
        )

    def _loss(self, part: Batch, logprobs: torch.Tensor) -> SequenceLoss:
        objective = self.config.learner.objective
        assert part.reference_logprobs is not None
        norm = length_norms(part.loss_lengths, objective.length_norm, self.config.rollout.max_tokens)
        weight = self._importance(part)
        return policy_loss(
            logprobs, part.reference_logprobs, part.sequence, part.advantages, norm, objective.tau, weight
        )

    def _importance(self, part: Batch) -> torch.Tensor | None:
        """Weights [L] of the loss tokens of a batch that carries its reference log-probs; ``None``: not configured."""
        chosen = self.config.learner.objective.importance
        if chosen is None:
            return None
        assert part.reference_logprobs is not None
        return importance_weights(
            part.reference_logprobs, part.sampled_logprobs, part.sequence, len(part), chosen.cap, chosen.level
        )

    def _update(self, lr: float | None) -> tuple[float, bool]:
        """Clip and step; with non-finite gradients leave the weights alone. Returns (norm before clipping, skipped)."""
        config = self.config.learner.optimizer
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.grad_clip).item()
        if np.isfinite(norm):
            watch, self._watch = (self._watch, None) if norm > 0 else (None, self._watch)
            if watch is not None:
                watch.before()
            self.optimizer.step(lr)
            if watch is not None:
                watch.after(self.optimizer.last_lr * min(1.0, config.adamw_lr_scale))
            self.bad_streak = 0
            return norm, False
        self.bad_streak += 1
        if self.bad_streak >= config.max_bad_steps:
            raise NonFiniteGradients(
                f"{self.bad_streak} optimiser steps in a row had gradients of norm {norm}; the weights are those from "
                "before them. Lower learner.optimizer.lr, or resume from an earlier checkpoint"
            )
        return norm, True

    def _step_metrics(
        self, minibatch: Batch, losses: list[SequenceLoss], entropy: torch.Tensor, grad_norm: float, skipped: bool
    ) -> StepMetrics:
        log_ratio = torch.cat([part.log_ratio for part in losses])
        tokens = len(entropy)
        return StepMetrics(
            loss=sum(part.loss.item() for part in losses) / minibatch.total,
            grad_norm=grad_norm,
            skipped=skipped,
            logratio_mean=log_ratio.mean().item(),
            logratio_std=log_ratio.std(correction=0).item(),
            logratio_max=log_ratio.abs().max().item(),
            logratio_per_token=log_ratio.abs().sum().item() / tokens,
            saturated=torch.cat([part.saturated for part in losses]).float().mean().item(),
            entropy=entropy.mean().item(),
            sequences=len(minibatch),
            tokens=tokens,
            lr=0.0 if skipped else self.optimizer.last_lr,
        )


def sampler_gaps(minibatch: Batch) -> torch.Tensor:
    """|sampler - learner| log-prob [m] of the trained tokens that the present weights sampled, in nats."""
    if minibatch.reference_logprobs is None:
        raise ValueError("minibatch has no reference log-probs: call Learner.reference on it first")
    difference = (minibatch.sampled_logprobs - minibatch.reference_logprobs).abs()
    return difference[minibatch.current[minibatch.loss_mask]]


def _random_states() -> dict[str, Any]:
    """States of torch's (CPU), Python's and numpy's global generators as plain values and tensors."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)
    numpy_state = [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest]
    return {"torch": torch.get_rng_state(), "python": [version, list(words), gauss], "numpy": numpy_state}


def _restore_random_states(states: dict[str, Any]) -> None:
    version, words, gauss = states["python"]
    kind, keys, *rest = states["numpy"]
    torch.set_rng_state(states["torch"])
    random.setstate((version, tuple(words), gauss))
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
