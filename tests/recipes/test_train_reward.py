"""``k15 train reward``: its data, its plan, a whole training, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reward_kit import TEMPLATE, save_base, save_rows, sums, tokenizer
from transformers import AutoConfig

from recipes.commands.cli import main
from recipes.reward.config import HeadTrainingConfig, SplitConfig
from recipes.reward.data import Example, Parts, balance, prepare
from recipes.reward.order import Order, carry_out, task_of
from recipes.reward.results import doubts
from recipes.reward.train import plan, train
from rl.config_io import load
from rl.stop import Interrupted, Stopper
from rollout.grading import Answered
from rollout.progress import Track
from rollout.reward_models.card import Card, read_card
from rollout.reward_models.config import RewardModelConfig
from rollout.reward_models.head import load_head
from rollout.reward_models.labelled import Labelled, LabelledError
from rollout.reward_models.reading import Reader
from rollout.types import Problem

KEYS = {
    "template": TEMPLATE,
    "max_tokens": "64",
    "epochs": "4",
    "batch_tokens": "500",
    "model.threads": "1",
    "learner.optimizer.lr": "3e-3",
}


def reader(limit: int = 64) -> Reader:
    return Reader(Card(kind="head", template=TEMPLATE), tokenizer(), len(tokenizer()), limit)


def parts(folder: Path, rows: list[dict[str, Any]], heldout: list[dict[str, Any]] | None = None, **keys: Any) -> Parts:
    held = save_rows(folder / "held.jsonl", heldout) if heldout is not None else None
    return prepare(save_rows(folder / "rows.jsonl", rows), held, SplitConfig(**keys), reader())


def config(**keys: str) -> HeadTrainingConfig:
    return load(HeadTrainingConfig(), overrides=[*(KEYS | keys).items()])


def order(folder: Path, rows: list[dict[str, Any]], **keys: str) -> Order:
    base = folder / "base" if (folder / "base").exists() else save_base(folder / "base")
    return Order(save_rows(folder / "rows.jsonl", rows), None, str(base), config(**keys), folder / "out")


def test_a_question_is_in_one_part_and_stays_there(tmp_path: Path) -> None:
    found = parts(tmp_path, sums(100))
    asked = [{example.question for example in part} for part in (found.train, found.validation, found.heldout)]
    assert [len(one) for one in asked] == [70, 10, 20]
    assert not asked[0] & asked[1] | asked[0] & asked[2] | asked[1] & asked[2]
    assert balance(found.train) == {"wrong": 140, "right": 140}
    more = parts(tmp_path, [*sums(100), {**sums(1)[0], "response": "new"}])
    assert {example.question for example in more.heldout} == asked[2]
    assert {example.question for example in parts(tmp_path, sums(100), seed=1).heldout} != asked[2]


def test_the_case_and_spaces_of_a_question_make_no_other(tmp_path: Path) -> None:
    rows = sums(40)
    spaced = [{**row, "question": row["question"].replace("+", " +  ")} for row in rows]
    words = [{**row, "question": f"Sum {row['question']}"} for row in spaced]
    found = parts(tmp_path, [*words, *({**row, "question": row["question"].upper()} for row in words)])
    assert len({example.question for part in (found.train, found.validation, found.heldout) for example in part}) == 40


def test_responses_to_one_question_are_parted_by_their_texts(tmp_path: Path) -> None:
    rows = [{**row, "question": "1+1", "response": f"{row['response']} {i}"} for i, row in enumerate(sums(25))]
    found = parts(tmp_path, [*rows, *({**row, "response": row["response"].upper()} for row in rows)])
    assert [len(one) for one in (found.train, found.validation, found.heldout)] == [140, 20, 40]


def test_the_digest_of_many_responses_takes_no_memory_and_tells_them_apart() -> None:
    def parts(label: str = "right", moved: int = 0) -> Parts:
        rows = [Labelled(str(number), "q", "", "r", label) for number in range(500)]
        examples = [Example(row, np.arange(400, dtype=np.int32)) for row in rows]
        return Parts(tuple(examples[moved:]), tuple(examples[:moved]), ())

    given = parts()
    tracemalloc.start()
    assert given.digest == parts().digest
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 2 * 500 * 400 * 4  # less than the responses themselves, made once more here; as text it is 8 times
    assert len({given.digest, parts("wrong").digest, parts(moved=1).digest}) == 3


def test_held_out_questions_of_a_file_are_not_learnt(tmp_path: Path) -> None:
    rows = sums(50)
    found = parts(tmp_path, rows, heldout=rows[:40])
    assert len(found.heldout) == 40
    assert not {one.question for one in found.heldout} & {one.question for one in (*found.train, *found.validation)}
    assert found.left_out == {"to held-out questions": 40}


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    odd = [{"label": None}, {"response": "é"}, {"response": "2" * 70}, {"defect": True}]
    found = parts(tmp_path, [*sums(50), *({**sums(1)[0], **one} for one in odd)])
    assert found.left_out == {"without a label": 1, "unencodable": 1, "too long": 1, "marked as defect": 1}


def test_what_nothing_can_be_learnt_from_is_refused(tmp_path: Path) -> None:
    rights = [row for row in sums(50) if row["label"]]
    with pytest.raises(LabelledError, match="all 70 responses of the train part are right: a head learns from"):
        parts(tmp_path, rights)
    with pytest.raises(LabelledError, match=r"rows.jsonl:3: the label is 'slip', .*\(1 rows have others\).*verifier"):
        parts(tmp_path, [*sums(50)[:2], {**sums(1)[0], "label": "slip"}, *sums(50)[2:]])
    with pytest.raises(LabelledError, match="none of 200 responses has a label"):
        parts(tmp_path, [{**row, "label": None} for row in sums(50)])
    with pytest.raises(LabelledError, match="no question is left for the"):
        parts(tmp_path, sums(2))
    with pytest.raises(LabelledError, match=r"cannot read 200 of 200 responses; the first: .*:1: its tokenizer lacks"):
        parts(tmp_path, [{**row, "question": "é"} for row in sums(50)])


def test_each_epoch_has_every_response_once_in_an_order_of_its_own() -> None:
    steps = plan([100] * 13, config(epochs="2"))
    assert [step.closes for step in steps] == [False, False, True] * 2
    first, second = ([i for step in steps if step.epoch == epoch for i in step.examples] for epoch in (1, 2))
    assert sorted(first) == sorted(second) == list(range(13))
    assert first != second
    assert max(step.lr for step in steps) == pytest.approx(3e-3)


@pytest.mark.parametrize("adapters", [{}, {"model.lora.rank": "4"}])
def test_a_head_learns_and_serves_what_it_was_measured_with(tmp_path: Path, adapters: dict[str, str]) -> None:
    asked = order(tmp_path, sums(60), **adapters)
    assert carry_out(asked) == 0
    results = json.loads((asked.out / "results.json").read_bytes())
    held = results["heldout"]
    assert held["accuracy"] > 0.9
    assert held["ci95"][0] <= held["accuracy"] <= held["ci95"][1]
    assert held["always_the_commoner"] == 0.5
    assert results["export_gap"] < 1e-5
    assert 0.05 < results["temperature"] < 20  # a few responses, all told apart, do not make it sure
    assert (asked.out / "reliability.png").read_bytes().startswith(b"\x89PNG")
    card = read_card(asked.out / "model")
    assert card is not None
    assert (card.kind, card.template, card.temperature) == ("head", TEMPLATE, results["temperature"])

    told = {row["id"]: row["right"] for row in map(json.loads, (asked.out / "heldout.jsonl").read_text().splitlines())}
    rows = [(f"rows-{number}", row) for number, row in enumerate(sums(60), 1) if f"rows-{number}" in told]
    answers = [Answered(Problem.ask("p", row["question"], row["reference"], ""), row["response"]) for _, row in rows]
    model = load_head(str(asked.out / "model"), RewardModelConfig(path="x"))
    found = [opinion.right for opinion in asyncio.run(model.judge(answers))]
    model.close()
    assert found == pytest.approx([told[name] for name, _ in rows], abs=1e-5)


class Quiet(Track):
    def warn(self, text: str) -> None:
        raise AssertionError(text)


class Stopping(Quiet):
    """Asks for a stop after some steps."""

    def __init__(self, stopper: Stopper, after: int) -> None:
        super().__init__()
        self.stopper, self.left = stopper, after

    def say(self, text: str) -> None:
        super().say(text)
        self.left -= 1
        if not self.left:
            self.stopper.signal = 15


def test_stopped_anywhere_it_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    asked = order(tmp_path, sums(40), epochs="2")
    task = task_of(asked)
    (tmp_path / "out").mkdir()
    whole = train(task, Stopper(), Quiet())
    log = (asked.out / "log.jsonl").read_text()
    asked.out.rename(tmp_path / "whole")
    for after in (2, 3):
        stopper = Stopper()
        with pytest.raises(Interrupted):
            train(task, stopper, Stopping(stopper, after))
    cut = train(task, Stopper(), Quiet())
    assert cut | {"seconds": 0} == whole | {"seconds": 0}
    assert (asked.out / "log.jsonl").read_text() == log


class Spoiling(Quiet):
    """Puts what cannot be copied among the files of the model before they are."""

    def __init__(self, link: Path) -> None:
        super().__init__()
        self.link = link

    def stage(self, name: str, total: int | None = None, earlier: int = 0) -> None:
        super().stage(name, total, earlier)
        if name.startswith("calibrating"):
            self.link.symlink_to("nowhere")


def test_a_model_is_there_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    asked = order(tmp_path, sums(40), epochs="1")
    task = task_of(asked)
    asked.out.mkdir()
    link = asked.out / "best" / "model" / "link"
    with pytest.raises(shutil.Error):
        train(task, Stopper(), Spoiling(link))
    assert not (asked.out / "model").exists()
    link.unlink()
    train(task, Stopper(), Quiet())
    assert read_card(asked.out / "model") is not None


def test_killed_while_it_tidied_up_it_has_its_results(tmp_path: Path) -> None:
    asked = order(tmp_path, sums(40), epochs="1")
    task = task_of(asked)
    asked.out.mkdir()
    whole = train(task, Stopper(), Quiet())
    for left in ("best/model", "checkpoints/000001"):  # of either a part
        (asked.out / left).mkdir(parents=True)
    assert train(task, Stopper(), Quiet()) == json.loads(json.dumps(whole))
    assert not (asked.out / "best").exists()
    assert not (asked.out / "checkpoints").exists()


def test_done_it_says_so_again_and_takes_no_other_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = order(tmp_path, sums(40), epochs="1")
    given = [f"--{name}={value}" for name, value in (KEYS | {"epochs": "1"}).items()]
    command = ["train", "reward", "--labelled", str(asked.labelled), "--model", asked.base, "--out", str(asked.out)]
    assert main([*command, *given]) == 0
    told = capsys.readouterr().out
    assert "heldout" in told
    (asked.out / ".results.json.7.tmp").write_text("{")  # as processes leave them that are killed
    (asked.out / ".best.tmp" / "model").mkdir(parents=True)
    assert main([*command, *given, "--learner.micro_batch_tokens", "99"]) == 0  # how, not what is computed
    assert capsys.readouterr().out == told
    assert not [*asked.out.glob(".*.tmp")]
    assert main([*command, *given, "--seed", "1"]) == 2
    assert "was made from other inputs (config.seed: 0 -> 1)" in capsys.readouterr().err


def test_the_files_of_something_else_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = order(tmp_path, sums(40), epochs="1")
    kept = [asked.out / "model" / "config.json", asked.out / "checkpoints" / "000001" / "state.json"]
    for file in kept:
        file.parent.mkdir(parents=True)
        file.write_text("a run's")
    given = [f"--{name}={value}" for name, value in KEYS.items()]
    command = ["train", "reward", "--labelled", str(asked.labelled), "--model", asked.base, "--out", str(asked.out)]
    assert main([*command, *given]) == 2
    assert "holds model and checkpoints of something else; choose another --out" in capsys.readouterr().err
    assert [file.read_text() for file in kept] == ["a run's"] * 2


def test_an_architecture_without_a_classifier_is_refused_before_anything_is_spent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = order(tmp_path, sums(40))
    AutoConfig.for_model("cohere").save_pretrained(asked.base)
    command = ["train", "reward", "--labelled", str(asked.labelled), "--model", asked.base, "--out", str(asked.out)]
    assert main(command) == 2
    assert "no sequence classifier of cohere models" in capsys.readouterr().err
    assert not asked.out.exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["--template", "{question}"], "template has no {response}"),
        (
            ["--template", "{qestion}{response}"],
            "template has {qestion}, which stands for nothing: did you mean {quest",
        ),
        (["--learner.objective.kind", "grpo"], "learner.objective: what is learnt is given by"),
        (["--model.attention.moba", "{block_size: 32, top_k: 2}"], "model.attention: whoever loads a classifier"),
        (["--split.heldout", "0.9", "--split.validation", "0.2"], "leave no question to learn from"),
        (["--rollout.k", "4"], "unknown key 'rollout.k'"),
        (["--zzz", "4"], "unknown key 'zzz'; --dry-run lists all keys"),
        (["--learner.ranks.offload", "true"], "learner.ranks.offload"),
    ],
)
def test_keys_are_checked(keys: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "reward", "--labelled", "x", "--model", "y", "--out", "z", *keys]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("auc", "lines"), [(0.5, 1), (0.59, 1), (0.6, 0), (0.99, 0), (None, 0)])
def test_a_model_that_learnt_nothing_is_doubted(auc: float | None, lines: int) -> None:
    assert len(doubts(auc)) == lines


def test_a_gpu_that_is_not_there_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    command = ["train", "reward", "--labelled", "x", "--model", "y", "--out", str(tmp_path / "out")]
    assert main([*command, "--device", "cuda", "--ray.in_process", "true"]) == 2
    assert "model.device is cuda, and torch finds no GPU here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_resolved_configuration_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "reward", "--labelled", "x", "--model", "y", "--out", "z", "--dry-run", "--device", "cuda"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "path: y" in told
    assert "compute_dtype: bfloat16" in told
