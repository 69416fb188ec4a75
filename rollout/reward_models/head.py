"""The classic reward model at work: a sequence classifier that gives P(right) of a response.

Its own heads have a card beside them; classifiers of other people work without, if their labels say what is right.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from rewards.models.calibration import probabilities
from rollout.config import EngineConfig
from rollout.grading import Answered
from rollout.models.pretrained import context_of, loading, resolve_model
from rollout.reward_models.card import NAME, Card, CardError, read_card
from rollout.reward_models.labelled import RIGHT, WORDS, WRONG
from rollout.reward_models.opinion import Opinion
from rollout.reward_models.reading import Reader, Unreadable, check_fits
from rollout.types import TokenIds
from rollout.user_code import named

if TYPE_CHECKING:
    from rollout.reward_models.config import RewardModelConfig

DEFAULT = EngineConfig(kind="hf")
NOT_FINITE = "its logits are not finite"
CLOSED = Opinion.none("the reward model was closed")
Array = np.ndarray[Any, np.dtype[np.float64]]


class HeadError(ValueError):
    """A sequence classifier cannot be used as a reward model; one line: which, why, what to do."""


class Judges(Protocol):
    """What gives opinions on inputs that are computed together."""

    @property
    def reader(self) -> Reader:
        """From responses to inputs."""

    def opinions(self, inputs: Sequence[TokenIds]) -> list[Opinion]:
        """Return one opinion per input; ``NOT_FINITE`` is the reason of none where values are not finite."""


@dataclass(frozen=True)
class Classifier:
    """A sequence classifier with what it takes to ask it."""

    model: Any
    reader: Reader
    right: int
    """Output that stands for right; with one output its logit is that of right."""

    @torch.no_grad()
    def logits(self, inputs: Sequence[TokenIds]) -> Array:
        """Return [n, outputs] of inputs that are computed together."""
        tokens, mask = padded(inputs, self.model.config.get_text_config().pad_token_id)
        device = self.model.device
        found = self.model(input_ids=tokens.to(device), attention_mask=mask.to(device)).logits
        return found.double().cpu().numpy()  # type: ignore[no-any-return]

    def opinions(self, inputs: Sequence[TokenIds]) -> list[Opinion]:
        """See ``Judges``."""
        rights = self.right_of(self.logits(inputs))
        return [Opinion.none(NOT_FINITE) if np.isnan(p) else Opinion(float(p)) for p in rights]

    def right_of(self, logits: Array) -> Array:
        """Return P(right) [n] of ``logits`` [n, outputs], calibrated; NaN where they are not finite."""
        if logits.shape[1] == 1:
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        return probabilities(logits, self.reader.card.temperature)[:, self.right]


def padded(inputs: Sequence[TokenIds], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and mask [n, longest], padded with ``pad`` at the end."""
    longest = max(len(ids) for ids in inputs)
    tokens = torch.full((len(inputs), longest), pad, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, ids in enumerate(inputs):
        tokens[row, : len(ids)] = torch.from_numpy(np.asarray(ids, np.int64))
        mask[row, : len(ids)] = 1
    return tokens, mask


def load_classifier(path: str, engine: EngineConfig = DEFAULT) -> Classifier:
    """Load a classifier from a directory or the hub, on the device and in the type of ``engine``.

    Raises ``HeadError``, ``CardError``, ``rollout.reward_models.reading.MisfitError`` and ``ModelPathError``.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # loading bars of transformers would tear ours
    found = resolve_model(path)
    card = _card(found)
    if card is not None and card.kind != "head":
        raise CardError(f"{path}: its {NAME} says that it is a {card.kind}, not a head")
    dtype = getattr(torch, engine.dtype)
    with loading(found):
        tokenizer = AutoTokenizer.from_pretrained(found)
        model, told = AutoModelForSequenceClassification.from_pretrained(found, dtype=dtype, output_loading_info=True)
    if lacking := sorted(told["missing_keys"]):
        raise HeadError(
            f"{path}: no trained sequence classifier: its files lack {lacking[0]}; `k15 train reward` trains one"
        )
    text = model.config.get_text_config()
    if text.pad_token_id is None:
        text.pad_token_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = text.pad_token_id
    vocabulary = model.get_input_embeddings().weight.shape[0]
    check_fits(tokenizer, vocabulary, card.tokenizer if card else "", path)
    right = right_output(model.config.num_labels, card.classes if card else _labels(model.config), path)
    card = card or Card(kind="head")
    limit = min(card.max_tokens, context_of(model.config) or card.max_tokens)
    return Classifier(model.to(engine.device).eval(), Reader(card, tokenizer, vocabulary, limit), right)


def right_output(outputs: int, names: Sequence[str], where: str) -> int:
    """Return which of a classifier's outputs stands for right; of a single one 1, behind the 0 of wrong.

    Raises ``HeadError`` when their names do not tell.
    """
    if outputs == 1:
        return 1
    said = [WORDS.get(name.casefold(), name) for name in names]
    if outputs == len(said) == 2 and {RIGHT, WRONG} == set(said):
        return said.index(RIGHT)
    raise HeadError(
        f"{where}: {outputs} outputs called {', '.join(names)}; a head has one, or two called {WRONG} and {RIGHT}: "
        f'name them in id2label of its config.json, or beside it in {NAME}: {{"kind": "head", "classes": ["{WRONG}", '
        f'"{RIGHT}"]}}'
    )


def _card(path: str) -> Card | None:
    """Return the card beside a model, also on the hub."""
    from transformers.utils import cached_file

    if Path(path).is_dir():
        return read_card(Path(path))
    with loading(path):
        file = cached_file(path, NAME, _raise_exceptions_for_missing_entries=False)
    return read_card(Path(file).parent) if file else None


def _labels(config: Any) -> list[str]:
    return [str(config.id2label[index]) for index in range(config.num_labels)]


@dataclass(frozen=True)
class _Job:
    """What one call of ``judge`` waits for."""

    answers: Sequence[Answered]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Sequence[Opinion]]

    def deliver(self, opinions: Sequence[Opinion]) -> None:
        """Hand the opinions to the waiting event loop, unless it has ended or given up."""

        def settle() -> None:
            if not self.done.done():
                self.done.set_result(opinions)

        try:
            self.loop.call_soon_threadsafe(settle)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return


class HeadModel:
    """Implements ``RewardModel`` with a classifier, or a verifier, that runs on a thread of its own.

    What waits is computed together, by length, at most ``batch_tokens`` at a time, padding included.
    """

    def __init__(self, classifier: Judges, batch_tokens: int = 8192, threads: int = 0) -> None:
        self.classifier = classifier
        self._batch_tokens = batch_tokens
        self._threads = threads
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="reward-head", daemon=True)
        self._thread.start()

    async def judge(self, answers: Sequence[Answered]) -> Sequence[Opinion]:
        """See ``RewardModel``."""
        loop = asyncio.get_running_loop()
        job = _Job(answers, loop, loop.create_future())
        with self._lock:
            if self._closed:
                return [CLOSED] * len(answers)
            self._jobs.put(job)
        return await job.done

    def counts(self) -> dict[str, float]:
        """Responses asked about and read, batches, tokens and seconds of the forward passes; ``no_answer``: wrong
        without being read; without an opinion by cause: ``too_long``, ``unencodable``, ``not_finite``, ``failed``,
        and of verifiers ``abstained``.
        """
        with self._lock:
            return {name: float(value) for name, value in self._counts.items()}

    def close(self) -> None:
        """End the thread once it is through with what it computes; what waits has no opinion. Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)

    def _work(self) -> None:
        if self._threads:
            torch.set_num_threads(self._threads)
        while (jobs := self._waiting()) is not None:
            answers = [answer for job in jobs for answer in job.answers]
            try:
                opinions = iter(self._opinions(answers))
            except BaseException as error:  # noqa: BLE001  whoever waits must hear of it, even of a tokenizer's panic
                self._count(failed=len(answers))
                opinions = iter([Opinion.none(named(error))] * len(answers))
            for job in jobs:
                job.deliver([next(opinions) for _ in job.answers])

    def _waiting(self) -> list[_Job] | None:
        """Return all jobs that wait, at least one; ``None`` when the model was closed."""
        found = []
        job = self._jobs.get()
        while job is not None:
            found.append(job)
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return found
        for left in found:  # the end was asked for behind them
            left.deliver([CLOSED] * len(left.answers))
        return None

    def _opinions(self, answers: Sequence[Answered]) -> list[Opinion]:
        found: dict[int, Opinion] = {}
        inputs: dict[int, TokenIds] = {}
        for index, answer in enumerate(answers):
            try:
                inputs[index] = self.classifier.reader.read(answer.problem.prompt, answer.problem.answer, answer.text)
            except Unreadable as fault:
                # Without an answer a response is wrong, to any grader; of what cannot be read nothing is known.
                found[index] = Opinion(0.0 if fault.kind == "no_answer" else None, str(fault))
                self._count(**{fault.kind: 1})
        for cut in by_length({index: len(ids) for index, ids in inputs.items()}, self._batch_tokens):
            found |= zip(cut, self._batch([inputs[index] for index in cut]), strict=True)
        self._count(asked=len(answers), read=len(inputs))
        return [found[index] for index in range(len(answers))]

    def _batch(self, inputs: Sequence[TokenIds]) -> list[Opinion]:
        if self._closed:
            return [CLOSED] * len(inputs)
        began = time.perf_counter()
        try:
            found = self.classifier.opinions(inputs)
        except Exception as error:  # noqa: BLE001  the named boundary to the model: out of memory, say; counted
            self._count(failed=len(inputs))
            return [Opinion.none(named(error))] * len(inputs)
        without = [one.reason for one in found if one.right is None]
        lost, tokens = without.count(NOT_FINITE), sum(len(ids) for ids in inputs)
        self._count(batches=1, tokens=tokens, not_finite=lost, seconds=time.perf_counter() - began)
        if len(without) > lost:
            self._count(abstained=len(without) - lost)
        return found

    def _count(self, **counts: float) -> None:
        with self._lock:
            for name, value in counts.items():
                self._counts[name] += value  # type: ignore[assignment]


def by_length(lengths: Mapping[int, int], batch_tokens: int) -> Iterable[list[int]]:
    """Yield the keys of ``lengths`` in batches by length: their number times the longest is at most
    ``batch_tokens``, but for a single one that is longer.
    """
    batch: list[int] = []
    for key in sorted(lengths, key=lambda one: (lengths[one], one)):
        if batch and (len(batch) + 1) * lengths[key] > batch_tokens:
            yield batch
            batch = []
        batch.append(key)
    if batch:
        yield batch


def load_head(path: str, config: RewardModelConfig) -> HeadModel:
    """Load the head at ``path`` as ``config`` says and begin to serve it. Raises as ``load_classifier``."""
    engine = config.engine or DEFAULT
    return HeadModel(load_classifier(path, engine), engine.max_batched_tokens, engine.threads)
