"""Environments that fail: what their code gives, raises, blocks or writes costs the rollout at hand, never the run."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from rewards.score import Score
from rollout.environments.build import build_environment, check_turns
from rollout.environments.config import Episode, OwnEnvironment, PythonTool
from rollout.environments.episodes import Episodes
from rollout.environments.protocol import Conversation, End, Feed
from rollout.grading import VerifierGrader
from rollout.models.prompts import Transcript
from rollout.models.templates import MARK, PromptError
from rollout.models.tokenizer import build_tokenizer
from rollout.models.turns import Feeder
from rollout.pool.board import Reply
from rollout.types import Group, Message, Problem, Prompt, Rollout, Segment

LETTERS = [chr(97 + i) for i in range(26)]
PATIENT = Episode(seconds=60.0)


def reader() -> Transcript:
    tokenizer = build_tokenizer(LETTERS, 64)
    return Transcript(tokenizer, (tokenizer.eos_token_id,))


async def ask(episodes: Episodes, *keys: str) -> list[Reply]:
    """The replies to turns of two letters, asked for at one time."""
    rollouts = tuple(Rollout(key, Prompt((3, 5, 4))) for key in keys)
    turns = episodes.turns([Group("g", Problem.ask("p", "a"), rollouts, 0)])
    said = [Segment(0, (5, 6, 1), (-1.0,) * 3)]
    return await asyncio.wait_for(asyncio.gather(*(turns(key, said, 40) for key in keys)), 30)


def own(tmp_path: Path, body: str, limits: Episode = PATIENT) -> Episodes:
    """An environment whose step has this body."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import asyncio, threading\n"
        "from rewards.score import Score\n"
        "from rollout.environments.protocol import End, Feed\n"
        "from rollout.types import Message\n"
        "class Mine:\n"
        "    async def step(self, conversation):\n"
        f"        {body}\n"
    )
    return Episodes(build_environment(OwnEnvironment(path=f"{file}:Mine"), lambda: VerifierGrader()), reader(), limits)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise asyncio.CancelledError", "CancelledError"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise StopIteration", ":7: RuntimeError: coroutine raised StopIteration"),
        ("raise TimeoutError('a server')", ":7: TimeoutError: a server"),
        ("return None", "step returned NoneType, neither Feed nor End"),
        ("return Feed('more')", ":7: ValueError: Feed takes messages, got 'more'"),
        ("return Feed(())", ":7: ValueError: Feed takes messages, got ()"),
        ("return Feed((7,))", ":7: ValueError: Feed takes messages, got int"),
        ("return Feed.text(7)", ":7: ValueError: Feed: the content of a message is int, not text"),
        ("return Feed.text('a', None)", ":7: ValueError: Feed: the role of a message is NoneType, not text"),
        ("return Feed.text('\\ud800')", ":7: ValueError: Feed: the content of a message has a lone surrogate"),
        ("return End(0.5)", ":7: ValueError: End takes a Score or nothing, got 0.5"),
        ("return End('right')", ":7: ValueError: End takes a Score or nothing, got 'right'"),
    ],
)
def test_what_is_no_answer_is_ungradable_with_its_place_and_the_next_is_answered(
    body: str, reason: str, tmp_path: Path
) -> None:
    """An exception that would end a thread or an event loop ends neither."""
    episodes = own(tmp_path, body)
    for count in (1, 2):
        (reply,) = asyncio.run(ask(episodes, "g/0"))
        assert reply.score is not None
        assert not reply.score.gradable
        assert reason in reply.score.reason
        assert episodes.counts.failures == count
    episodes.close()


class Blocking:
    """Steps of ``g/0`` block the event loop that they run on; of others are answered."""

    def __init__(self) -> None:
        self.open = threading.Event()

    async def step(self, conversation: Conversation) -> Feed | End:
        if not self.open.is_set():
            self.open.wait(60)
        return End(Score.right("b"))

    def close(self) -> None:
        self.open.set()


def test_a_step_that_blocks_its_event_loop_costs_its_own_rollouts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.user_calls.ALIVE_S", 0.2)
    environment = Blocking()
    episodes = Episodes(environment, reader(), Episode(seconds=0.2))
    for reply in asyncio.run(ask(episodes, "g/0", "g/1", "g/2")):
        assert reply.score == Score.ungradable("environment: no answer within 0.2 s")
    environment.open.set()
    episodes.limits = PATIENT
    assert [reply.score for reply in asyncio.run(ask(episodes, "g/3", "g/4"))] == [Score.right("b")] * 2
    assert episodes.counts.failures == 3
    episodes.close()


