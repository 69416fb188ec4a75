"""DPO on the one learner, against TRL's trainer and against its formula."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from learner_kit import TINY, VOCABULARY, learner_spec, save_tiny_model
from transformers import AutoModelForCausalLM

from recipes.shorten.dpo import TokenPair, pack_pairs
from rl.learner.config import LoraConfig, ModelConfig
from rl.learner.learner import Learner
from rl.learner.spec import LearnerSpec
from rl.objectives.preference import Preference
from rollout.models.tokenizer import build_tokenizer

PAIRS: list[TokenPair] = [
    ((5, 6, 7), (8, 9, 1), (10, 11, 12, 13, 14, 1)),
    ((15,), (16, 1), (17, 18, 19, 5, 5)),
    ((6, 6, 8, 9), (7, 7, 7, 1), (20, 21, 22, 23, 24, 5, 6, 1)),
    ((9, 10), (12, 1), (13, 14, 1)),
]
STEPS, BETA, RATE = 4, 0.7, 2e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def spec(**model: Any) -> LearnerSpec:
    """AdamW as TRL's trainer sets it."""
    found = learner_spec(
        micro_batch_tokens=24,
        optimizer={"kind": "adamw", "weight_decay": 0.0, "adam_betas": [0.9, 0.999]},
    )
    return replace(found, model=ModelConfig(base=TINY, threads=1, **model))


def trained(learner: Learner, objective: Preference, steps: int = STEPS) -> list[Any]:
    batch = pack_pairs(PAIRS)
    batch = replace(batch, reference_logprobs=learner.logprobs(batch, objective))
    return [learner.step(batch, objective, RATE) for _ in range(steps)]


def trl_trainer(folder: Path, output: Path) -> Any:
    """TRL's trainer on the same token ids, all pairs in every step; text would be tokenised anew."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class OnTokens(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    rows = [{"prompt_ids": [*p], "chosen_ids": [*c], "rejected_ids": [*r]} for p, c, r in PAIRS]
    return OnTokens(
        model=AutoModelForCausalLM.from_pretrained(folder),
        ref_model=AutoModelForCausalLM.from_pretrained(folder),
        args=DPOConfig(
            output_dir=str(output),
            per_device_train_batch_size=len(PAIRS),
            num_train_epochs=STEPS,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            warmup_steps=0,
            beta=BETA,
            max_length=None,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            gradient_checkpointing=False,
            bf16=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=build_tokenizer([chr(97 + i) for i in range(VOCABULARY - 5)], 256),
    )


def test_training_is_that_of_trl(folder: Path, tmp_path: Path) -> None:
    trainer = trl_trainer(folder, tmp_path)
    trainer.train()
    told = [row for row in trainer.state.log_history if "loss" in row]
    learner = Learner(spec(), folder)
    steps = trained(learner, Preference(BETA))
    for ours, theirs in zip(steps, told, strict=True):
        assert ours.loss == pytest.approx(theirs["loss"], abs=2e-4)  # TRL's log is rounded
        assert ours.tallies["objective/margin"].value == pytest.approx(theirs["rewards/margins"], rel=1e-3, abs=1e-4)
        assert ours.grad_norm == pytest.approx(theirs["grad_norm"], rel=1e-2)
    theirs = dict(trainer.accelerator.unwrap_model(trainer.model).named_parameters())
    for name, parameter in learner.model.named_parameters():
        torch.testing.assert_close(parameter, theirs[name], rtol=0, atol=0.02 * STEPS * RATE)


@pytest.mark.parametrize("model", [{}, {"lora": LoraConfig(rank=2)}], ids=["full", "lora"])
def test_the_first_loss_is_exactly_that_of_indifference(folder: Path, model: dict[str, Any]) -> None:
    first, *_, last = trained(Learner(spec(**model), folder), Preference(BETA))
    assert first.log_ratio is not None
    assert first.log_ratio.max == 0
    assert first.loss == pytest.approx(math.log(2), rel=1e-6)
    assert first.tallies["objective/preferred"].value == 0.5
    assert last.loss < first.loss
    assert last.tallies["objective/preferred"].value == 1.0


@pytest.mark.parametrize("sft_weight", [0.0, 0.5])
def test_the_loss_is_its_formula_and_pairs_are_never_parted(folder: Path, sft_weight: float) -> None:
    objective = Preference(BETA, sft_weight)
    found = []
    for tokens in (1, 24, 10_000):
        learner = Learner(
            replace(spec(), learner=spec().learner.model_copy(update={"micro_batch_tokens": tokens})), folder
        )
        batch = pack_pairs(PAIRS)
        now = learner.logprobs(batch, objective)
        shift = torch.linspace(-0.2, 0.3, len(now))
        step = learner.step(replace(batch, reference_logprobs=now + shift), objective, RATE)
        found.append((step.loss, step.grad_norm))
    moved, likelihood = (
        [part.sum().item() / norm for part, norm in zip(values.split(batch.loss_lengths.tolist()), norms, strict=True)]
        for values, norms in ((-shift, [1] * len(batch)), (now, batch.loss_lengths.tolist()))
    )
    expected = [
        math.log1p(math.exp(-BETA * (chosen - rejected))) - sft_weight * likelihood[2 * index]
        for index, (chosen, rejected) in enumerate(zip(moved[0::2], moved[1::2], strict=True))
    ]
    assert found[-1][0] == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    for other in found[:-1]:
        assert other == pytest.approx(found[-1], rel=1e-4)
