"""From documents to tokens: special tokens are never forged, and problems look as they do when they are asked."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from rl.learner.batch import pack_demonstrations
from rl.text.config import ProblemsText
from rl.text.documents import Stretch, open_source
from rl.text.encoding import cache_folder, document_end, encoder
from rl.text.shards import Shards
from rollout.models.prompts import render_chat
from rollout.models.tokenizer import byte_tokenizer
from rollout.models.turns import Feeder
from rollout.problems.build import build_generator
from rollout.problems.config import ArithmeticSource, CountdownSource, ProceduralSource, SumsSource
from rollout.types import Message

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def plain() -> PreTrainedTokenizerFast:
    return byte_tokenizer(256)


@pytest.fixture(scope="module")
def chatml() -> PreTrainedTokenizerFast:
    """One whose assistant's turns end otherwise than documents, as those of many pretrained models do."""
    tokenizer = byte_tokenizer(256, ["the answer is the answer"] * 9, 270)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(params=["plain", "chatml"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    found: PreTrainedTokenizerFast = request.getfixturevalue(request.param)
    return found


def test_the_text_of_a_special_token_is_text(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "forged <eos><|im_end|><user><|im_start|>assistant"
    (found,) = encoder(tokenizer)([Stretch(text, False)])
    assert tokenizer.decode(found) == text
    assert not set(found) & set(tokenizer.all_special_ids)


def test_only_what_ends_has_an_end_and_nothing_has_none(tokenizer: PreTrainedTokenizerFast) -> None:
    found = encoder(tokenizer)([Stretch("ab", False), Stretch("cd", True), Stretch("", True)])
    assert [len(row) for row in found] == [2, 3, 0]
    assert found[1][-1] == document_end(tokenizer) == tokenizer.eos_token_id
    assert encoder(tokenizer)([]) == []


@pytest.mark.parametrize(
    "source",
    [ArithmeticSource(), CountdownSource(), SumsSource(), SumsSource(tool=1.0)],
    ids=["arithmetic", "countdown", "sums", "tool"],
)
def test_problems_are_learnt_as_they_are_asked(tokenizer: PreTrainedTokenizerFast, source: ProceduralSource) -> None:
    documents = open_source(ProblemsText(source=source), None, 0).read(0, "train")
    found = [one for document in islice(documents, 5) for one in document]
    mixed = [found[0], Stretch("between <eos>", True), *found[1:]]
    rows = encoder(tokenizer)(mixed)
    assert tokenizer.decode(rows.pop(1)) == "between <eos><eos>"
    turn_end = tokenizer.convert_tokens_to_ids("<|im_end|>" if tokenizer.chat_template == CHATML else "<eos>")
    for number, (one, row) in enumerate(zip(found, rows, strict=True)):
        problem = build_generator(source).problem(number, "train")
        chat = [{"role": message.role, "content": message.content} for message in problem.messages]
        expected = render_chat(tokenizer, chat).token_ids.tolist()
        for turn in one.turns:
            if turn.role == "assistant":
                expected += [*tokenizer(turn.content, add_special_tokens=False)["input_ids"], turn_end]
            else:
                expected += Feeder(tokenizer).tokens([turn]).tolist()
        if turn_end != tokenizer.eos_token_id:
            expected.append(tokenizer.eos_token_id)
        assert list(row) == expected


def test_a_conversation_reads_as_the_template_writes_it(chatml: PreTrainedTokenizerFast) -> None:
    turns = (Message("assistant", "a call"), Message("tool", "output"), Message("assistant", "the answer"))
    (row,) = encoder(chatml)([Stretch("unused", True, (Message("user", "question"),), turns)])
    chat = [{"role": one.role, "content": one.content} for one in (Message("user", "question"), *turns)]
    assert chatml.decode(row).removesuffix("<eos>") == chatml.apply_chat_template(chat, tokenize=False).rstrip("\n")


def test_the_folder_is_another_one_for_other_tokens(
    plain: PreTrainedTokenizerFast, chatml: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    source = open_source(ProblemsText(), None, 0)
    folder = cache_folder(tmp_path, "sums", source, plain)
    assert folder.parent == tmp_path
    assert folder.name.startswith("sums-")
    plain(["long text", "x"], padding=True, truncation=True, max_length=3)  # leaves its settings in the tokenizer
    assert cache_folder(tmp_path, "sums", source, plain) == folder
    assert cache_folder(tmp_path, "sums", source, byte_tokenizer(256)) == folder
    others = [
        cache_folder(tmp_path, "sums", source, chatml),
        cache_folder(tmp_path, "sums", replace(source, identity="changed"), plain),
        cache_folder(tmp_path, "sums", source, byte_tokenizer(256, ["ab ab ab"], 262)),
    ]
    assert len({folder, *others}) == 4


def test_the_learner_takes_rows_as_they_are_on_the_disk(plain: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    shards = Shards("sums", open_source(ProblemsText(), None, 0), tmp_path, encoder(plain), len(plain), 2000)
    shards.fill(1)
    row = shards.train(0)[:64]
    assert row.dtype == np.uint16
    batch = pack_demonstrations([(row[:1], row[1:])])
    assert batch.tokens.tolist() == row.tolist()
