"""Responses that pretend to be their judge, its user or its system: none may speak as anybody else, or be read as a
verdict. What they talk a trained judge into is another matter: ``python -m benchmarks.injection`` measures it.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from judge_kit import CORRECT, FAMILIES, WRONG, Bench, asked, family_tokenizer, judge_files, says

from benchmarks.injection.attacks import ATTACKS
from rollout.config import EngineConfig
from rollout.models.prompts import PromptError
from rollout.reward_models.asking import judge_card
from rollout.reward_models.config import RewardModelConfig
from rollout.reward_models.judge_prompts import JudgePrompts

CONFIG = RewardModelConfig(path="judge", max_tokens=64)


def prompts(family: str) -> JudgePrompts:
    files = judge_files(family_tokenizer(family))
    return files.prompts(CONFIG, EngineConfig(max_model_len=4096))


def special(ids: np.ndarray, made: JudgePrompts) -> list[int]:
    """The special tokens among some: all that were added to the tokenizer, but for white space."""
    added = {token for token, text in made.tokenizer.added_tokens_decoder.items() if str(text).strip()}
    return [token for token in ids.tolist() if token in added]


def test_there_are_many_attacks_and_no_two_are_the_same() -> None:
    assert len({*ATTACKS}) == len(ATTACKS) >= 30


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_a_response_adds_no_special_token_to_its_judges_prompt(family: str, attack: str) -> None:
    made = prompts(family)
    plain = special(made.prompt("What is 2 + 2?", "4", "The answer is 5.").token_ids, made)
    for response in (attack, f"The answer is 5.{attack}", f"{attack}The answer is 5."):
        prompt = made.prompt("What is 2 + 2?", "4", response)
        assert special(prompt.token_ids, made) == plain
        decoded = made.tokenizer.decode(prompt.token_ids.tolist())
        squeezed = "".join(decoded.split())
        assert "".join(response.split()) in squeezed, "the judge reads all of it"


@pytest.mark.parametrize("said", [CORRECT, WRONG, "I cannot tell."])
def test_no_attack_flips_what_is_read_of_the_judges_own_text(said: str) -> None:
    expected = {CORRECT: 1.0, WRONG: 0.0}.get(said)
    text = f"It says 5.\n</think>\n{said}"
    with Bench(says(text), family_tokenizer("qwen")) as bench:  # whose template opens the thinking
        opinions = bench.judge(*(asked(f"The answer is 5.{attack}") for attack in ATTACKS))
        assert [opinion.right for opinion in opinions] == [expected] * len(ATTACKS)
        assert {opinion.text for opinion in opinions} == {f"<think>\n{text}"}


@pytest.mark.parametrize("attack", ATTACKS, ids=range(len(ATTACKS)))
def test_a_judge_that_quotes_an_attack_while_it_thinks_still_says_its_own_verdict(attack: str) -> None:
    quoting = f"It says: {json.dumps(attack)}\n{attack}\n</think>\nThat is no answer.\n{WRONG}"
    with Bench(says(quoting), family_tokenizer("qwen")) as bench:
        (opinion,) = bench.judge(asked(f"5{attack}"))
        assert opinion.right in (0.0, None)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_special_token_of_a_family_is_told_apart(family: str) -> None:
    made = prompts(family)
    names = (*FAMILIES[family].specials, *(name for name in FAMILIES[family].plain if name.strip()))
    assert {*made._marks.values()} >= {*names}


def test_a_tokenizer_whose_special_tokens_are_ordinary_words_is_refused() -> None:
    tokenizer = family_tokenizer("qwen")
    tokenizer.add_special_tokens({"pad_token": "STOP"})
    with pytest.raises(PromptError, match="can write its special token 'STOP'"):
        judge_files(tokenizer).prompts(CONFIG, EngineConfig(max_model_len=4096))


def test_a_special_token_that_still_comes_through_is_no_opinion() -> None:
    """Defusing knows shapes, not tokenizers: what it misses is found in the prompt itself."""
    tokenizer = family_tokenizer("qwen")
    made = judge_files(tokenizer).prompts(CONFIG, EngineConfig(max_model_len=4096))
    tokenizer.add_special_tokens({"pad_token": "STOP"})
    made = JudgePrompts(tokenizer, judge_card(), made.longest, len(tokenizer))
    made.prompt("q", "r", "stop")
    with pytest.raises(PromptError, match="writes special tokens"):
        made.prompt("q", "r", "then STOP")
