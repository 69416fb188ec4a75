"""From the arguments of ``k15 train verifier`` to a trained model: everything is checked before anything is spent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.reward.order import WRITTEN, config_of, reader_of
from recipes.reward.verifier import VerifierTask, train
from recipes.reward.verifier_config import VerifierTrainingConfig
from recipes.reward.verifier_data import prepare
from recipes.reward.verifier_results import table
from recipes.run.work import in_workspace
from rl.learner.config import PretrainedModel


@dataclass(frozen=True)
class VerifierOrder:
    """The arguments of the command."""

    labelled: Path
    """Few responses with outcomes."""
    unlabelled: Path
    """Many without, or a run."""
    heldout: Path | None
    """Others with outcomes, to judge on; ``None``: a share of the labelled ones."""
    base: str
    """Directory or hub name."""
    config: VerifierTrainingConfig
    out: Path


def task_of(order: VerifierOrder) -> VerifierTask:
    """Return the training that ``order`` asks for, with every response read.

    Raises ``LabelledError``, ``ExportError`` for an architecture without a sequence classifier, ``ModelPathError``,
    ``PolicyError`` and ``MisfitError``.
    """
    from recipes.commands.eval_models import files_fingerprint
    from rl.learner.policy import PolicyError
    from rollout.models.architecture import is_encoder
    from rollout.models.classifier import classifier_metadata
    from rollout.models.pretrained import files_of

    described, config = config_of(order.base), order.config
    if not is_encoder(described):
        classifier_metadata(described, 2)
        if config.at != "ends":
            raise PolicyError(
                f"at {config.at}: {order.base} is a causal LM, whose last token has seen all: set it to ends"
            )
    reader = reader_of(order.base, described, config.card(("wrong", "right")))
    data = prepare(order.labelled, order.unlabelled, order.heldout, config.classes, config.split, reader)
    source = files_of(order.base)
    told: dict[str, Any] = {
        "base": order.base,
        "base_files": files_fingerprint(source) if source is not None else "",
        "labelled_file": str(order.labelled),
        "unlabelled_file": str(order.unlabelled),
        "heldout_file": None if order.heldout is None else str(order.heldout),
        "data": data.digest,
        "config": config.model_dump(mode="json"),
    }
    model = config.model.model_copy(update={"base": PretrainedModel(path=order.base)})
    return VerifierTask(config.model_copy(update={"model": model}), order.base, source, reader, data, order.out, told)


def carry_out(order: VerifierOrder) -> int:
    """Train as ``order`` says, or go on with it, and print the results; returns 0, 1, or 128 + signal.

    Raises as ``task_of``, and ``WorkspaceError`` for a folder that holds another training.
    """
    task = task_of(order)
    return in_workspace(order.out, task.told, WRITTEN, lambda stopper, watch: table(train(task, stopper, watch)))
