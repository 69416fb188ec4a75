"""A judge at work: what becomes of its verdicts, of unread and late ones, and of its engines' deaths."""

from __future__ import annotations

import asyncio
import gc
import threading
import traceback

import pytest
from fake_engine import FakeEngine, Faults
from judge_kit import CORRECT, WRONG, Bench, asked, family_tokenizer, judge_files, says

from rollout.config import EngineConfig
from rollout.engine import AllEnginesDead, Delta, Request
from rollout.models.prompts import PromptError
from rollout.pool.open_stream import OpenStream
from rollout.reward_models.asking import judge_card
from rollout.reward_models.config import RewardModelConfig
from tests.processes import until


def test_a_verdict_is_an_opinion_with_its_text() -> None:
    with Bench(says(f"They are the same.\n{CORRECT}")) as bench:
        (opinion,) = bench.judge(asked("4"))
        assert (opinion.right, opinion.parts["read"]) == (1.0, 1.0)
        assert opinion.text == f"They are the same.\n{CORRECT}"
        counts = bench.model.counts()
    assert (counts["asked"], counts["verdicts"], counts["unread"], counts["asked_again"]) == (1, 1, 0, 0)
    assert counts["tokens"] == len(f"They are the same.\n{CORRECT}") + 1 == opinion.parts["tokens"]
    assert counts["busy_s"] > 0


def test_an_unread_verdict_is_asked_for_once_more_with_another_seed() -> None:
    with Bench(says("I think so.", WRONG)) as bench:
        (opinion,) = bench.judge(asked("5"))
        assert opinion.right == 0.0
        first, second = bench.requests.values()
        assert first.prompt == second.prompt
        assert first.seed != second.seed
        counts = bench.model.counts()
    assert (counts["asked_again"], counts["verdicts"], counts["unread"]) == (1, 1, 0)


def test_one_that_is_unread_twice_is_no_opinion_and_not_asked_a_third_time() -> None:
    with Bench(says("Hm.", "Hm?", CORRECT)) as bench:
        (opinion,) = bench.judge(asked("5"))
        assert opinion.right is None
        assert opinion.reason == "no verdict could be read: no JSON object at the end"
        assert opinion.text == "Hm?"
        counts = bench.model.counts()
    assert (counts["asked_again"], counts["verdicts"], counts["unread"]) == (1, 0, 1)


def test_without_an_answer_a_response_is_wrong_and_the_judge_is_not_asked() -> None:
    with Bench(says(CORRECT), card=judge_card(sees="answer")) as bench:
        opinions = bench.judge(asked("<think>It is 4"), asked("<think>So</think> 4"))
        assert [opinion.right for opinion in opinions] == [0.0, 1.0]
        assert len(bench.requests) == 1
        assert bench.model.counts()["no_answer"] == 1


def test_a_greedy_judge_is_not_asked_the_same_again() -> None:
    with Bench(says("Hm.", CORRECT), temperature=0) as bench:
        (opinion,) = bench.judge(asked("5"))
        assert opinion.right is None
        assert bench.model.counts()["asked_again"] == 0


@pytest.mark.parametrize(
    ("texts", "vote", "right"),
    [
        ((CORRECT, CORRECT, WRONG), "majority", 1.0),
        ((CORRECT, WRONG, WRONG), "majority", 0.0),
        ((CORRECT, CORRECT, WRONG), "mean", 2 / 3),
    ],
)
def test_samples_vote(texts: tuple[str, ...], vote: str, right: float) -> None:
    with Bench(says(*texts), samples=3, vote=vote) as bench:
        (opinion,) = bench.judge(asked("4"))
        assert opinion.right == pytest.approx(right)
        assert opinion.parts["read"] == 3
        assert len({request.seed for request in bench.requests.values()}) == 3


