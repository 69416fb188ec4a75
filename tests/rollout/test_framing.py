"""From a problem to the conversation that asks it: system, solved examples, earlier turns, instruction, template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eval_kit import write_model

from rl.config import RunConfig
from rollout.models.framing import Framing
from rollout.models.templates import PromptError
from rollout.problems.config import JsonlSource
from rollout.problems.jsonl import load_jsonl
from rollout.problems.rows import problem_of
from rollout.problems.source import ProblemError, ProblemList, check_disjoint
from rollout.types import Message, Problem

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 1+1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "And twice that?"},
]


def said(framing: Framing, problem: Problem) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in framing.messages(problem)]


def test_a_plain_question_is_the_one_message_case() -> None:
    problem = Problem.ask("p", "1+1?", "2", "exact")
    assert problem.messages == (Message("user", "1+1?"),)
    assert said(Framing(), problem) == [("user", "1+1?")]
    framing = Framing("Solve.", (("2+2?", "4"),), "Box it.")
    assert said(framing, problem) == [
        ("system", "Solve."),
        ("user", "2+2?"),
        ("assistant", "4"),
        ("user", "1+1?\n\nBox it."),
    ]


def test_a_conversation_keeps_its_turns_and_its_own_system_message() -> None:
    problem = problem_of({"id": "a", "messages": TALK, "answer": "4"}, "exact", "x", "y")
    assert problem.prompt == "And twice that?"
    assert said(Framing("Solve.", (("2+2?", "4"),)), problem) == [
        ("system", "Be brief."),
        ("user", "2+2?"),
        ("assistant", "4"),
        ("user", "What is 1+1?"),
        ("assistant", "2"),
        ("user", "And twice that?"),
    ]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "messages is no list of objects"),
        ("hi", "messages is no list of objects"),
        ([{"role": "user"}], "messages: message 1: no content"),
        ([{"role": "teacher", "content": "x"}], "the role of message 1 is 'teacher', not one of system, user"),
        (TALK[:3], "the last one must be the user's, the question; it is the assistant's"),
        ([*TALK[:3], {"role": "user", "content": "\ud800"}], "message 4: content has a lone surrogate"),
    ],
)
def test_a_broken_conversation_is_named_with_its_line(messages: Any, words: str, tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    rows = [{"messages": TALK, "answer": "4"}, {"messages": messages, "answer": "4"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ProblemError, match=r"talks.jsonl:2: .*" + words.replace("(", r"\(")):
        load_jsonl(JsonlSource(path=str(file), verifier="exact"))


def test_what_is_asked_before_belongs_to_the_problem() -> None:
    def one(before: str, name: str = "p") -> ProblemList:
        talk = [{"role": "user", "content": before}, *TALK[2:]]
        return ProblemList([problem_of({"id": name, "messages": talk, "answer": "4"}, "exact", "x", "y")], "talks")

    assert one("What is 1+1?").fingerprint != one("What is 2+2?").fingerprint
    check_disjoint(one("What is 1+1?"), one("What is 2+2?", "q"))
    with pytest.raises(ProblemError, match="also training problems"):
        check_disjoint(one("What is 1+1?"), one("what is  1+1?", "q"))


def test_a_run_puts_problems_as_its_configuration_says(tmp_path: Path) -> None:
    from recipes.run.setup import prepare

    template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% if enable_thinking %}(think){% endif %}{% endif %}"
    )
    model = write_model(tmp_path / "model", context=256, template=template)
    talks = tmp_path / "talks.jsonl"
    talks.write_text(
        "".join(json.dumps({"id": f"t{i}", "messages": TALK[1:], "answer": str(i)}) + "\n" for i in range(4))
    )
    sums = {"kind": "arithmetic", "steps": [2, 2]}
    tree: dict[str, Any] = {
        "model": {"base": {"kind": "pretrained", "path": str(model)}},
        "problems": {
            "train": {"kind": "jsonl", "path": str(talks), "verifier": "exact"},
            "heldout": sums,
            "heldout_size": 2,
            "shots": [["2+2?", "4"]],
            "system": "Solve.",
            "template": {"enable_thinking": True},
        },
        "engine": {"kind": "hf", "max_model_len": 256},
        "rollout": {"groups": 2, "k": 2, "segment_tokens": 24, "max_tokens": 32},
        "ray": {"in_process": True},
    }
    setup = prepare(RunConfig.model_validate(tree))
    text = setup.tokenizer.decode(setup.render(setup.train[0]).token_ids.tolist())
    assert text == (
        "<system>Solve.<user>2+2?<assistant>4<user>What is 1+1?<assistant>2<user>And twice that?<assistant>(think)"
    )
    tree["problems"]["template"] = {"reasoning": "high"}
    with pytest.raises(PromptError, match="makes nothing of 'reasoning'"):
        prepare(RunConfig.model_validate(tree))
