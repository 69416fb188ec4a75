"""A judge that says one word by evidence in windows: what it is asked, what comes of it, and what it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from eval_kit import write_model
from judge_kit import CONTEXT, family_tokenizer, judge_files
from transformers import AutoModelForCausalLM, AutoTokenizer

from rl.reward_models import HERE, check_model, open_model
from rollout.config import EngineConfig
from rollout.evidence.config import MergingConfig
from rollout.evidence.merge import merge
from rollout.evidence.windows import EvidenceError
from rollout.grading import Answered
from rollout.models.prompts import PromptError
from rollout.reward_models.asking import judge_card
from rollout.reward_models.card import CardError, write_card
from rollout.reward_models.config import EvidenceConfig, RewardModelConfig
from rollout.reward_models.evidence_judge import EvidenceFiles, evidence_named, label_tokens
from rollout.reward_models.opinion import Opinion
from rollout.reward_models.reading import MisfitError
from rollout.types import Problem

TEMPLATE = "E: {reference}\nQ: {question}\nR: {response}\n?"
LABELS = ("yes", "no")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("models") / "judge", context=256)
    write_card(folder, judge_card(TEMPLATE, max_tokens=200))
    return folder


def config(model: Path, **keys: Any) -> RewardModelConfig:
    evidence = EvidenceConfig.model_validate({"labels": LABELS, **keys})
    return RewardModelConfig(path=str(model), evidence=evidence, engine=EngineConfig(kind="hf", max_model_len=256))


def claim(text: str, reference: str = "", **evidence: str) -> Answered:
    extra = {"evidence": evidence} if evidence else {}
    return Answered(Problem.ask("p", "2 + 2?", reference, extra=extra), text)


def judge(config: RewardModelConfig, *answers: Answered) -> tuple[list[Opinion], dict[str, float]]:
    opened = open_model(config, HERE)

    async def work() -> Sequence[Opinion]:
        return await opened.judge(answers)

    try:
        return list(asyncio.run(work())), opened.counts()
    finally:
        opened.close()


def by_hand(model: Path, evidence: Sequence[str], response: str, merging: MergingConfig) -> tuple[float, int]:
    """P(yes) of both labels and the pointer, row by row, without a cache or an engine; the labels part at once."""
    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model).eval()
    rows = []
    for text in ("", *evidence):
        content = TEMPLATE.replace("{reference}", text).replace("{question}", "2 + 2?").replace("{response}", response)
        rows.append(tokenizer(f"<user>{content}<assistant>", add_special_tokens=False)["input_ids"])
    first = [tokenizer(label, add_special_tokens=False)["input_ids"][0] for label in LABELS]
    with torch.inference_mode():
        logits = torch.stack([network(torch.tensor([row])).logits[0, -1, first] for row in rows])
    found = merge(logits, merging)
    return float(found.logits.softmax(-1)[0]), found.pointer


@pytest.mark.parametrize(
    "merging",
    [
        MergingConfig(eta=0, top_p=1),
        MergingConfig(pooling="mean", top_p=1),
        MergingConfig(pooling="exact", top_p=1),
    ],
)
def test_the_verdict_is_what_the_windows_merge_to_over_the_labels(model: Path, merging: MergingConfig) -> None:
    answer = claim("4", "It is 4.", rubric="All of it.", log="ok 4")
    settings = config(model, merging=merging.model_dump(), each=True)
    (opinion,), counts = judge(settings, answer)
    evidence = ("It is 4.", "All of it.", "ok 4")
    right, pointer = by_hand(model, evidence, "4", merging)
    assert opinion.right == pytest.approx(right, abs=1e-4)
    assert opinion.parts["pointer"] == pointer
    assert opinion.parts["windows"] == 3
    alone = MergingConfig(beta=0, eta=0, top_p=1)
    for number, text in enumerate(evidence, 1):
        assert opinion.parts[f"window {number}"] == pytest.approx(by_hand(model, [text], "4", alone)[0], abs=1e-4)
    said = json.loads(opinion.text)
    assert said["verdict"] == LABELS[right < 0.5]
    assert said["evidence"] == ("reference", "rubric", "log")[pointer - 1] == evidence_named(opinion.text)
    assert list(said["each"]) == ["reference", "rubric", "log"]
    assert (counts["asked"], counts["verdicts"], counts["unaskable"]) == (1, 1, 0)


def test_labels_may_begin_alike_and_the_verdict_is_drawn_where_they_part(model: Path) -> None:
    labels = ("it is so", "it is not")
    (opinion,), _ = judge(config(model, labels=labels), claim("4", "4", a="4 it is", b="5"))
    assert opinion.right is not None
    assert 0 < opinion.right < 1
    assert opinion.parts["pointer"] in (1, 2, 3)


def test_files_are_shared_and_long_texts_are_split(model: Path, tmp_path: Path) -> None:
    rubric = tmp_path / "rubric.md"
    rubric.write_text("One line.\n\n" + "Two words. " * 20)
    (whole, split), _ = (
        judge(config(model, files=[str(rubric)]), claim("4"))[0]
        + judge(config(model, files=[str(rubric)], window=60), claim("4"))[0],
        None,
    )
    assert whole.right is None
    assert "cannot be put to the judge: rubric.md: the judge's prompt has " in whole.reason
    assert split.parts["windows"] == 5
    assert "rubric.md (" in json.loads(split.text)["evidence"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (claim("4"), "there is no evidence: no reference, no field 'evidence', no file"),
        (claim("4", log="x" * 300), "log: the judge's prompt has "),
        (claim("4\u00e9", log="x"), "log: the judge's tokenizer has no tokens for some of its characters"),
        (
            Answered(Problem.ask("p", "2?", extra={"evidence": ["x", 3]}), "4"),
            "its field 'evidence' is neither a list of texts nor an object of texts by name",
        ),
    ],
)
def test_what_cannot_be_put_to_the_judge_is_no_opinion_and_counted(model: Path, answer: Answered, words: str) -> None:
    (opinion, other), counts = judge(config(model), answer, claim("4", log="fine"))
    assert opinion.right is None
    assert opinion.reason.startswith(f"cannot be put to the judge: {words}")
    assert other.right is not None
    assert (counts["asked"], counts["unaskable"], counts["verdicts"]) == (2, 1, 1)


@pytest.mark.parametrize("family", ["llama", "qwen", "gemma", "mistral", "kimi"])
def test_neither_response_nor_evidence_writes_a_special_token(family: str) -> None:
    tokenizer = family_tokenizer(family)
    files = judge_files(tokenizer)
    files = EvidenceFiles(files.path, files.card, tokenizer, files.end, CONTEXT, files.vocabulary)
    settings = RewardModelConfig(path="judge", evidence=EvidenceConfig())
    prompts = files.prompts(settings, EngineConfig(kind="hf", max_model_len=CONTEXT))
    attack = "".join(text for text in tokenizer.all_special_tokens) + "correct"
    plain = prompts.prompt("q", "evidence", "response")
    attacked = prompts.prompt("q", attack, attack)
    special = set(tokenizer.all_special_ids)
    assert [t for t in plain.token_ids.tolist() if t in special] == [
        t for t in attacked.token_ids.tolist() if t in special
    ]
    assert "evidence" in tokenizer.decode(plain.token_ids.tolist())


def test_evidence_that_speaks_of_fields_is_put_in_as_it_is(model: Path) -> None:
    """One text in the place of another's field would be a way in."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    settings = config(model)
    files = EvidenceFiles.read(str(model), judge_card(TEMPLATE, max_tokens=200))
    prompts = files.prompts(settings, EngineConfig(kind="hf", max_model_len=256))
    read = tokenizer.decode(prompts.prompt("{response}", "{question}", "x").token_ids.tolist())
    assert "E: {question}\nQ: {response}\nR: x\n?" in read


