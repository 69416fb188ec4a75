"""Chat templates are used as they must be, or refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from eval_kit import CHARACTERS, problem
from factories import ids

from evals.benchmark import Benchmark, followed_by
from evals.pooled import PoolResponder
from evals.prompting import Conversation, Renderer
from rollout.engine import Sampling
from rollout.models.prompts import PromptError
from rollout.models.templates import check_tokens
from rollout.models.tokenizer import CHAT_TEMPLATE, build_tokenizer
from rollout.pool.board import Completion
from rollout.types import Prompt, Segment, StopReason

BENCHMARK = Benchmark("b", "B", "", ask=followed_by("Box it."))
LOOP = "{% for m in messages %}"
TURN = "<{{ m['role'] }}>{{ m['content'] }}{% if m['role'] == 'assistant' %}<eos>{% endif %}"
NO_GENERATION = LOOP + TURN + "{% endfor %}"
DROPS = "<user>hello{% if add_generation_prompt %}<assistant>{% endif %}"
NO_HEAD = LOOP + "{{ m['content'] }}{% if m['role'] == 'user' %}|{% endif %}{% endfor %}"
SWITCH = CHAT_TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}{{ '-no-' }}{% endif %}"


def renderer(template: str | None = CHAT_TEMPLATE, **changes: Any) -> Renderer:
    tokenizer = build_tokenizer([*CHARACTERS, "<think>"], 512)
    tokenizer.chat_template = template
    return Renderer(tokenizer, Conversation(BENCHMARK, **changes))


def test_the_prompt_is_the_templates_with_instruction_and_generation_prompt() -> None:
    assert renderer().text(problem(3)) == "<user>What is 3?\n\nBox it.<assistant>"


def test_system_message_and_solved_examples_come_first() -> None:
    found = renderer(shots=(("1+1?", "2"), ("2+2?", "4")))
    found.conversation = replace(found.conversation, benchmark=replace(BENCHMARK, system="Be brief."))
    turns = "<user>Be brief.<user>1+1?<assistant>2<eos><user>2+2?<assistant>4<eos>"
    assert found.text(problem(3)) == turns + "<user>What is 3?\n\nBox it.<assistant>"


@pytest.mark.parametrize(
    ("template", "changes", "words"),
    [
        (NO_GENERATION, {}, "has no generation prompt: it begins an assistant's turn with '<assistant>'"),
        (DROPS, {}, "leaves out the user's message"),
        (None, {}, "has no chat template"),
        (CHAT_TEMPLATE, {"thinking": "off"}, "has no switch for thinking"),
    ],
)
def test_wrong_templates_are_refused(template: str | None, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PromptError, match=words):
        renderer(template, **changes)(problem(3))


def test_a_template_whose_answers_have_no_head_needs_no_generation_prompt() -> None:
    assert renderer(NO_HEAD).text(problem(3)) == "What is 3?\n\nBox it.|"


def test_the_thinking_switch_reaches_the_template() -> None:
    assert renderer(SWITCH, thinking="off").text(problem(3)).endswith("<assistant>-no-")
    assert renderer(SWITCH, thinking="on").text(problem(3)).endswith("<assistant>")


def test_a_doubled_bos_is_refused() -> None:
    found = renderer("<user>" + CHAT_TEMPLATE)
    found.tokenizer.bos_token = "<user>"
    with pytest.raises(PromptError, match="begins with two BOS tokens"):
        found(problem(3))
    check_tokens(found.tokenizer, found.tokenizer("<user>a", add_special_tokens=False)["input_ids"])


class FakePool:
    """One request is over, one has used up its budget after an engine's death, and one is given up."""

    def generate(self, requests: Any, *, on_rest: Any, turns: Any) -> None:
        a, b, c = requests
        on_rest(Completion(b.key, (Segment(0, (2,), (0.0,)), Segment(0, (3,), (0.0,))), None, failures=1))
        on_rest(Completion(a.key, (Segment(0, (1, 9), (0.0, 0.0)),), StopReason.EOS))
        on_rest(Completion(c.key, (), None, failures=3, error="died"))


def test_pieces_become_responses_once_each() -> None:
    from evals.evaluate import asks_of

    def graded(prompt: Any, tokens: Any) -> str:
        return f"{ids(prompt)} -> " + "".join(map(str, tokens))

    responder = PoolResponder(FakePool(), lambda _: Prompt((5,)), graded, Sampling(), 10, 100)
    found: list[Any] = []
    responder.respond(asks_of([problem(0)], 3, 0), lambda ask, response: found.append((ask.sample, response)))
    assert [(sample, r.text, r.stop, r.tokens) for sample, r in sorted(found, key=lambda one: one[0])] == [
        (0, "(5,) -> 19", StopReason.EOS, 2),
        (1, "(5,) -> 23", StopReason.LENGTH, 2),
        (2, "(5,) -> ", StopReason.ABORTED, 0),
    ]
    assert found[0][1].token_ids == (2, 3)
