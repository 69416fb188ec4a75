"""A run that trains a judge says beside its weights how the judge is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from judge_kit import family_tokenizer
from run_kit import tiny
from tiny_models import tiny_llama

from recipes.reward.claims import main as write_labelled
from recipes.run.judge_card import card_of
from recipes.run.session import run
from recipes.run.setup import prepare
from rl.config import RunConfig
from rollout.models.export import save_tokenizer
from rollout.models.framing import Framing
from rollout.models.prompts import PromptError
from rollout.problems.build import build_source
from rollout.problems.claims import CARD
from rollout.reward_models.asking import JUDGE_TEMPLATE, judge_framing, judge_messages
from rollout.reward_models.card import read_card

CLAIMS = {"kind": "claims", "terms": [1, 2]}
ENGINE = {"kind": "hf", "max_model_len": 96, "threads": 1}


def problems(train: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"train": train, "heldout": train, "heldout_size": 4, **more}


def test_a_judge_is_asked_in_use_as_in_training(tmp_path: Path) -> None:
    file = tmp_path / "labelled.jsonl"
    rows = [{"question": f"q{n}", "reference": "r", "response": f"a{n}", "label": n % 2} for n in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train = {"kind": "verdicts", "path": str(file), "sees": "answer"}
    more = {"system": "Be strict.", "instruction": "Be brief.", "template": {"enable_thinking": False}}
    config = tiny(problems=problems(train, **more))
    card = card_of(config)
    assert card is not None
    assert card.kind == "judge"
    assert card.max_tokens == 96 - 15
    problem = build_source(config.problems.train, "train")[0]
    number = problem.extra["row"]
    asked = config.problems.framing.messages(problem)
    row = next(row for row in rows if row["response"] in problem.prompt.split())
    (message,) = judge_messages(card, row["question"], row["reference"], row["response"])
    assert number
    assert asked[-1]["content"] == message.content
    assert asked[0] == {"role": "system", "content": "Be strict."}
    assert judge_framing(card) == Framing(system="Be strict.", arguments={"enable_thinking": False})
    assert card.template.startswith(JUDGE_TEMPLATE)


def test_who_trains_no_judge_has_no_card_and_shots_are_refused() -> None:
    assert card_of(tiny()) is None
    assert card_of(RunConfig()) is None
    with pytest.raises(ValueError, match=r"problems\.shots"):
        card_of(tiny(problems=problems(CLAIMS, shots=[["1+1", "2"]])))
    with pytest.raises(ValueError, match=r"problems\.instruction holds \{reference\}, which would be filled in"):
        card_of(tiny(problems=problems(CLAIMS, instruction="Mind {reference}.")))


def test_a_judge_that_could_not_be_used_is_not_trained(tmp_path: Path) -> None:
    """Its template would let any response speak for it."""
    folder = tmp_path / "base"
    turns = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    tokenizer = family_tokenizer("llama", f"{turns}{{% if add_generation_prompt %}}assistant: {{% endif %}}")
    save_tokenizer(tokenizer, folder)
    tiny_llama(vocab_size=len(tokenizer), max_position_embeddings=4096).save_pretrained(folder)
    base = {"kind": "pretrained", "path": str(folder)}
    engine = {**ENGINE, "max_model_len": 2048}
    config = tiny(problems=problems(CLAIMS), model={"base": base, "threads": 1}, engine=engine)
    with pytest.raises(PromptError, match="any response can write"):
        prepare(config)


def test_the_card_lies_beside_the_weights(tmp_path: Path) -> None:
    config = tiny(iterations=0, problems=problems(CLAIMS), warmup={"examples": 8, "batch_tokens": 256})
    assert run(config, tmp_path / "run") == 0
    for folder in ("model", "warmup"):
        assert read_card(tmp_path / "run" / folder) == card_of(config)
    file = tmp_path / "labelled.jsonl"
    assert write_labelled([str(file), "--count", "150"]) == 0
    own = {"kind": "verdicts", "path": str(file), "template": CARD.template, "sees": "answer"}
    base = {"kind": "pretrained", "path": str(tmp_path / "run" / "model")}
    model = {"base": base, "threads": 1}
    again = tiny(iterations=1, model=model, problems=problems(own), warmup=None)
    assert run(again, tmp_path / "own") == 0
    assert read_card(tmp_path / "own" / "model") == card_of(config)
    assert run(tiny(iterations=0, warmup=None), tmp_path / "other") == 0
    assert read_card(tmp_path / "other" / "model") is None