class Slow:
    """Answers when as many steps as it may have at one time are under way."""

    def __init__(self, at_once: int) -> None:
        self.at_once, self.running, self.most = at_once, 0, 0

    async def step(self, conversation: Conversation) -> Feed | End:
        self.running += 1
        self.most = max(self.most, self.running)
        while self.most < self.at_once:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        self.running -= 1
        return End()

    def close(self) -> None: ...


def test_no_more_turns_are_asked_about_at_one_time_than_there_may_be() -> None:
    """The others are not begun, and so cannot be late."""
    environment = Slow(2)
    episodes = Episodes(environment, reader(), Episode(seconds=60, concurrency=2))
    replies = asyncio.run(ask(episodes, *(f"g/{j}" for j in range(7))))
    assert [reply.score for reply in replies] == [None] * 7
    assert environment.most == 2
    episodes.close()


def test_a_step_that_will_not_be_cancelled_is_left_behind(tmp_path: Path) -> None:
    body = """while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass"""
    episodes = own(tmp_path, body, Episode(seconds=0.1))
    (reply,) = asyncio.run(ask(episodes, "g/0"))
    assert reply.score == Score.ungradable("environment: no answer within 0.1 s")
    episodes.close()


def test_a_score_is_kept_in_plain_types_and_its_texts_in_bounds(tmp_path: Path) -> None:
    import numpy as np

    class Generous:
        async def step(self, conversation: Conversation) -> Feed | End:
            return End(Score(np.float32(0.5), np.bool_(False), {"n": np.int64(2)}, "why\n" * 999, "x" * 99_999))

        def close(self) -> None: ...

    episodes = Episodes(Generous(), reader(), PATIENT)
    (reply,) = asyncio.run(ask(episodes, "g/0"))
    episodes.close()
    score = reply.score
    assert score is not None
    assert [type(value) for value in (score.reward, score.correct, score.parts["n"])] == [float, bool, float]
    assert len(score.reason) <= 300
    assert len(score.extracted) <= 10_000


def test_an_environment_that_cannot_be_closed_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    episodes = own(tmp_path, "return End()\n    def close(self):\n        raise RuntimeError('why')")
    episodes.close()
    assert "RuntimeError: why (while it was closed)" in caplog.text


SILENT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<user>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{{ '<assistant>' + m['content'] + '<eos>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
"""Leaves out what tools say, and says nothing of it, as many templates do."""


def test_a_template_that_leaves_out_a_role_is_said_before_the_run() -> None:
    transcript = reader()
    transcript.tokenizer.chat_template = SILENT
    with pytest.raises(PromptError, match="leaves out messages of the role 'tool'"):
        check_turns(PythonTool(opens="run", closes="end"), transcript)
    check_turns(PythonTool(role="user", opens="run", closes="end"), transcript)


def test_a_template_that_needs_more_than_an_answer_may_take_is_said_before_the_run() -> None:
    transcript = reader()
    transcript.tokenizer.chat_template = SILENT.replace("'<user>'", "'<user>abcdefghij'")
    with pytest.raises(PromptError, match=r"takes 12 tokens .* environment.feed_tokens allows 1 to 8"):
        check_turns(PythonTool(role="user", feed_tokens=8, opens="run", closes="end"), transcript)


def test_a_tool_that_the_policy_cannot_call_is_said_before_the_run() -> None:
    """A vocabulary from scratch has what its task needs, and no more."""
    with pytest.raises(PromptError, match=r"environment.closes: .* has no tokens for '\]'"):
        check_turns(PythonTool(opens="run", closes="]"), reader())
    check_turns(PythonTool(opens="run", closes="end"), reader())


def test_an_output_that_holds_the_mark_of_an_answer_keeps_its_head() -> None:
    """A program may print anything, also the text that the template is examined with."""
    feeder = Feeder(reader().tokenizer)
    assert feeder.text([Message("tool", f"a{MARK}b")]) == f"<user>a{MARK}b<assistant>"


def test_the_indentation_of_an_output_stays() -> None:
    """Some tokenizers have tokens of several blanks among the added ones."""
    tokenizer = reader().tokenizer
    tokenizer.add_tokens(["  ", "    ", "\t\t"])
    assert Feeder(tokenizer).defused("a:\n    b\n\t\tc <eos>") == "a:\n    b\n\t\tc < eos>"


def test_of_an_endless_output_only_what_may_fit_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    feeder = Feeder(reader().tokenizer)
    longest = max(map(len, feeder.tokenizer.get_vocab()))
    encoded: list[int] = []
    tokens = feeder.tokens
    monkeypatch.setattr(feeder, "tokens", lambda messages: encoded.append(len(messages[0].content)) or tokens(messages))
    assert 8 < len(feeder.fitting([Message("tool", "ab" * 1_000_000)], 16)) <= 16
    assert max(encoded) <= 16 * longest
