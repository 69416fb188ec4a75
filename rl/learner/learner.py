"""The learner: a policy, its optimiser, and steps on any objective. Does not use Ray.

A learner of many ranks is one of these in each process, all called alike, in the same order and with the same batches.
Each computes its share of the micro-batches; what they return is the same everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from rl.learner.accumulation import Accumulation
from rl.learner.batch import Batch, Seed, pack_demonstrations, split_by_tokens
from rl.learner.experts import Loads
from rl.learner.forward import PolicyModel, beside, causal_lm, new_head
from rl.learner.labeller import copy_head, labeller
from rl.learner.movement import Watch
from rl.learner.passes import Passed, Passes, divisor_of, opens, step_of, with_signal
from rl.learner.policy import PolicyError, load_model, prepare, use_attention
from rl.learner.qk_clip import Clipped, clipper
from rl.learner.saving import Saver, first_not_finite
from rl.learner.spec import LearnerSpec
from rl.learner.stats import IterationStats, Step, known, of_batch, of_steps
from rl.objectives.build import build
from rl.objectives.config import ClassesConfig
from rl.objectives.copying import with_copying
from rl.objectives.cross_entropy import CrossEntropy
from rl.objectives.protocol import Needs, Objective, Outputs
from rl.objectives.sequences import reference_of
from rl.optim.build import build_optimizer
from rl.optim.shards import local
from rl.state.checkpoint import Sum
from rollout.copying.head import save_head
from rollout.models import moba
from rollout.models.classifier import save_classifier, save_encoder
from rollout.models.export import save_model
from rollout.models.pretrained import files_of
from rollout.models.shards import gathered
from rollout.types import WeightVersion

if TYPE_CHECKING:
    from torch import nn

    from rl.learner.copies import Labeller
    from rl.learner.ranks import Ranks

SCORING = Needs(tempered=False, reference=False)
"""Log-probs at temperature 1."""


class NonFiniteGradients(RuntimeError):
    """Too many steps in a row had NaN or infinite gradients (invariant 7)."""


class Learner:
    """Owns the model and its optimiser. ``model_path``: a Hugging Face directory; weights are loaded in float32.

    ``ranks``: those that it is one of; ``None``: it is alone.

    Raises ``rl.learner.policy.PolicyError`` for a model that cannot be trained, and what ``rl.objectives.build`` does
    for an objective of a user's own.
    """

    def __init__(self, spec: LearnerSpec, model_path: str | Path, ranks: Ranks | None = None) -> None:
        if spec.model.threads:
            torch.set_num_threads(spec.model.threads)
        self.spec = spec
        self.ranks = ranks
        self.device = spec.model.device
        copying = spec.learner.copying
        self.objective = with_copying(build(spec.learner.objective, spec.max_tokens), copying)
        self.supervised = with_copying(CrossEntropy(), copying)
        """What demonstrations are trained on."""
        self.source = files_of(model_path)
        """Directory that the model was loaded from; an export copies some of its files."""
        # Many ranks bring the layers of a model to their devices one by one: it may fit on no single one.
        place = spec.model if ranks is None else spec.model.model_copy(update={"device": "cpu"})
        needs = self.objective.needs
        try:
            loaded, sequence = load_model(model_path), spec.learner.ranks.sequence
            self.model = prepare(loaded, place, spec.seed, spec.longest, sequence, needs.logprobs)
        except PolicyError as error:
            raise PolicyError(str(error) if str(model_path) in str(error) else f"{model_path}: {error}") from error
        self.head = None if needs.head is None else new_head(self.model, needs.head, spec.seed)
        """A head beside the model's own, if the objective asks for one: trained and checkpointed, but exported with
        classifiers only."""
        together = None if ranks is None else ranks.sequence
        self.copying: nn.Linear | None = None
        """The copy head: trained, checkpointed, and exported beside the model; ``None`` when it is off."""
        self.label: Labeller | None = None
        """What labels batches for it."""
        if copying is not None:
            self.copying = copy_head(self.model, self.source, spec.seed)
            self.label = labeller(copying, str(model_path), len(causal_lm(self.model).get_input_embeddings().weight))
        dtype = getattr(torch, spec.model.compute_dtype)
        self.policy = PolicyModel(self.model, dtype, self.head, together, self.copying)
        if ranks is not None:
            from rl.learner.sharding import shard

            shard(self.policy, ranks, spec.learner.ranks.offload)
        self.passes = Passes(self.policy, spec, ranks)
        self._clip = clipper(self.model, spec, self.passes)
        if ranks is not None or self._clip is not None:
            self.enter(0)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        heads = beside(self.head, self.copying)
        self.parameters += [] if heads is None else [*heads.parameters()]
        self.optimizer = build_optimizer(self.model, spec.learner.optimizer, self.device, heads)
        self.saver = Saver(self.model, heads, self.optimizer)
        self.loads = Loads(self.model, self.passes)
        """What experts had to do; of models with biases that share it out."""
        self.bad_streak = 0
        """Steps with non-finite gradients in a row."""
        self._open: Accumulation | None = None
        """The iteration whose sequences come one after the other."""
        lm_head = None if needs.logprobs else causal_lm(self.model).get_output_embeddings()
        self._watch: Watch | None = Watch(self.model, [] if lm_head is None else [*lm_head.parameters()])
        """Checks that the first step moves every parameter; ``None`` afterwards."""

    def enter(self, version: WeightVersion) -> None:
        """Compute attention as configured for the iteration of weights ``version``."""
        use_attention(self.model, self.spec.model, version)

    def begin_iteration(self) -> None:
        """Reset the optimiser: every iteration is a different optimisation problem [2501.12599 §2.3.2]."""
        if self.spec.learner.optimizer.reset_each_iteration:
            self.optimizer.reset()

    def logprobs(self, batch: Batch, objective: Objective | None = None) -> torch.Tensor:
        """Return log-probs [L] of the loss tokens under the present weights, on the micro-batches of a step on
        ``batch``.

        ``objective``: whose units are not to be parted and whose temperature counts; the learner's own without.
        """
        return self.passes.logprobs(batch, objective or self.objective)

    def judged(self, batch: Batch, needs: Needs) -> Outputs:
        """Return hidden states and head outputs of whole sequences under the present weights; see ``Passes.judged``."""
        return self.passes.judged(batch, needs)

    def reference(self, minibatch: Batch) -> Batch:
        """Return ``minibatch`` with log-probs under the present weights.

        The same micro-batches are cut again in training, by the same ranks, so the log-ratio of the first step is
        exactly 0: a different packing would differ in the last bits (invariant 5).
        """
        return replace(minibatch, reference_logprobs=self.logprobs(minibatch))

    def step(self, minibatch: Batch, objective: Objective | None = None, lr: float | None = None) -> Step:
        """Take one optimiser step on a minibatch, which carries its reference log-probs if ``objective`` needs them.

        ``objective``: the learner's own without. ``lr``: as configured, ramp included, without. Raises
        ``NonFiniteGradients`` after ``max_bad_steps`` skipped steps in a row.
        """
        objective = objective or self.objective
        if objective.needs.reference:
            reference_of(minibatch)
        return self._descend(minibatch, objective, divisor_of(minibatch, objective), lr)[0]

    def first_step(self, minibatch: Batch) -> tuple[Step, Batch]:
        """Take the step that opens an iteration; return it and ``minibatch`` with the reference log-probs that it had.

        For objectives that open on the reference: the policy still is its own reference, so the log-probs that carry
        the gradient serve as both: the log-ratio is 0, exactly as if ``reference`` had been called first, and a forward
        pass is saved. While it is 0, sequences without advantage (groups all right or all wrong) have no gradient:
        they count, but are run only if there are no others.
        """
        loud = with_signal(minibatch, self.objective)
        run = loud if len(loud) else minibatch
        return self._descend(run, self.objective, divisor_of(minibatch, self.objective), None, opening=True)

    @torch.no_grad()
    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return the log-prob of each token given those before it, at temperature 1, in nats; [n][len - 1]: none for
        the first.
        """
        lengths = [len(sequence) for sequence in sequences]
        scores: list[list[float]] = [[] for _ in sequences]
        for cut in split_by_tokens(lengths, self.spec.learner.micro_batch_tokens):
            members = [index for index in cut if lengths[index] > 1]
            if not members:
                continue
            batch = pack_demonstrations([(sequences[index][:1], sequences[index][1:]) for index in members])
            logprobs = self.policy(batch.to(self.device), SCORING).logprobs
            for index, values in zip(members, logprobs.split([lengths[i] - 1 for i in members]), strict=True):
                scores[index] = values.tolist()
        return scores

    def train_iteration(self, batch: Batch, seed: Seed) -> IterationStats:
        """Freeze the reference, reset the optimiser, run the configured updates on shares of ``batch``.

        ``seed`` shuffles the sequences into minibatches. An empty batch trains nothing.
        """
        self.begin_iteration()
        minibatches = batch.minibatches(self.spec.learner.updates, seed)
        opening = minibatches[:1] if opens(self.objective) else []
        began = time.perf_counter()
        later = [self._referenced(minibatch) for minibatch in minibatches[len(opening) :]]
        seconds = time.perf_counter() - began
        opened = [self.first_step(minibatch) for minibatch in opening]
        steps = (*(step for step, _ in opened), *(self.step(minibatch) for minibatch in later))
        referenced = [minibatch for _, minibatch in opened]
        referenced += [minibatch for minibatch in later if minibatch.reference_logprobs is not None]
        in_order = [self.passes.in_micro_batch_order(minibatch, self.objective) for minibatch in referenced]
        return self._told(batch, steps, in_order, seconds)

    def accumulate(self, batch: Batch) -> None:
        """Add the gradients of some of an iteration's sequences, the rest of which are still to come.

        Any number of times; ``close_iteration`` then takes the step. They are run when they fill a micro-batch of every
        rank. Nothing but gradients changes, so what is saved meanwhile is the state from before the iteration.
        """
        if self._open is None:
            self.optimizer.zero_grad()
            self._open = Accumulation(self.passes, self.objective)
        self._open.add(batch)

    def close_iteration(self) -> IterationStats:
        """Take the one optimiser step of the iteration whose sequences came through ``accumulate``; none if none came.

        As ``train_iteration`` with one update on all of them together, but for rounding: other micro-batches, and
        gradients that are divided after they were summed.
        """
        done, self._open = self._open or Accumulation(self.passes, self.objective), None
        batch = done.finish()
        self.begin_iteration()
        steps: tuple[Step, ...] = ()
        if len(batch):
            divisor = divisor_of(batch, self.objective)
            for parameter in self.parameters:
                if parameter.grad is not None:
                    local(parameter.grad).div_(divisor)
            steps = (self._step(done.passed, divisor),)
        referenced = [each.batch for each in done.passed if each.batch.reference_logprobs is not None]
        return self._told(batch, steps, referenced, done.reference_s)

    def drop_spent(self) -> None:
        """Drop the gradients that no step will take any more: those of the last step, but not what is accumulated."""
        if self._open is None:
            self.optimizer.zero_grad()

    def abandon(self) -> None:
        """Forget what was accumulated for an iteration that will not be closed; begin another."""
        if self._open is not None:
            self._open = None
            self.optimizer.zero_grad()

    def _told(
        self, batch: Batch, steps: tuple[Step, ...], referenced: Sequence[Batch], seconds: float
    ) -> IterationStats:
        """Return the statistics of an iteration on ``batch``.

        ``referenced``: what of it was run, with reference log-probs. ``seconds``: of reference passes.
        """
        metrics = of_steps(steps) | of_batch(batch, referenced)
        metrics |= {"train/reference_s": seconds} | self._attention_shares(batch)
        metrics |= {f"update_rms/{name}": value for name, value in self.optimizer.update_rms().items() if steps}
        return IterationStats(known(metrics), steps)

    def _referenced(self, minibatch: Batch) -> Batch:
        return self.reference(minibatch) if self.objective.needs.reference else minibatch

    def _attention_shares(self, batch: Batch) -> dict[str, float]:
        if self.spec.model.attention.moba is None or not len(batch):
            return {}
        text = causal_lm(self.model).config.get_text_config()
        density, full = moba.shares(moba.read(text), batch.lengths.tolist(), text.num_hidden_layers)
        return {"attention/density": density, "attention/full_share": full}

    def save(self, folder: str | Path) -> None:
        """Begin to write weights, optimiser, and random states of now into the existing directory ``folder``; see
        ``Saver.start``.

        Raises ``NonFiniteGradients`` rather than write weights that are not finite.
        """
        self._check_finite()
        self.saver.start(Path(folder), self.bad_streak)

    def saving(self) -> bool:
        """Return whether the last save is still being written."""
        return self.saver.saving()

    def saved(self) -> dict[str, Sum]:
        """Return once the last save is written; see ``Saver.wait``."""
        return self.saver.wait()

    def load(self, folder: str | Path) -> None:
        """Restore what ``save`` wrote; with as many ranks, training goes on bit for bit.

        What was accumulated is forgotten. Raises ``rl.learner.storage.LoadError``.
        """
        self.abandon()
        self.bad_streak = self.saver.load(Path(folder))

    def export_hf(self, folder: str | Path, dtype: str = "float32") -> None:
        """Write model files that transformers and vLLM load, adapters merged; the tokenizer is the caller's.

        A copy head is a file beside them. What was trained on classes becomes a sequence classifier with the learner's
        head; of an encoder the head is a file of its own. Of many ranks the first writes what all of them gather, a
        layer at a time. Raises ``rollout.models.export.ExportError``, and ``NonFiniteGradients`` as ``save`` does.
        """
        self._check_finite()
        first = self.ranks is None or self.ranks.first
        if self.head is not None and isinstance(self.spec.learner.objective, ClassesConfig):
            encodes = causal_lm(self.model).get_output_embeddings() is None
            save = save_encoder if encodes else save_classifier
            save(self.model, self.head, Path(folder), dtype, first)
        else:
            save_model(self.model, Path(folder), self.source, dtype, first)
        if self.copying is not None:
            weight, bias = gathered(self.copying.weight), gathered(self.copying.bias)
            if first:
                save_head(weight, bias, Path(folder))

    def _check_finite(self) -> None:
        if name := first_not_finite(self.model):
            raise NonFiniteGradients(f"{name} has NaN or infinite values; refusing to write them")

    def _descend(
        self, minibatch: Batch, objective: Objective, divisor: int, lr: float | None, opening: bool = False
    ) -> tuple[Step, Batch]:
        """Take one optimiser step; return it and ``minibatch`` with the reference log-probs that it had.

        ``opening``: these are those of the passes that carry the gradient.
        """
        if self._open is not None:
            raise RuntimeError("an iteration's gradients are being accumulated: close_iteration or abandon it first")
        self.optimizer.zero_grad()
        passed = self.passes.backward(minibatch, objective, divisor, opening)
        return self._step([passed], divisor, lr), passed.batch

    def _step(self, passed: Sequence[Passed], divisor: int, lr: float | None = None) -> Step:
        """Take an optimiser step on the gradient that ``passed`` left."""
        grad_norm, skipped = self._update(lr)
        return step_of(passed, divisor, grad_norm, skipped, self.optimizer.last_lr, self._clipped(skipped))

    def _clipped(self, skipped: bool) -> Clipped | None:
        """Bound the attention logits after a step, if that is asked for."""
        if self._clip is None:
            return None
        if skipped:
            self._clip.forget()
            return None
        return self._clip.clip()

    def _update(self, lr: float | None) -> tuple[float, bool]:
        """Clip and step; with non-finite gradients leave the weights alone. Return (norm before clipping, skipped)."""
        config = self.spec.learner.optimizer
        norm = whole(torch.nn.utils.clip_grad_norm_(self.parameters, config.grad_clip)).item()
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
                "before them. Lower the learning rate, or resume from an earlier checkpoint"
            )
        return norm, True


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a small tensor whole, also where it is shared out over ranks."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