def test_a_tie_is_undecided() -> None:
    with Bench(says(CORRECT, WRONG), samples=2) as bench:
        (opinion,) = bench.judge(asked("4"))
    assert opinion.right is None
    assert opinion.reason == "its 2 verdicts are a tie"


def test_the_seeds_follow_from_the_response_alone() -> None:
    def seeds(bench: Bench) -> set[tuple[bytes, int | None]]:
        return {(request.prompt.token_ids.tobytes(), request.seed) for request in bench.requests.values()}

    with Bench(says(CORRECT), samples=2) as one, Bench(says(CORRECT), samples=2) as other:
        one.judge(asked("4"), asked("5"))
        other.judge(asked("5"))
        other.judge(asked("4"))
        known = seeds(one)
        assert len(known) == 4
        assert seeds(other) == known
    with Bench(says(CORRECT), samples=2, seed=1) as another:
        another.judge(asked("4"), asked("5"))
        assert not seeds(another) & known


def test_a_judge_that_never_ends_is_unread_even_if_it_looks_like_a_verdict() -> None:
    endless = (" " * 300) + CORRECT
    exact = CORRECT.rjust(256)  # the budget ends with the last brace
    for text in (endless, exact):
        with Bench(says(text)) as bench:
            (opinion,) = bench.judge(asked("4"))
            assert opinion.right is None
            assert opinion.reason == "no verdict could be read: its text did not end within 256 tokens"


class Silent(FakeEngine):
    """Draws nothing until it is let."""

    go = threading.Event()

    async def poll(self, wait_s: float) -> list[Delta]:
        if not self.go.is_set():
            await asyncio.sleep(0.001)
            return await self._mail.take(0)
        return await super().poll(wait_s)


def test_a_late_verdict_is_no_opinion_and_its_request_is_dropped() -> None:
    with Bench(says(CORRECT.rjust(200)), faults=[Faults(stall_after=3)], timeout_s=0.2) as bench:
        (opinion,) = bench.judge(asked("4"))
        assert opinion.right is None
        assert opinion.reason == "no verdict could be read: it did not end within 0.2 s"
        counts = bench.model.counts()
        assert (counts["timed_out"], counts["asked_again"]) == (1, 0)
        (engine,) = bench.alive
        until(lambda: not engine._open, "the engine drops the request")
        assert not bench.model._stream.waiting


def test_a_late_verdict_does_not_take_the_others_of_its_response_with_it() -> None:
    with Bench(says(CORRECT), faults=[Faults(stall_after=len(CORRECT) + 5)], timeout_s=0.2, samples=2) as bench:
        (opinion,) = bench.judge(asked("4"))
        assert (opinion.right, opinion.parts["read"]) == (1.0, 1.0)
        assert bench.model.counts()["timed_out"] == 1


def test_waiting_behind_others_is_not_late() -> None:
    Silent.go.clear()
    threading.Timer(1.0, Silent.go.set).start()
    with Bench(says(CORRECT), engine=Silent, timeout_s=0.5) as bench:
        (opinion,) = bench.judge(asked("4"))
    assert opinion.right == 1.0


def test_what_cannot_be_put_to_the_judge_is_no_opinion_and_counted() -> None:
    with Bench(says(CORRECT)) as bench:
        long, broken, fine = bench.judge(asked("4" * 5000), asked("\ud800"), asked("4"))
        assert long.right is broken.right is None
        assert long.reason.startswith("cannot be put to the judge: the judge's prompt has")
        assert "lone surrogate" in broken.reason
        assert fine.right == 1.0
        assert bench.model.counts()["unaskable"] == 2


def test_an_engine_that_dies_is_replaced_and_no_verdict_is_lost() -> None:
    with Bench(says(f"It says so.\n{CORRECT}"), faults=[Faults(die_after=20)]) as bench:
        opinions = bench.judge(*(asked(str(number)) for number in range(5)))
        assert [opinion.right for opinion in opinions] == [1.0] * 5
        assert len(bench.alive) == 2
        assert opinions[0].text == f"It says so.\n{CORRECT}"


