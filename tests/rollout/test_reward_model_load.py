"""From a path to a reward model: what kind it is, what is refused, and when its files count as others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reward_model_kit import save_head
from tiny_models import tiny_llama

from rollout.models.pretrained import ModelPathError
from rollout.reward_models.asking import JUDGE_TEMPLATE
from rollout.reward_models.card import NAME, Card, CardError, write_card
from rollout.reward_models.load import digest, find


def test_a_sequence_classifier_is_a_head_and_a_causal_model_a_judge(tmp_path: Path) -> None:
    assert find(str(save_head(tmp_path / "head"))).card == Card(kind="head")
    tiny_llama().save_pretrained(tmp_path / "judge")
    card = find(str(tmp_path / "judge")).card
    assert (card.kind, card.template) == ("judge", JUDGE_TEMPLATE)


def test_a_card_says_more_than_the_architecture(tmp_path: Path) -> None:
    card = Card(kind="verifier", classes=("right", "slip", "setup"), template="{response}")
    write_card(save_head(tmp_path), card)
    assert find(str(tmp_path)).card == card


def test_of_a_run_it_is_the_model_that_it_exported(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    with pytest.raises(ModelPathError, match="a run that has exported no model yet; let it finish"):
        find(str(tmp_path))
    save_head(tmp_path / "model")
    assert find(str(tmp_path)).path == str(tmp_path / "model")


def without_weights(folder: Path) -> None:
    (save_head(folder) / "model.safetensors").unlink()


def cut_short(folder: Path) -> None:
    file = save_head(folder) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def of_no_use(folder: Path) -> None:
    save_head(folder)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaModel"], "model_type": "llama"}))


def without_response(folder: Path) -> None:
    (save_head(folder) / NAME).write_text('{"kind": "judge", "template": "Is {reference} right?"}')


def torn_card(folder: Path) -> None:
    (save_head(folder) / NAME).write_text('{"kind": ')


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "no such model directory"),
        (lambda folder: folder.mkdir(), "holds no model (no config.json)"),
        (lambda folder: folder.write_text("model"), "a file; name the directory"),
        (without_weights, "this directory holds no weights"),
        (cut_short, "model.safetensors: cannot be read"),
        (of_no_use, "LlamaModel: neither a sequence classifier nor a causal LM"),
        (without_response, "template has no {response}"),
        (torn_card, f"{NAME}: Expecting value"),
    ],
)
def test_what_is_no_reward_model_is_refused_in_one_line(make, said: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "model")
    with pytest.raises((ModelPathError, CardError)) as caught:
        find(str(tmp_path / "model"))
    assert said in str(caught.value)
    assert str(tmp_path / "model") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_its_files_are_others_when_any_of_them_changes_but_not_when_it_moves(tmp_path: Path) -> None:
    a, b = save_head(tmp_path / "a"), save_head(tmp_path / "b")
    assert digest(find(str(a))) == digest(find(str(b)))
    write_card(b, Card(kind="head", temperature=2.0))
    assert digest(find(str(a))) != digest(find(str(b)))
    assert digest(find(str(a))) != digest(find(str(save_head(tmp_path / "c", seed=1))))
