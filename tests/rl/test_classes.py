"""Classes of whole responses: the head, its loss, and outputs in order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from rl.config import RunConfig
from rl.learner.batch import concatenated, pack_labelled
from rl.learner.learner import Learner
from rl.learner.spec import LearnerSpec
from rl.objectives.classes import Classes
from rl.objectives.protocol import Needs
from tests.learner_kit import run_config, save_tiny_model

TEXTS = [(3, 4, 5), (6,), (7, 8, 9, 10, 11, 12), (4, 4)]
LABELS = [[0], [1], [2], [1]]


def learner(folder: Path, **keys: object) -> Learner:
    run = run_config(**keys).model_copy(update={"iterations": 0}).model_dump()
    run["learner"]["objective"] = {"kind": "classes", "classes": 3}
    return Learner(LearnerSpec.of(RunConfig.model_validate(run)), save_tiny_model(folder))


def expected(it: Learner) -> torch.Tensor:
    """Logits [n, 3] of each sequence alone, by transformers' own forward pass."""
    rows = []
    with torch.no_grad():
        for text in TEXTS:
            hidden = it.model.base_model(input_ids=torch.tensor([text])).last_hidden_state[0, -1]
            rows.append(it.head(hidden))
    return torch.stack(rows)


def test_outputs_come_in_the_order_of_the_sequences_however_they_are_cut(tmp_path: Path) -> None:
    it = learner(tmp_path / "model", micro_batch_tokens=4)
    found = it.judged(pack_labelled(TEXTS), Classes(3).needs)
    it.model.set_attn_implementation("eager")
    torch.testing.assert_close(found.head, expected(it), atol=1e-5, rtol=1e-5)


def test_one_step_is_cross_entropy_and_moves_the_head(tmp_path: Path) -> None:
    it = learner(tmp_path / "model")
    before = it.judged(pack_labelled(TEXTS), Classes(3).needs).head
    step = it.step(pack_labelled(TEXTS, LABELS))
    assert step.loss == pytest.approx(cross_entropy(before, torch.tensor(LABELS)[:, 0]).item(), abs=1e-5)
    assert step.tallies["objective/accuracy"].value == (before.argmax(1) == torch.tensor(LABELS)[:, 0]).float().mean()
    assert not torch.equal(before, it.judged(pack_labelled(TEXTS), Classes(3).needs).head)


def test_labels_stay_with_their_sequences() -> None:
    batch = concatenated([pack_labelled(TEXTS[:2], LABELS[:2]), pack_labelled(TEXTS[2:], LABELS[2:])])
    assert batch.labels.tolist() == LABELS
    assert batch.select([2, 0]).labels.tolist() == [[2], [0]]
    assert concatenated([pack_labelled(TEXTS), pack_labelled(TEXTS, LABELS)]).labels is None


def test_needs_of_tokens_and_missing_labels_are_refused(tmp_path: Path) -> None:
    it = learner(tmp_path / "model")
    with pytest.raises(ValueError, match="whole sequences"):
        it.judged(pack_labelled(TEXTS), Needs())
    with pytest.raises(ValueError, match="no labels"):
        it.step(pack_labelled(TEXTS))
    with pytest.raises(ValueError, match="sequence 1 has no tokens"):
        pack_labelled([(1,), ()])


def test_a_policy_is_not_trained_on_classes() -> None:
    with pytest.raises(ValueError, match="k15 train reward"):
        RunConfig.model_validate({"learner": {"objective": {"kind": "classes"}}})
