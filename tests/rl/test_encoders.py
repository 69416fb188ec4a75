"""Encoders in the learner: tokens see both ways, classes are read off their states, nothing else is asked of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForMaskedLM, BertModel

from rl.learner.batch import pack_labelled
from rl.learner.config import LearnerConfig, LoraConfig, ModelConfig
from rl.learner.learner import Learner
from rl.learner.policy import PolicyError
from rl.learner.spec import LearnerSpec
from rl.objectives.classes import Classes
from rl.objectives.config import ClassesConfig, Pooled, ReinforceConfig
from rl.objectives.protocol import Needs

TEXTS = [(3, 4, 5), (6,), (7, 8, 9, 10, 11, 12), (4, 4)]
LABELS = [[0], [1], [2], [1]]
CPU = ModelConfig(threads=1)


def save(folder: Path, kind: type = BertModel) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    kind(BertConfig(vocab_size=40, max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return folder


def learner(folder: Path, at: Pooled = "means", model: ModelConfig = CPU) -> Learner:
    return Learner(LearnerSpec(model, LearnerConfig(objective=ClassesConfig(classes=3, at=at)), longest=16), folder)


def own_states(it: Learner, folder: Path, at: Pooled) -> torch.Tensor:
    """States [n, d] of each text alone, by transformers' own forward pass."""
    model = BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    rows = []
    with torch.no_grad():
        for text in TEXTS:
            states = model(input_ids=torch.tensor([text])).last_hidden_state[0]
            rows.append(states.mean(0) if at == "means" else states[0 if at == "starts" else -1])
    return torch.stack(rows)


@pytest.mark.parametrize("at", ["means", "starts", "ends"])
def test_outputs_are_those_of_transformers(tmp_path: Path, at: Pooled) -> None:
    folder = save(tmp_path)
    it = learner(folder, at)
    expected = own_states(it, folder, at)
    found = it.judged(pack_labelled(TEXTS), Needs(False, False, False, hidden=at, head=Classes(3, at=at).needs.head))
    torch.testing.assert_close(found.hidden, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.head, it.head(expected).detach(), atol=1e-5, rtol=1e-5)


def test_every_gradient_is_that_of_transformers(tmp_path: Path) -> None:
    folder = save(tmp_path)
    it = learner(folder)
    it.passes.backward(pack_labelled(TEXTS, LABELS), it.objective)
    model = BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    logits = torch.cat([it.head(model(torch.tensor([text])).last_hidden_state.mean(1)) for text in TEXTS])
    cross_entropy(logits, torch.tensor(LABELS)[:, 0], reduction="sum").backward()
    theirs = dict(model.named_parameters())
    trained = {name: p for name, p in it.model.named_parameters() if p.requires_grad}
    assert {name for name in theirs if name not in trained} == {"pooler.dense.weight", "pooler.dense.bias"}
    for name, parameter in trained.items():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=1e-4)


def test_a_masked_lm_is_trained_as_a_classifier_and_written_as_an_encoder(tmp_path: Path) -> None:
    it = learner(save(tmp_path / "masked", BertForMaskedLM))
    before = it.judged(pack_labelled(TEXTS), it.objective.needs).head
    it.step(pack_labelled(TEXTS, LABELS))
    (tmp_path / "out").mkdir()
    it.export_hf(tmp_path / "out")
    after = it.judged(pack_labelled(TEXTS), it.objective.needs).head
    assert not torch.equal(before, after)
    again = learner(tmp_path / "out")
    again.head.load_state_dict(it.head.state_dict())
    torch.testing.assert_close(again.judged(pack_labelled(TEXTS), it.objective.needs).head, after)


def test_what_encoders_cannot_do_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path)
    with pytest.raises(PolicyError, match="no LM head"):
        Learner(LearnerSpec(CPU, LearnerConfig(objective=ReinforceConfig())), folder)
    with pytest.raises(PolicyError, match=r"model\.lora: not for encoders"):
        learner(folder, model=CPU.model_copy(update={"lora": LoraConfig()}))
