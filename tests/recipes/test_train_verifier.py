"""``k15 train verifier``: its data, a whole training, what it goes on from, how it serves, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reward_kit import TEMPLATE, save_base, save_rows, tokenizer
from transformers import BertConfig, BertModel

from recipes.commands.cli import main
from recipes.reward import verifier_teaching
from recipes.reward.verifier import choose, read_predictions, train
from recipes.reward.verifier_config import LabelledSplitConfig, VerifierTrainingConfig
from recipes.reward.verifier_data import Few, ordered, prepare
from recipes.reward.verifier_order import VerifierOrder, carry_out, task_of
from recipes.reward.verifier_teachers import Negative, Positive, macro_f1
from rl.config_io import load
from rl.state.checkpoint import available
from rl.stop import Interrupted, Stopper
from rollout.grading import Answered
from rollout.models.export import save_tokenizer
from rollout.progress import Track
from rollout.reward_models.card import Card, CardError, read_card, write_card
from rollout.reward_models.config import RewardModelConfig
from rollout.reward_models.evidence import NAME, EvidenceError
from rollout.reward_models.labelled import LabelledError
from rollout.reward_models.reading import Reader
from rollout.reward_models.verifier import load_trained, load_verifier
from rollout.types import Problem

KEYS = {
    "template": TEMPLATE,
    "max_tokens": "64",
    "positive.epochs": "8",
    "negative.epochs": "6",
    "negative.switch": "3",
    "model.threads": "1",
    "learner.optimizer.lr": "3e-3",
}
WORDS = {"right": "sure", "slip": "hm", "format": "oh"}


def outcomes(count: int, seed: int = 0, names: tuple[str, ...] = tuple(WORDS)) -> list[dict[str, Any]]:
    """Responses to sums, one for each class and question, which begin with a word that gives them away."""
    rng, rows = random.Random(seed), []
    for a, b in rng.sample([(a, b) for a in range(40) for b in range(40)], count):
        for name in names:
            said = f"{WORDS.get(name, name)} {a + b + (name != 'right') * rng.randrange(1, 9)}"
            rows.append({"question": f"{a}+{b}", "reference": str(a + b), "response": said, "label": name})
    return rows


def reader(limit: int = 64) -> Reader:
    return Reader(Card(kind="verifier", template=TEMPLATE), tokenizer(), len(tokenizer()), limit)


def data(folder: Path, few: list[dict[str, Any]], many: list[dict[str, Any]] | None = None, **keys: Any) -> Few:
    names = keys.pop("classes", ())
    labelled = save_rows(folder / "few.jsonl", few)
    unlabelled = save_rows(folder / "many.jsonl", outcomes(30, seed=9) if many is None else many)
    return prepare(labelled, unlabelled, None, names, LabelledSplitConfig(**keys), reader())


def order(folder: Path, few: int = 30, many: int = 40, **keys: str) -> VerifierOrder:
    base = folder / "base" if (folder / "base").exists() else save_base(folder / "base")
    labelled = save_rows(folder / "few.jsonl", outcomes(few))
    unlabelled = save_rows(folder / "many.jsonl", outcomes(many, seed=1))
    settings = load(VerifierTrainingConfig(), overrides=[*(KEYS | keys).items()])
    return VerifierOrder(labelled, unlabelled, None, str(base), settings, folder / "out")


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


class Killed(Exception):
    """Stands for the end of the process between two steps."""


class Killing(Quiet):
    """Ends the training after some steps, with no more than is on disk."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def say(self, text: str) -> None:
        super().say(text)
        self.left -= 1
        if not self.left:
            raise Killed


def test_each_class_has_its_share_in_each_part_and_no_question_is_in_two(tmp_path: Path) -> None:
    found = data(tmp_path, outcomes(40))
    assert found.classes == ("right", "slip", "format")
    assert found.counts == {
        "train": {"right": 26, "slip": 26, "format": 26},
        "validation": {"right": 6, "slip": 6, "format": 6},
        "heldout": {"right": 8, "slip": 8, "format": 8},
    }
    asked = [{one.question for one in part} for part in (found.train, found.validation, found.heldout)]
    assert not asked[0] & asked[1] | asked[0] & asked[2] | asked[1] & asked[2]
    assert ordered({"zebra", "hack", "right", "apple"}) == ("right", "hack", "apple", "zebra")


def test_of_texts_that_are_classified_each_is_on_its_own(tmp_path: Path) -> None:
    texts = [{**row, "question": "which", "response": f"{row['response']} {i}"} for i, row in enumerate(outcomes(40))]
    found = data(tmp_path, texts, [{**row, "response": f" {row['response'].upper()}"} for row in texts])
    assert found.counts["heldout"] == {"right": 8, "slip": 8, "format": 8}
    assert found.left_out == {"unlabelled, to held-out questions": 24}