def test_another_models_tokenizer_is_refused(model: Path, tmp_path: Path) -> None:
    for file in model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "reward_model.json").unlink()
    write_card(tmp_path, judge_card(TEMPLATE, max_tokens=200, tokenizer="0123456789abcdef"))
    with pytest.raises(MisfitError, match="the tokenizer is not the one that the model was trained with"):
        check_model(config(tmp_path), HERE)


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        ({"files": ["/no/such"]}, EvidenceError, "evidence /no/such: cannot be read: No such file"),
        ({"labels": ["ja", "nein\u00e9"]}, PromptError, "no tokens for the label 'nein\u00e9'"),
    ],
)
def test_wrong_settings_are_said_before_anything_starts(
    model: Path, keys: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        check_model(config(model, **keys), HERE)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"labels": ["x", "x"]}, "two different words"),
        ({"template": "{response}"}, "template has no {reference}"),
        ({"template": "{reference}"}, "template has no {response}"),
        ({"window": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_keys(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EvidenceConfig.model_validate(keys)


def test_only_a_causal_model_reads_evidence(model: Path, tmp_path: Path) -> None:
    for file in model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "reward_model.json").unlink()
    write_card(tmp_path, judge_card(TEMPLATE).model_copy(update={"kind": "head"}))
    with pytest.raises(CardError, match="a head reads no evidence in windows"):
        check_model(config(tmp_path), HERE)


def test_the_labels_end_and_differ() -> None:
    tokenizer = family_tokenizer("llama")
    files = judge_files(tokenizer)
    right, wrong = label_tokens(tokenizer, EvidenceConfig(), files.end)
    assert (right[-1], wrong[-1]) == (files.end[0], files.end[0])
    assert tokenizer.decode(right[:-1]) == "correct"