def test_without_engines_it_says_so_and_nobody_goes_on() -> None:
    dead = [Faults(die_after=3), *[Faults(fail_start=True)] * 8]
    with Bench(says(CORRECT), faults=dead) as bench:
        for number in ("4", "5"):
            with pytest.raises(AllEnginesDead, match=r"the judge .*engines are dead"):
                bench.judge(asked(number))
        failure = bench.model._stream._failure
        lengths = set()
        for _ in range(5):
            with pytest.raises(AllEnginesDead):
                bench.judge(asked("6"))
            lengths.add(len([*traceback.walk_tb(failure.__traceback__)]))
        assert len(lengths) == 1, "the error does not keep all who ever asked"


def test_closing_twice_closes_once_and_ends_what_is_on_its_way() -> None:
    Silent.go.clear()
    bench = Bench(says(CORRECT), engine=Silent)
    found: list[object] = []
    asking = threading.Thread(target=lambda: found.extend(bench.judge(asked("4"))))
    asking.start()
    until(lambda: bench.model._stream.waiting, "the judge is asked")
    bench.model.close()
    bench.model.close()
    asking.join(60)
    assert bench.closed == 1
    assert found[0].right is None  # type: ignore[attr-defined]
    assert all(engine.closed for engine in bench.alive)


def test_engines_like_the_policys_get_room_for_the_longest_text_and_never_more_than_the_model() -> None:
    like = EngineConfig(count=3, most=5, max_model_len=192, in_flight="keep")
    config = RewardModelConfig(path="judge", max_tokens=300)
    short, long = (
        judge_files(family_tokenizer("llama"), judge_card(max_tokens=1000), context) for context in (800, 9000)
    )
    assert long.engine(config, like).max_model_len == 1300
    assert short.engine(config, like).max_model_len == 800
    made = long.engine(config, like)
    assert (made.count, made.most, made.in_flight) == (1, None, "abort")
    own = RewardModelConfig(path="judge", engine=EngineConfig(count=2, max_model_len=500))
    assert long.engine(own, like) == EngineConfig(count=2, max_model_len=500)


def test_a_context_without_room_for_a_response_is_refused() -> None:
    files = judge_files(family_tokenizer("llama"), context=64)
    config = RewardModelConfig(path="judge", max_tokens=300)
    with pytest.raises(PromptError, match="leaves a judge no room"):
        files.prompts(config, files.engine(config, EngineConfig()))
    config = RewardModelConfig(path="judge", max_tokens=50)
    with pytest.raises(PromptError, match="template takes"):
        files.prompts(config, files.engine(config, EngineConfig()))


def test_an_open_stream_refuses_a_key_that_is_on_its_way() -> None:
    Silent.go.clear()
    with Bench(says(CORRECT), engine=Silent) as bench:
        stream: OpenStream = bench.model._stream
        prompt = bench.model._prompts.prompt("q", "r", "4")
        request = Request("same", prompt, 8, bench.model._sampling, 1)
        stream.ask(request)
        with pytest.raises(ValueError, match="on its way"):
            stream.ask(request)
        stream.drop(["same", "unknown"])
        Silent.go.set()
        assert stream.ask(request).ended.result(60).key == "same"


def test_closed_and_cancelled_while_it_judges_it_prints_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def given_up(bench: Bench) -> None:
        judging = asyncio.create_task(bench.model.judge([asked(str(number)) for number in range(4)]))
        while not bench.model._stream.waiting:
            await asyncio.sleep(0.01)
        judging.cancel()
        bench.model.close()
        with pytest.raises(asyncio.CancelledError):
            await judging

    class Mute(Silent):
        go = threading.Event()

    with Bench(says(CORRECT), engine=Mute) as bench:
        asyncio.run(given_up(bench))
    gc.collect()
    assert "never retrieved" not in caplog.text
