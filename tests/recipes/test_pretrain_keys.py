"""Keys of the learner that say nothing about a pretraining."""

from __future__ import annotations

import pytest

from recipes.commands.cli import main


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("learner.optimizer.lr", "set schedule.lr"),
        ("learner.updates", "leave it out"),
        ("learner.objective.kind", "leave it out"),
    ],
)
def test_they_are_refused_on_the_command_line(key: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    value = {"learner.objective.kind": "grpo"}.get(key, "1")
    assert main(["train", "moonlight", f"--{key}", value, "--dry-run"]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err == f"k15: {key} is of RL, and a pretraining goes by its schedule; {words}\n"


def test_those_of_its_own_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "moonlight", "--learner.optimizer.kind", "adamw", "--schedule.lr", "1e-3", "--dry-run"]) == 0
    assert "kind: adamw" in capsys.readouterr().out
