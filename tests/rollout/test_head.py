"""The classic reward model at work."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reward_kit import LETTERS, TEMPLATE, save_base, save_head, tokenizer
from scipy.special import expit, softmax
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizer, PreTrainedTokenizerFast

from rollout.config import EngineConfig
from rollout.grading import Answered
from rollout.models.tokenizer import build_tokenizer
from rollout.reward_models.card import Card, CardError, write_card
from rollout.reward_models.config import RewardModelConfig
from rollout.reward_models.head import HeadError, HeadModel, by_length, load_classifier, load_head
from rollout.reward_models.labelled import LONGEST
from rollout.reward_models.opinion import Opinion
from rollout.reward_models.reading import MisfitError, Reader, Unreadable, vocabulary_digest
from rollout.types import Problem

CARD = Card(kind="head", template=TEMPLATE, temperature=1.5, max_tokens=60)


def answered(*texts: str) -> list[Answered]:
    return [Answered(Problem.ask("p", "1+1", "2", ""), text) for text in texts]


def asked(model: HeadModel, *texts: str) -> list[Opinion]:
    try:
        return list(asyncio.run(model.judge(answered(*texts))))
    finally:
        model.close()


def alone(folder: Path, text: str) -> np.ndarray:
    """The logits of one response by transformers alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer()(f"1+1={text}?2").input_ids
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def test_opinions_are_those_of_each_response_alone_at_its_temperature(tmp_path: Path) -> None:
    folder = save_head(tmp_path / "head", CARD)
    texts = ["2", "the answer is 2", "3", "no", "22" * 9, ""]
    model = load_head(str(folder), RewardModelConfig(path="x", engine=EngineConfig(kind="hf", max_batched_tokens=64)))
    found = [opinion.right for opinion in asked(model, *texts)]
    assert found == pytest.approx([softmax(alone(folder, text) / 1.5)[1] for text in texts], abs=1e-5)
    counts = model.counts()
    assert (counts["asked"], counts["read"]) == (6, 6)
    assert counts["batches"] > 1
    assert counts["tokens"] == sum(len(f"1+1={text}?2") for text in texts)


def test_what_it_cannot_read_is_no_opinion_and_is_counted(tmp_path: Path) -> None:
    model = load_head(str(save_head(tmp_path / "head", CARD)), RewardModelConfig(path="x"))
    found = asked(model, "2", "2" * 60, "é", "\ud800", "2<eos>", "2" * (LONGEST + 1))
    assert [opinion.right is None for opinion in found] == [False, True, True, True, False, True]
    assert found[1].reason == "66 tokens, and it reads 60"
    assert found[2].reason == "its tokenizer lacks 'é'"
    assert "refuses the text" in found[3].reason
    counts = model.counts()
    assert (counts["too_long"], counts["unencodable"], counts["asked"], counts["read"]) == (2, 2, 6, 2)


def test_a_response_without_an_answer_is_wrong_where_only_answers_are_seen(tmp_path: Path) -> None:
    folder = save_head(tmp_path / "head", CARD.model_copy(update={"sees": "answer"}))
    model = load_head(str(folder), RewardModelConfig(path="x"))
    found = asked(model, "<think>so</think> 2", "<think>so", "2")
    assert found[1].right == 0
    assert found[0].right == found[2].right == pytest.approx(softmax(alone(folder, "2") / 1.5)[1], abs=1e-5)
    assert model.counts()["no_answer"] == 1


def test_a_token_that_begins_each_text_is_not_unknown_in_it() -> None:
    """OPT's tokenizer has one token for what begins a text, ends it, and is unknown in it."""
    words = Tokenizer(WordLevel({"</s>": 0, "a": 1, "b": 2}, unk_token="</s>"))
    words.pre_tokenizer = WhitespaceSplit()
    words.post_processor = TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 0)])
    names = dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"), "</s>")
    coded = PreTrainedTokenizerFast(tokenizer_object=words, **names)
    reader = Reader(Card(kind="head", template="{question} {response}"), coded, 3, 10)
    assert reader.read("a", "", "b").tolist() == coded("a b").input_ids == [0, 1, 2]
    with pytest.raises(Unreadable, match="its tokenizer lacks 'c'"):
        reader.read("a", "", "b c")


def test_a_response_writes_no_special_tokens(tmp_path: Path) -> None:
    reader = load_classifier(str(save_head(tmp_path / "head", CARD))).reader
    ids = reader.read("1+1", "2", "<eos>")
    assert tokenizer().eos_token_id not in ids
    assert len(ids) == len("1+1=<eos>?2")


def test_logits_that_are_not_finite_are_no_opinion(tmp_path: Path) -> None:
    classifier = load_classifier(str(save_head(tmp_path / "head", CARD)))
    with torch.no_grad():
        classifier.model.score.weight[0] = float("nan")
    model = HeadModel(classifier)
    assert [one.right for one in asked(model, "2", "3")] == [None, None]
    assert model.counts()["not_finite"] == 2


def test_a_failing_model_is_no_opinion(tmp_path: Path) -> None:
    classifier = load_classifier(str(save_head(tmp_path / "head", CARD)))
    classifier.model.score = torch.nn.Linear(5, 2)  # any fault of the forward pass
    model = HeadModel(classifier)
    (found,) = asked(model, "2")
    assert found.right is None
    assert "Error" in found.reason
    assert model.counts()["failed"] == 1


