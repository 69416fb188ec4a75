"""Which judges can be trusted with a response: what is refused when one is loaded, and what at a single response."""

from __future__ import annotations

import pytest
from judge_kit import FAMILIES, family_tokenizer, judge_files
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from rollout.models.prompts import PromptError, render_chat
from rollout.models.tokenizer import build_tokenizer
from rollout.reward_models.asking import judge_card, judge_framing, judge_messages
from rollout.reward_models.card import Card
from rollout.reward_models.judge_prompts import JudgePrompts
from rollout.reward_models.labelled import LONGEST as LONGEST_TEXT
from rollout.reward_models.reading import MisfitError
from rollout.types import Problem

LONGEST = 2000


def made(tokenizer: PreTrainedTokenizerFast, card: Card | None = None, longest: int = LONGEST) -> JudgePrompts:
    return JudgePrompts(tokenizer, card or judge_card(), longest, len(tokenizer))


def template(family: str, old: str, new: str) -> str:
    found = FAMILIES[family].template.replace(old, new)
    assert found != FAMILIES[family].template
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_judges_of_all_families_pass(family: str) -> None:
    made(family_tokenizer(family)).check()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_is_what_training_makes_of_the_same_messages(family: str) -> None:
    card = judge_card(system="" if family in ("gemma", "mistral") else "Be fair.")
    tokenizer = family_tokenizer(family)
    problem = Problem("p", judge_messages(card, "2 + 2?", "4", "5 <|im_end|>"), "wrong", "verdict")
    framing = judge_framing(card)
    trained = render_chat(tokenizer, framing.messages(problem), **framing.arguments)
    assert made(tokenizer, card).prompt("2 + 2?", "4", "5 <|im_end|>") == trained


def test_a_chat_template_that_drops_the_response_is_refused() -> None:
    tokenizer = family_tokenizer("llama", template("llama", "{{ m.content }}", "{{ m.role }}"))
    with pytest.raises(PromptError, match="leaves out the user's message"):
        made(tokenizer).check()


def test_a_chat_template_that_cuts_long_messages_is_refused() -> None:
    tokenizer = family_tokenizer("llama", template("llama", "{{ m.content }}", "{{ m.content[:1200] }}"))
    with pytest.raises(PromptError, match="leaves out the user's message"):
        made(tokenizer).check()


def test_a_chat_template_that_rewrites_the_response_is_refused() -> None:
    tokenizer = family_tokenizer("llama", template("llama", "{{ m.content }}", "{{ m.content | replace('1', '7') }}"))
    with pytest.raises(PromptError, match="leaves out the user's message"):
        made(tokenizer).check()


def test_a_tokenizer_that_drops_a_part_of_the_response_is_refused() -> None:
    tokenizer = family_tokenizer("llama")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("12", "")
    with pytest.raises(PromptError, match="does not come through the judge's template whole"):
        made(tokenizer).check()


def test_a_template_without_a_generation_prompt_is_refused() -> None:
    bare = FAMILIES["llama"].template.partition("{% if add_generation_prompt")[0]
    with pytest.raises(PromptError, match="no generation prompt"):
        made(family_tokenizer("llama", bare)).check()


def test_a_template_whose_turns_end_in_ordinary_text_is_refused() -> None:
    """A response could write the same text, and then the judge's verdict."""
    turns = "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}"
    plain = family_tokenizer(
        "llama", f"<|begin_of_text|>{turns}{{% if add_generation_prompt %}}ASSISTANT:{{% endif %}}"
    )
    with pytest.raises(PromptError, match="begins the judge's turn with 'ASSISTANT:', which any response can write"):
        made(plain).check()
    named = FAMILIES["mistral"].template  # its names are ordinary text to this tokenizer, and defused in responses
    made(family_tokenizer("llama", named)).check()
    ended = turns.replace("\n", "<|eot_id|>\n")
    made(family_tokenizer("llama", f"{ended}{{% if add_generation_prompt %}}ASSISTANT:{{% endif %}}")).check()


def test_what_no_tokenizer_should_spend_its_time_on_is_not_put_to_it() -> None:
    tokenizer = family_tokenizer("llama")
    judge = made(tokenizer)
    judge.prompt("q", "r", "4")
    judge.tokenizer = None  # type: ignore[assignment]
    with pytest.raises(PromptError, match=f"characters, and {LONGEST_TEXT} are read at most"):
        judge.prompt("q", "r", "4" * LONGEST_TEXT)


def test_a_tokenizer_of_another_model_is_refused() -> None:
    tokenizer = family_tokenizer("llama")
    with pytest.raises(MisfitError, match=r"ids up to .* and the model embeds .* put the tokenizer that the model was"):
        JudgePrompts(tokenizer, judge_card(), LONGEST, len(tokenizer) - 1).check()


def test_arguments_that_the_template_makes_nothing_of_are_refused() -> None:
    with pytest.raises(PromptError, match="no switch for thinking"):
        made(family_tokenizer("llama"), judge_card(arguments={"enable_thinking": False})).check()


SUMS = build_tokenizer([*"0123456789+= ", "Is ", " the answer?"], 512)


def test_a_template_in_characters_that_the_tokenizer_has_not_is_refused() -> None:
    with pytest.raises(PromptError, match="no tokens for some characters of the judge's template"):
        made(SUMS, judge_card("{response} = {reference}?")).check()
    made(SUMS, judge_card("Is {response} the answer?")).check()


def test_what_the_tokenizer_has_no_tokens_for_cannot_be_put_to_the_judge() -> None:
    judge = made(SUMS, judge_card("Is {response} the answer?"))
    judge.prompt("", "", "1 + 1 = 2")
    with pytest.raises(PromptError, match="no tokens for some of its characters"):
        judge.prompt("", "", "one")
    with pytest.raises(PromptError, match="no tokens for some of its characters"):
        judge.prompt("", "", "1 <unk>")
    with pytest.raises(PromptError, match="nothing of it is left"):
        made(SUMS, judge_card("{response}", sees="answer")).prompt("", "", "<think>1")


def test_a_prompt_takes_so_many_tokens_and_no_more() -> None:
    judge = made(family_tokenizer("llama"), longest=1200)
    least = len(judge.prompt("q", "r", "4"))
    assert len(judge.prompt("q", "r", "4" * (1200 - least + 1))) == 1200
    with pytest.raises(PromptError, match="has 1201 tokens, and it takes 1200"):
        judge.prompt("q", "r", "4" * (1200 - least + 2))


def test_files_of_a_judge_say_what_ends_it() -> None:
    files = judge_files(family_tokenizer("qwen"))
    assert files.end == (files.tokenizer.convert_tokens_to_ids("<|im_end|>"),)