def test_a_held_out_file_of_two_numbers_has_the_classes_of_the_labelled_one(tmp_path: Path) -> None:
    rows = [{**row, "label": list(WORDS).index(row["label"])} for row in outcomes(20)]
    held = [{**row, "label": list(WORDS).index(row["label"])} for row in outcomes(5, seed=3, names=("right", "slip"))]
    names = ("few", rows), ("many", outcomes(30, seed=9)), ("held", held)
    few, many, judges = (save_rows(tmp_path / f"{name}.jsonl", part) for name, part in names)
    found = prepare(few, many, judges, (), LabelledSplitConfig(), reader())
    assert found.classes == ("0", "1", "2")
    assert found.counts["heldout"] == {"0": 5, "1": 5, "2": 0}


def test_gold_labels_of_the_unlabelled_file_change_nothing(tmp_path: Path) -> None:
    many = outcomes(30, seed=9)
    without = data(tmp_path, outcomes(40), [{**row, "label": None} for row in many])
    rng = random.Random(0)
    odd = [{**row, "label": rng.choice(["right", "nonsense", "ungradable", 3.5, [1]])} for row in many]
    assert data(tmp_path, outcomes(40), odd).digest == without.digest
    assert not any(example.row.label for example in without.unlabelled)


def test_an_unlabelled_response_that_is_labelled_elsewhere_is_left_out(tmp_path: Path) -> None:
    few = outcomes(40)
    found = data(tmp_path, few, [*few[:10], *outcomes(5, seed=9)], heldout=0.0)
    assert len(found.unlabelled) == 15
    assert found.left_out == {"unlabelled, and labelled elsewhere": 10}


def test_what_judges_is_not_learnt_from_unlabelled_either(tmp_path: Path) -> None:
    few = outcomes(40)
    spaced = [{**row, "question": row["question"].replace("+", " + ")} for row in few]
    held = {one.row.question for one in data(tmp_path, spaced).heldout}
    found = data(tmp_path, spaced, [{**row, "question": f" {row['question']} ", "response": "?"} for row in spaced])
    assert found.left_out == {"unlabelled, to held-out questions": 3 * len(held)}
    assert not {one.question for one in found.unlabelled} & held


def test_what_nothing_can_be_learnt_from_is_refused(tmp_path: Path) -> None:
    few = outcomes(20)
    with pytest.raises(LabelledError, match="all 20 labelled responses are right: there is nothing to tell apart"):
        data(tmp_path, outcomes(20, names=("right",)))
    with pytest.raises(LabelledError, match="no unlabelled response is left: all 60 are among the labelled ones, or"):
        data(tmp_path, few, few)
    with pytest.raises(LabelledError, match="holds no responses that can be used"):
        data(tmp_path, few, [])
    with pytest.raises(LabelledError, match="no labelled response of the class hack is left to learn from"):
        data(tmp_path, few, classes=("right", "slip", "format", "hack"))
    with pytest.raises(LabelledError, match=r"few.jsonl:3: the label 'format' is none of the classes right, slip"):
        data(tmp_path, few, classes=("right", "slip"))
    with pytest.raises(LabelledError, match="none of its 60 responses has a label"):
        data(tmp_path, [{**row, "label": None} for row in few])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> VerifierOrder:
    asked = order(tmp_path_factory.mktemp("verifier"), **{"learner.optimizer.lr": "3e-3"})
    assert carry_out(asked) == 0
    return asked


def test_it_learns_and_says_how_well(trained: VerifierOrder) -> None:
    results = json.loads((trained.out / "results.json").read_bytes())
    held = results["heldout"]
    assert held["accuracy"] > 0.8
    assert held["ci95"][0] <= held["accuracy"] <= held["ci95"][1]
    assert set(held["classes"]) == {"right", "slip", "format"}
    assert all(0 <= row["recall"] <= 1 for row in held["classes"].values())
    assert results["unlabelled"]["responses"] == 120
    assert results["reward"]["opinions"] + results["reward"]["abstained"] == held["responses"]
    assert results["reward"]["accuracy"] > 0.8
    assert results["export_gap"] < 1e-5
    kept = [json.loads(line) for line in (trained.out / "kept.jsonl").read_text().splitlines()]
    assert 0 < len(kept) == results["unlabelled"]["kept"] <= 60
    assert all(row["belief"] + row["disbelief"] + row["uncertainty"] == pytest.approx(1) for row in kept)
    beliefs = [row["belief"] for row in kept]
    assert beliefs == sorted(beliefs, reverse=True)
    assert not (trained.out / "stages").exists()


