"""From the arguments of ``k15 train reward`` to a trained model: everything is checked before anything is spent."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.reward.config import HeadTrainingConfig
from recipes.reward.data import CLASSES, prepare
from recipes.reward.results import table
from recipes.reward.train import Task, train
from recipes.shorten.workspace import Workspace, WorkspaceError
from rl.launch import check_run_dir
from rl.learner.config import PretrainedModel
from rl.state.run_dir import CHANGEABLE, flatten
from rl.stop import Interrupted, Stopper
from rollout.lock import locked
from rollout.progress import progress
from rollout.reward_models.reading import Reader, check_fits, vocabulary_digest


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
    from transformers import AutoConfig, AutoTokenizer

    from recipes.commands.eval_models import files_fingerprint
    from rl.learner.policy import check_tokenizer
    from rollout.models.classifier import classifier_metadata
    from rollout.models.pretrained import check_weights, context_of, files_of, loading

    with loading(order.base):
        described = AutoConfig.from_pretrained(order.base)
        tokenizer = AutoTokenizer.from_pretrained(order.base)
    classifier_metadata(described, len(CLASSES))
    check_weights(order.base)
    check_tokenizer(tokenizer, order.base)
    vocabulary = described.get_text_config().vocab_size
    check_fits(tokenizer, vocabulary, "", order.base)
    card = order.config.card.model_copy(update={"tokenizer": vocabulary_digest(tokenizer)})
    limit = min(card.max_tokens, context_of(described) or card.max_tokens)
    reader = Reader(card.model_copy(update={"max_tokens": limit}), tokenizer, vocabulary, limit)
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


def fixed(config: dict[str, Any]) -> dict[str, Any]:
    """Return the keys, dotted, that a training that goes on must share with the one that began."""
    return {
        key: value
        for key, value in flatten(config).items()
        if not any(key == free or key.startswith(f"{free}.") for free in CHANGEABLE)
    }


def carry_out(order: Order) -> int:
    """Train as ``order`` says, or go on with it, and print the results; returns 0, 1, or 128 + signal.

    Raises as ``task_of``, and ``WorkspaceError`` for a folder that holds another training.
    """
    from transformers.utils.logging import disable_progress_bar

    from recipes.run.failures import EXPECTED, located

    disable_progress_bar()  # loading bars of transformers would tear ours
    task = task_of(order)
    with Stopper() as stopper, locked(order.out, WorkspaceError, "--out"):
        try:
            check_run_dir(order.out.resolve())
            space, name = Workspace(order.out.resolve().parent), order.out.resolve().name
            space.begin(name, task.told | {"config": fixed(task.told["config"])})
            if (note := space.note(name)) is None:
                with progress() as watch:
                    note = table(train(task, stopper, watch))
                space.finish(name, note)
        except Interrupted:
            print(f"k15: stopped; the same command goes on in {order.out}", file=sys.stderr)
            return 128 + (stopper.signal or signal.SIGTERM)
        except WorkspaceError:
            raise
        except EXPECTED as error:
            print(f"k15: {located(error, order.out)}", file=sys.stderr)
            return 1
    print(note)
    return 0
