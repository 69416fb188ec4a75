"""From the arguments of ``k15 train reward`` to a trained model: everything is checked before anything is spent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.reward.config import HeadTrainingConfig
from recipes.reward.data import CLASSES, prepare
from recipes.reward.results import RESULTS, table
from recipes.reward.train import Task, train
from recipes.run.work import in_workspace
from rl.learner.config import PretrainedModel
from rollout.reward_models.card import Card
from rollout.reward_models.reading import Reader, check_fits, vocabulary_digest

WRITTEN = ("model", "best", "checkpoints", "stages", RESULTS)
"""What trainings write into their folder, and remove or replace there."""


@dataclass(frozen=True)
class Order:
    """The arguments of the command."""

    labelled: Path
    """Labelled responses, or a run."""
    heldout: Path | None
    """Others to judge on; ``None``: a share of the questions."""
    base: str
    """Directory or hub name."""
    config: HeadTrainingConfig
    out: Path


def task_of(order: Order) -> Task:
    """Return the training that ``order`` asks for, with every response read.

    Raises ``LabelledError``, ``ExportError`` for an architecture without a sequence classifier, ``ModelPathError``,
    ``PolicyError`` and ``MisfitError``.
    """
    from recipes.commands.eval_models import files_fingerprint
    from rollout.models.classifier import classifier_metadata
    from rollout.models.pretrained import files_of

    described = config_of(order.base)
    classifier_metadata(described, len(CLASSES))
    reader = reader_of(order.base, described, order.config.card)
    parts = prepare(order.labelled, order.heldout, order.config.split, reader)
    source = files_of(order.base)
    told: dict[str, Any] = {
        "base": order.base,
        "base_files": files_fingerprint(source) if source is not None else "",
        "labelled": str(order.labelled),
        "heldout_file": None if order.heldout is None else str(order.heldout),
        "data": parts.digest,
        "config": order.config.model_dump(mode="json"),
    }
    model = order.config.model.model_copy(update={"base": PretrainedModel(path=order.base)})
    return Task(order.config.model_copy(update={"model": model}), order.base, source, reader, parts, order.out, told)


def config_of(base: str) -> Any:
    """Return transformers' configuration of a model. Raises ``ModelPathError``."""
    from transformers import AutoConfig

    from rollout.models.pretrained import loading

    with loading(base):
        return AutoConfig.from_pretrained(base)


def reader_of(base: str, described: Any, card: Card) -> Reader:
    """Return what reads responses for the model ``base``, as ``card`` says. Raises ``ModelPathError``, ``PolicyError``
    and ``MisfitError`` for files that do not go together.
    """
    from transformers import AutoTokenizer

    from rl.learner.policy import check_tokenizer
    from rollout.models.architecture import is_encoder
    from rollout.models.pretrained import check_weights, context_of, loading

    with loading(base):
        tokenizer = AutoTokenizer.from_pretrained(base)
    check_weights(base)
    if not is_encoder(described):
        check_tokenizer(tokenizer, base)
    vocabulary = described.get_text_config().vocab_size
    check_fits(tokenizer, vocabulary, "", base)
    limit = min(card.max_tokens, context_of(described) or card.max_tokens)
    card = card.model_copy(update={"tokenizer": vocabulary_digest(tokenizer), "max_tokens": limit})
    return Reader(card, tokenizer, vocabulary, limit)


def carry_out(order: Order) -> int:
    """Train as ``order`` says, or go on with it, and print the results; returns 0, 1, or 128 + signal.

    Raises as ``task_of``, and ``WorkspaceError`` for a folder that holds another training.
    """
    task = task_of(order)
    return in_workspace(order.out, task.told, WRITTEN, lambda stopper, watch: table(train(task, stopper, watch)))