def test_it_serves_opinions_that_are_the_evidence(trained: VerifierOrder) -> None:
    model = load_verifier(str(trained.out / "model"), RewardModelConfig(path="x"))
    rows = [*outcomes(20, seed=5), {**outcomes(1)[0], "response": "é"}, {**outcomes(1)[0], "response": "2" * 70}]
    answers = [Answered(Problem.ask("p", row["question"], row["reference"], ""), row["response"]) for row in rows]
    found = asyncio.run(model.judge(answers))
    counts = model.counts()
    model.close()
    verifier = load_trained(str(trained.out / "model"))
    for row, opinion in zip(rows[:-2], found, strict=False):
        ids = verifier.reader.read(row["question"], row["reference"], row["response"])
        (alone,) = verifier.opinions([ids])
        assert alone.right == pytest.approx(opinion.right, abs=1e-9)
        assert opinion.right is None or opinion.parts["uncertainty"] <= 0.3 + 1e-9
    said = [(opinion.right, row["label"] == "right") for opinion, row in zip(found[:-2], rows, strict=False)]
    right = [p for p, true in said if true and p is not None]
    wrong = [p for p, true in said if not true and p is not None]
    assert np.mean(right) > 0.6 > 0.4 > np.mean(wrong)
    assert [opinion.right for opinion in found[-2:]] == [None, None]
    assert (counts["asked"], counts["unencodable"], counts["too_long"]) == (62, 1, 1)
    assert counts.get("abstained", 0) == sum(p is None for p, _ in said)


def test_without_its_evidence_or_with_that_of_another_it_is_refused(trained: VerifierOrder, tmp_path: Path) -> None:
    import shutil

    model = tmp_path / "model"
    shutil.copytree(trained.out / "model", model)
    row = json.loads((model / NAME).read_bytes())
    (model / NAME).write_text(json.dumps({**row, "classes": row["classes"][:2]}))
    with pytest.raises(EvidenceError, match="different numbers of classes"):
        load_trained(str(model))
    (model / NAME).unlink()
    with pytest.raises(EvidenceError, match=r"evidence\.json is missing"):
        load_trained(str(model))
    shutil.copyfile(trained.out / "model" / NAME, model / NAME)
    card = read_card(model)
    assert card is not None
    write_card(model, card.model_copy(update={"kind": "head"}))
    with pytest.raises(CardError, match="no verifier"):
        load_trained(str(model))


def test_stopped_anywhere_it_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    asked = order(tmp_path, few=12, many=12, **{"positive.epochs": "3", "negative.epochs": "4", "negative.switch": "2"})
    task = task_of(asked)
    asked.out.mkdir()
    whole = train(task, Stopper(), Quiet())
    asked.out.rename(tmp_path / "whole")
    asked.out.mkdir()
    done = []
    for after in (2, 8, 4):  # of 9 steps and of 12, three an epoch
        stopper = Stopper()
        with pytest.raises(Interrupted):
            train(task, stopper, Stopping(stopper, after))
        done += [int(available(stage / "checkpoints")[-1].name) for stage in (asked.out / "stages").glob("*/")]
    assert done == [2, 1, 5], "within an epoch of either training, and no step is taken twice"
    cut = train(task, Stopper(), Quiet())
    assert cut | {"seconds": 0} == whole | {"seconds": 0}
    for name in ("model/model.safetensors", f"model/{NAME}", "kept.jsonl"):
        assert (asked.out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    (asked.out / "stages" / "negative").mkdir(parents=True)  # killed while it tidied up: nothing is trained again
    assert train(task, Stopper(), Quiet()) == json.loads(json.dumps(cut))
    assert not (asked.out / "stages").exists()


def test_killed_within_an_epoch_it_goes_on_from_within_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier_teaching, "FEW", 2)
    monkeypatch.setattr(verifier_teaching, "CHECKPOINTS", 100)
    short = {"positive.epochs": "1", "negative.epochs": "2", "negative.switch": "1"}
    asked = order(tmp_path, few=12, many=12, **short)
    task = task_of(asked)
    asked.out.mkdir()
    whole = train(task, Stopper(), Quiet())
    asked.out.rename(tmp_path / "whole")
    asked.out.mkdir()
    steps = []
    for after in (6, 4):  # in the third of the six negative ones, and in the last
        with pytest.raises(Killed):
            train(task, Stopper(), Killing(after))
        steps += [path.name for path in available(asked.out / "stages" / "negative" / "checkpoints")]
    assert steps == ["000002", "000002", "000004"]
    cut = train(task, Stopper(), Quiet())
    assert cut | {"seconds": 0} == whole | {"seconds": 0}
    for name in ("model/model.safetensors", f"model/{NAME}", "kept.jsonl"):
        assert (asked.out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("keys", "gap"), [({"model.lora.rank": "4"}, 1e-5), ({"model.export_dtype": "bfloat16"}, 0.02)]
)
def test_without_validation_the_last_epoch_is_written_whatever_its_form(
    tmp_path: Path, keys: dict[str, str], gap: float
) -> None:
    short = {"positive.epochs": "1", "negative.epochs": "1", "split.validation": "0"}
    asked = order(tmp_path, few=8, many=8, **short, **keys)
    assert carry_out(asked) == 0
    results = json.loads((asked.out / "results.json").read_bytes())
    assert results["best_epoch"] is None
    assert results["export_gap"] < gap