def test_whatever_is_thrown_while_it_reads_nobody_waits_for_ever(tmp_path: Path) -> None:
    class Panic(BaseException):
        """As compiled tokenizers raise it: no ``Exception``."""

    class Panics:
        pad_token_id = unk_token_id = None

        def __call__(self, *_: object, **__: object) -> None:
            raise Panic("out of range")

    classifier = load_classifier(str(save_head(tmp_path / "head", CARD)))
    sound = classifier.reader
    model = HeadModel(dataclasses.replace(classifier, reader=dataclasses.replace(sound, tokenizer=Panics())))

    async def twice() -> list[Opinion]:
        async with asyncio.timeout(60):
            return [(await model.judge(answered("2")))[0] for _ in range(2)]

    first, second = asyncio.run(twice())
    assert (first.right, first.reason, second.right) == (None, "Panic: out of range", None)
    assert model.counts()["failed"] == 2
    model.close()


def test_calls_that_wait_are_answered_each_with_its_own(tmp_path: Path) -> None:
    folder = save_head(tmp_path / "head", CARD)
    model = load_head(str(folder), RewardModelConfig(path="x"))
    texts = ["2", "33", "444", "5555"]

    async def together() -> list[Any]:
        calls = [model.judge(answered(text)) for text in texts]
        return [one[0].right for one in await asyncio.gather(*calls)]

    assert asyncio.run(together()) == pytest.approx([softmax(alone(folder, t) / 1.5)[1] for t in texts], abs=1e-5)
    model.close()
    model.close()
    assert asyncio.run(model.judge(answered("2")))[0].reason == "the reward model was closed"


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = save_head(tmp_path / "larger", CARD)
    build_tokenizer([*LETTERS, "é", "è"], 256).save_pretrained(folder)
    with pytest.raises(MisfitError, match="ids up to 79, and the model embeds 78"):
        load_classifier(str(folder))
    card = CARD.model_copy(update={"tokenizer": vocabulary_digest(tokenizer())})
    folder = save_head(tmp_path / "other", card)
    load_classifier(str(folder))
    build_tokenizer(LETTERS[::-1], 256).save_pretrained(folder)
    with pytest.raises(MisfitError, match="not the one that the model was trained with"):
        load_classifier(str(folder))


def test_classifiers_of_others_go_by_their_labels(tmp_path: Path) -> None:
    names = ("CORRECT", "INCORRECT")
    folder = save_head(tmp_path / "two", None, names=names)
    text = "1+1\n\nReference answer: 2\n\nResponse:\n2"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer()(text).input_ids])).logits[0].numpy()
    assert asked(HeadModel(load_classifier(str(folder))), "2")[0].right == pytest.approx(softmax(logits)[0], abs=1e-5)


def test_one_output_is_the_logit_of_right(tmp_path: Path) -> None:
    card = CARD.model_copy(update={"classes": ("right",)})
    folder = save_head(tmp_path / "one", card, outputs=1)
    found = asked(HeadModel(load_classifier(str(folder))), "2")[0].right
    assert found == pytest.approx(expit(alone(folder, "2")[0] / 1.5), abs=1e-5)


def test_what_does_not_say_what_is_right_is_refused(tmp_path: Path) -> None:
    folder = save_head(tmp_path / "unnamed", None, names=("LABEL_0", "LABEL_1"))
    with pytest.raises(HeadError, match=r"2 outputs called LABEL_0, LABEL_1; a head has one, or two called"):
        load_classifier(str(folder))
    write_card(folder, CARD)
    assert load_classifier(str(folder)).right == 1
    with pytest.raises(HeadError, match="3 outputs"):
        load_classifier(str(save_head(tmp_path / "three", None, outputs=3, names=("wrong", "right", "odd"))))
    with pytest.raises(HeadError, match=r"no trained sequence classifier: its files lack score.weight"):
        load_classifier(str(save_base(tmp_path / "base")))
    write_card(folder, Card(kind="judge"))
    with pytest.raises(CardError, match="it is a judge, not a head"):
        load_classifier(str(folder))


def test_a_model_without_a_padding_token_is_padded_with_its_end(tmp_path: Path) -> None:
    folder = save_head(tmp_path / "head", CARD)
    written = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**written, "pad_token_id": None}))
    found = asked(HeadModel(load_classifier(str(folder))), "2", "2222")
    assert found[0].right == pytest.approx(softmax(alone(folder, "2") / 1.5)[1], abs=1e-5)


def test_batches_hold_their_tokens_padding_included() -> None:
    assert [*by_length({0: 5, 1: 1, 2: 3, 3: 3, 4: 40}, 9)] == [[1, 2, 3], [0], [4]]
    assert [*by_length({}, 9)] == []


class Slow(PreTrainedTokenizer):
    """A tokenizer in Python, which tells no offsets."""

    def __init__(self) -> None:
        self._words = {"<unk>": 0, "a": 1, "b": 2}
        super().__init__(unk_token="<unk>")

    @property
    def vocab_size(self) -> int:
        return len(self._words)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._words)

    def _tokenize(self, text: str, **_: object) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self._words.get(token, 0)


def test_a_tokenizer_without_offsets_lacks_a_part_of_the_text() -> None:
    reader = Reader(Card(kind="head", template="{response}"), Slow(), 3, 64)
    assert reader.read("", "", "abba").tolist() == [1, 2, 2, 1]
    with pytest.raises(Unreadable, match="its tokenizer lacks a part of the text"):
        reader.read("", "", "abc")
