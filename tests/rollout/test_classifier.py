"""A language model and a head, written as transformers' sequence classifier."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from learner_kit import run_config
from rank_kit import run_ranks
from reward_kit import save_base
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from rl.config import RunConfig
from rl.learner.batch import pack_labelled
from rl.learner.config import RanksConfig
from rl.learner.learner import Learner
from rl.learner.ranks import Ranks
from rl.learner.spec import LearnerSpec
from rl.objectives.classes import Classes
from rollout.models.classifier import classifier_metadata, describe, save_classifier
from rollout.models.export import ExportError

TEXTS = [(5, 6, 7), (8,), (9, 10, 11, 12, 13, 5)]
SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}


def spec(lora: bool) -> LearnerSpec:
    run = run_config().model_copy(update={"iterations": 0}).model_dump()
    run["learner"]["objective"] = {"kind": "classes"}
    run["model"]["lora"] = {"rank": 2} if lora else None
    return LearnerSpec.of(RunConfig.model_validate(run))


def logits(folder: Path) -> torch.Tensor:
    model, told = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    with torch.no_grad():
        return torch.cat([model(torch.tensor([text])).logits for text in TEXTS])


@pytest.mark.parametrize("lora", [False, True])
def test_transformers_computes_the_learners_logits(tmp_path: Path, lora: bool) -> None:
    it = Learner(spec(lora), save_base(tmp_path / "base"))
    for _ in range(3):
        it.step(pack_labelled(TEXTS, [[0], [1], [1]]), lr=0.05)
    ours = it.judged(pack_labelled(TEXTS), Classes(2).needs).head
    (tmp_path / "out").mkdir()
    it.export_hf(tmp_path / "out")
    describe(tmp_path / "out", ("wrong", "right"), 0)
    torch.testing.assert_close(logits(tmp_path / "out"), ours, atol=1e-5, rtol=0)
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert config.architectures == ["LlamaForSequenceClassification"]
    assert (config.id2label, config.num_labels, config.pad_token_id) == ({0: "wrong", 1: "right"}, 2, 0)


def exported(rank: int, base: Path, out: Path) -> torch.Tensor:
    of_two = replace(
        spec(lora=True), learner=spec(lora=True).learner.model_copy(update={"ranks": RanksConfig(shard=2)})
    )
    it = Learner(of_two, base, Ranks(of_two.learner.ranks, "cpu"))
    it.step(pack_labelled(TEXTS, [[0], [1], [1]]), lr=0.05)
    it.export_hf(out)
    return it.judged(pack_labelled(TEXTS), Classes(2).needs).head


def test_ranks_write_one_classifier_together(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    one, other = run_ranks(2, exported, save_base(tmp_path / "base"), tmp_path / "out")
    describe(tmp_path / "out", ("wrong", "right"), 0)
    torch.testing.assert_close(one, other, atol=0, rtol=0)
    torch.testing.assert_close(logits(tmp_path / "out"), one, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "mistral", "gemma2", "phi", "gpt_neox"])
def test_other_architectures(tmp_path: Path, kind: str) -> None:
    known = AutoConfig.for_model(kind).to_dict()
    sizes = SIZES | ({"head_dim": 8} if "head_dim" in known else {})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).float().eval()
    head = nn.Linear(32, 2, bias=False)
    save_classifier(model, head, tmp_path)
    describe(tmp_path, ("wrong", "right"), 0)
    with torch.no_grad():
        hidden = [model.base_model(torch.tensor([text])).last_hidden_state[0, -1] for text in TEXTS]
        torch.testing.assert_close(logits(tmp_path), head(torch.stack(hidden)), atol=1e-5, rtol=1e-5)


def test_an_architecture_without_a_classifier_is_refused() -> None:
    with pytest.raises(ExportError, match="no sequence classifier of cohere models"):
        classifier_metadata(AutoConfig.for_model("cohere"), 2)
    with pytest.raises(ExportError, match=r"BertForSequenceClassification has no score.weight"):
        classifier_metadata(AutoConfig.for_model("bert", **SIZES), 2)
