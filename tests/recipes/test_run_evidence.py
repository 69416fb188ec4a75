"""Whole runs on problems that bring evidence in windows: drawn, journalled, resumed, trained and evaluated with it."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from run_kit import assert_same_run, tiny
from transformers import AutoTokenizer

from recipes.run.session import run
from recipes.run.setup import renderer
from rl.config import RunConfig
from rl.learner.config import ScratchModel
from rl.learner.policy import create_model
from rl.record.log import read_metrics
from rollout.models.templates import PromptError
from rollout.models.tokenizer import build_tokenizer
from rollout.serial import read_groups
from rollout.types import Problem

CHARACTERS = [*string.ascii_lowercase, *string.digits, " ", "=", "?", ";", "\n"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model, and problems about the pairs of their evidence."""
    folder = tmp_path_factory.mktemp("data")
    tokenizer = build_tokenizer(CHARACTERS, 96)
    shape = ScratchModel(layers=1, width=16, heads=2, kv_heads=2, mlp_width=32, context=96)
    create_model(shape, tokenizer, 0).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    source = random.Random(0)
    for name, count in (("train", 12), ("heldout", 4)):
        rows = []
        for number in range(count):
            texts = ["; ".join(f"{source.choice('abcd')}={source.randint(0, 9)}" for _ in range(4)) for _ in range(3)]
            question = f"{name[0]}{number} {source.choice('abcd')}?"
            rows.append({"problem": question, "answer": str(number % 10), "verifier": "exact", "evidence": texts})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = "def reward(problem, response):\n    return float(len(response) % 2)\n"
    (folder / "parity.py").write_text(code)
    return folder


def config(data: Path, **changes: Any) -> RunConfig:
    problems = {name: {"kind": "jsonl", "path": str(data / f"{name}.jsonl")} for name in ("train", "heldout")}
    rollout = {"groups": 3, "k": 2, "segment_tokens": 6, "max_tokens": 12, "loss_on": "all", "evidence": {}}
    base = {
        "iterations": 3,
        "warmup": None,
        "model": {"base": {"kind": "pretrained", "path": str(data / "base")}, "threads": 1},
        "problems": {**problems, "heldout_size": 4},
        "rollout": rollout,
        "reward": {"function": f"{data / 'parity.py'}:reward"},
    }
    return tiny(**{**base, **changes})


def test_a_run_draws_with_evidence_and_trains_what_it_drew(data: Path, tmp_path: Path) -> None:
    whole = {"groups": 3, "k": 2, "segment_tokens": 12, "max_tokens": 12, "evidence": {}}
    assert run(config(data, rollout=whole), tmp_path / "run") == 0
    rows = [row for row in read_metrics(tmp_path / "run") if row.get("steps/done")]
    assert rows
    for row in rows:
        # Sampler and learner agree on tokens that windows spoke for: both merge the same rows.
        assert row["off_policy/ess"] > 0.99999


def test_a_resumed_run_is_bitwise_equal(data: Path, tmp_path: Path) -> None:
    """Invariant 9, with windows and pointers of unfinished rollouts in the checkpoint."""
    assert run(config(data), tmp_path / "whole") == 0
    assert run(config(data, iterations=1), tmp_path / "cut") == 0
    kept = [group for path in (tmp_path / "cut").rglob("*.arrow") for group in read_groups(path)]
    assert any(len(rollout.pointers) for group in kept for rollout in group.rollouts)
    assert all(len(rollout.prompt.windows) == 3 for group in kept for rollout in group.rollouts)
    assert run(config(data), tmp_path / "cut") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_evidence_is_not_read_past_in_silence(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = {"groups": 3, "k": 2, "segment_tokens": 6, "max_tokens": 12}
    assert run(config(data, rollout=plain), tmp_path / "run") == 1
    assert "brings evidence, which only a run with rollout.evidence reads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["a=1", " "], "'evidence 2' is empty"),
        ({"log": "a=1", "spec": ""}, "'spec' is empty"),
        ([], "is empty; leave it out"),
        ("a=1", "neither a list of texts nor an object"),
    ],
)
def test_evidence_that_is_none_is_refused_before_anything_is_spent(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], texts: Any, said: str
) -> None:
    row = {"problem": "q?", "answer": "1", "verifier": "exact", "evidence": texts}
    (tmp_path / "bad.jsonl").write_text(json.dumps(row) + "\n" + (data / "train.jsonl").read_text())
    problems = {
        "train": {"kind": "jsonl", "path": str(tmp_path / "bad.jsonl")},
        "heldout": {"kind": "jsonl", "path": str(data / "heldout.jsonl")},
        "heldout_size": 4,
    }
    assert run(config(data, problems=problems), tmp_path / "run") == 1
    assert said in capsys.readouterr().err


def test_evidence_of_a_judge_is_not_the_policys(data: Path) -> None:
    """Who reads the field follows from the configuration; its shape is one for all."""
    tokenizer = AutoTokenizer.from_pretrained(data / "base")
    problem = Problem.ask("p", "a?", extra={"evidence": {"log": "a=1", "spec": "b=2"}})
    plain = {"groups": 3, "k": 2, "segment_tokens": 6, "max_tokens": 12}
    judge = {"function": None, "model": {"path": str(data / "base"), "evidence": {}}}
    unread = config(data, rollout=plain)
    with pytest.raises(PromptError, match=r"or a judge with reward\.model\.evidence"):
        renderer(tokenizer, unread)(problem)
    assert not renderer(tokenizer, config(data, rollout=plain, reward=judge))(problem).windows
    assert len(renderer(tokenizer, config(data))(problem).windows) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rollout": {"evidence": {"pooling": "mean"}}}, "training takes entropy"),
        ({"rollout": {"evidence": {"top_p": 0.95}}}, "set top_p to 1"),
        ({"rollout": {"evidence": {}}, "warmup": {"examples": 8}}, "does not go with a warm-up"),
        ({"rollout": {"evidence": {}}, "engine": {"speculative": {}}}, "does not go with engine.speculative"),
    ],
)
def test_what_does_not_go_with_evidence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RunConfig.model_validate(changes)