def test_filtering_says_what_is_learnt_from(tmp_path: Path) -> None:
    asked = order(tmp_path, few=12, many=12)
    task = task_of(asked)
    asked.out.mkdir()
    rng = np.random.default_rng(0)
    known, many = len(task.data.known), len(task.data.unlabelled)
    p = rng.dirichlet([0.3] * 3, size=known + many)
    hidden = rng.normal(size=(known + many, 4))
    file = asked.out / "predictions.npz"
    np.savez(file, p=p[:known], hidden=hidden[:known], more=p[known:], states=hidden[known:], held=p[:0])
    predictions = read_predictions(file)
    assert len(choose(task, predictions).chosen) <= many // 2
    for name, expected in (("confidence", int((p[known:].max(1) >= 0.9).sum())), ("none", many)):
        config = task.config.model_copy(update={"filtering": name})
        kept = choose(type(task)(**{**vars(task), "config": config}), predictions)
        assert len(kept.chosen) == expected
        learnt = kept.of(task.data.unlabelled)
        assert learnt.labels == tuple(int(p[known + index].argmax()) for index in kept.chosen)


def test_an_encoder_becomes_a_verifier_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=len(tokenizer()), max_position_embeddings=64, pad_token_id=tokenizer().pad_token_id, **sizes
    )
    BertModel(config).save_pretrained(tmp_path / "base")
    save_tokenizer(tokenizer(), tmp_path / "base")
    asked = order(tmp_path, few=12, many=12, at="means", **{"positive.epochs": "1", "negative.epochs": "1"})
    assert carry_out(asked) == 0
    assert json.loads((asked.out / "results.json").read_bytes())["export_gap"] < 1e-5
    assert load_trained(str(asked.out / "model")).evidence.at == "means"


def test_teachers_decay_and_select() -> None:
    teacher = Negative([0, 1, 2, 2], 3, epochs=6, batch=2, lr=1.0, switch=3, seed=0, decay=0.5)
    assert [teacher.lesson(epoch).lr for epoch in range(6)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert [teacher.asks(epoch) for epoch in range(6)] == [False, True, True, True, True, False]
    assert teacher.lesson(0).labels != teacher.lesson(1).labels
    assert {len(row) for row in teacher.lesson(0).labels} == {3}
    teacher.see([0.9, 0.1, 0.9, 0.2])
    teacher.see([0.9, 0.1, 0.9, 0.2])
    assert teacher.lesson(2).kept == (0, 1, 2, 3)
    assert teacher.lesson(3).kept == (0, 2)
    again = Negative([0, 1, 2, 2], 3, epochs=6, batch=2, lr=1.0, switch=3, seed=0)
    again.restore(json.loads(json.dumps(teacher.state())))
    assert again.lesson(3).kept == (0, 2)
    assert Positive([0, 1], 2, epochs=1, batch=1, lr=1.0).lesson(0).labels == ((0,), (1,))


def test_macro_f1_is_the_mean_over_classes_that_occur() -> None:
    assert macro_f1([0, 0, 1, 1], [0, 1, 1, 1], 4) == pytest.approx((2 / 3 + 4 / 5) / 2)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["--template", "{question}"], "template has no {response}"),
        (["--learner.objective.kind", "grpo"], "learner.objective: what is learnt is given by"),
        (["--split.heldout", "0.9", "--split.validation", "0.2"], "leave nothing to learn from"),
        (["--filtering", "luck"], "filtering"),
        (["--evidence.uncertainty", "0"], "evidence.uncertainty"),
    ],
)
def test_keys_are_checked(keys: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "verifier", "--labelled", "x", "--unlabelled", "u", "--model", "y", "--out", "z"]
    assert main([*command, *keys]) == 2
    assert message in capsys.readouterr().err


def test_means_over_a_causal_lm_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = order(tmp_path, few=12, many=12)
    command = ["train", "verifier", "--labelled", str(asked.labelled), "--unlabelled", str(asked.unlabelled)]
    command += ["--model", asked.base, "--out", str(asked.out), "--at", "means"]
    assert main(command) == 2
    assert "whose last token has seen all" in capsys.readouterr().err
    assert not asked.out.exists()
