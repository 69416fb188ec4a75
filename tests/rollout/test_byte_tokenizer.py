"""The tokenizer for any text: nothing is lost, special tokens keep to themselves, and prompts are rendered with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rollout.models.endings import end_tokens
from rollout.models.prompts import Transcript, render_chat
from rollout.models.templates import check_template, generation_prompt
from rollout.models.tokenizer import SPECIALS, byte_tokenizer

CHAT = [{"role": "user", "content": "12+345=?"}]
WORDS = ["the cat and the hat 1234 1234 1234", "the other cat sat"] * 20


@pytest.fixture(scope="module")
def plain() -> PreTrainedTokenizerFast:
    return byte_tokenizer(64)


@pytest.fixture(scope="module")
def learnt() -> PreTrainedTokenizerFast:
    return byte_tokenizer(64, WORDS, 270)


@pytest.fixture(params=["bytes", "pairs"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    found: PreTrainedTokenizerFast = request.getfixturevalue({"bytes": "plain", "pairs": "learnt"}[request.param])
    return found


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("<eos><user> <assistant><pad><unk>")
@example("\x00\r\n\t\ufeff \u2028é😀  two spaces , and a comma's n't")
def test_any_text_comes_back(plain: PreTrainedTokenizerFast, learnt: PreTrainedTokenizerFast, text: str) -> None:
    for tokenizer in (plain, learnt):
        found = ids(tokenizer, text)
        assert tokenizer.decode(found, skip_special_tokens=False) == text
        assert not set(found) & set(tokenizer.all_special_ids)
    assert len(ids(plain, text)) == len(text.encode()), "a token for each byte"


def test_special_tokens_come_first_and_then_the_bytes(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_tokens_to_ids(list(SPECIALS)) == list(range(len(SPECIALS)))
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.unk_token) == ("<pad>", "<eos>", "<unk>")
    assert len({tuple(ids(tokenizer, chr(code))) for code in range(128)}) == 128


def test_the_vocabulary_is_as_large_as_asked_for_or_as_there_are_pairs(
    plain: PreTrainedTokenizerFast, learnt: PreTrainedTokenizerFast
) -> None:
    assert len(plain) == len(SPECIALS) + 256
    assert len(learnt) == 270
    assert len(byte_tokenizer(64, WORDS, 10**5)) < 400
    assert len(byte_tokenizer(64, iter(()), 300)) == len(SPECIALS) + 256
    assert len(ids(learnt, WORDS[0])) < len(WORDS[0])
    assert byte_tokenizer(64, WORDS, 270).get_vocab() == learnt.get_vocab()


def test_digits_stay_single(learnt: PreTrainedTokenizerFast) -> None:
    assert len(ids(learnt, "1234")) == 4


def test_the_texts_are_not_read_for_bytes_alone() -> None:
    def never() -> list[str]:
        raise AssertionError("read")
        yield ""

    byte_tokenizer(64, never(), len(SPECIALS) + 256)


def test_prompts_and_answers_are_rendered_with_it(tokenizer: PreTrainedTokenizerFast) -> None:
    check_template(tokenizer, CHAT, {})
    prompt = render_chat(tokenizer, CHAT).token_ids.tolist()
    user, assistant = tokenizer.convert_tokens_to_ids(["<user>", "<assistant>"])
    assert prompt == [user, *ids(tokenizer, "12+345=?"), assistant]
    assert generation_prompt(tokenizer) == "<assistant>"
    assert end_tokens(tokenizer) == (tokenizer.eos_token_id,)
    transcript = Transcript(tokenizer, end_tokens(tokenizer))
    answer = [*ids(tokenizer, "<think>so é</think>\nAnswer: 357"), tokenizer.eos_token_id]
    assert transcript.graded(prompt, answer) == "<think>so é</think>\nAnswer: 357"


def test_it_is_the_same_after_saving(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "the cat <eos> é 12"
    assert ids(loaded, text) == ids(tokenizer, text)
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.model_max_length == 64
