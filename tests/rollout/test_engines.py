"""The transformers engine and the scripted engine behind the ``Engine`` protocol."""

from __future__ import annotations

import asyncio
import functools
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_kit import finish, run
from factories import ids, joined
from fake_engine import FakeEngine, Faults
from tiny_models import log_probs, tiny_llama

from rollout.config import EngineConfig, RolloutConfig
from rollout.engine import CopyGone, Delta, Engine, EngineDead, Request, Sampling, WeightUpdate
from rollout.engines.hf import STREAM_INTERVAL, HfEngine
from rollout.engines.hf_sampling import draw
from rollout.partial import repeats
from rollout.pool.pool import Pool
from rollout.transfer.weights import ShmSender
from rollout.types import Group, Problem, Prompt, Rollout, StopReason

CONFIG = EngineConfig(kind="hf", max_model_len=128, max_concurrency=4)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    tiny_llama().save_pretrained(path)
    return path


def requests(count: int = 6, tokens: int = 20, prompt: int = 5, **sampling: Any) -> list[Request]:
    s = Sampling(**sampling)
    return [
        Request(f"r{i}", Prompt(tuple((3 * i + j) % 29 + 1 for j in range(prompt + i))), tokens, s, 100 + i)
        for i in range(count)
    ]


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_logprobs_are_the_models_under_the_sampling_temperature(model_path: Path, temperature: float) -> None:
    work = requests(temperature=temperature)
    drawn = run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, work))
    model = tiny_llama()
    for request in work:
        delta = drawn[request.key]
        expected = log_probs(model, [*ids(request.prompt.token_ids), *ids(delta.token_ids)], temperature or 1.0)
        assert delta.logprobs == pytest.approx(expected[len(request.prompt) - 1 :], abs=1e-5)
        assert len(delta.token_ids) == 20
        assert delta.stop is None
        assert delta.version == 0


def test_same_submissions_give_the_same_bits_and_seeds_matter(model_path: Path) -> None:
    first = run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, requests()))
    second = run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, requests()))
    assert first == second
    other = [replace(request, seed=7) for request in requests()]
    third = run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, other))
    assert third != first


def test_noise_belongs_to_position_so_a_cut_response_continues_as_uncut(model_path: Path) -> None:
    whole = run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, requests(tokens=20)))

    async def in_two(engine: Engine) -> dict[str, Delta]:
        head = await finish(engine, requests(tokens=9))
        rest = [
            replace(request, prompt=request.prompt.followed_by(head[request.key].token_ids), max_new_tokens=11)
            for request in requests()
        ]
        tail = await finish(engine, rest)
        return {key: joined(head[key], tail[key]) for key in head}

    pieces = run(HfEngine(str(model_path), CONFIG), in_two)
    assert {k: ids(d.token_ids) for k, d in pieces.items()} == {k: ids(d.token_ids) for k, d in whole.items()}


def test_end_token_stops_and_is_part_of_the_response(model_path: Path) -> None:
    free = run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, requests()))
    end = int(free["r0"].token_ids[7])
    stopped = run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, requests(stop_token_ids=(end,))))
    position = free["r0"].token_ids.tolist().index(end)
    assert ids(stopped["r0"].token_ids) == ids(free["r0"].token_ids[: position + 1])
    assert stopped["r0"].stop is StopReason.EOS


def test_repetition_stops_at_the_first_repeating_tail(model_path: Path) -> None:
    pattern = {"repetition_min_pattern": 1, "repetition_max_pattern": 4, "repetition_count": 3}
    work = requests(count=3, tokens=100, temperature=0.0, **pattern)
    drawn = run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, work))
    stopped = [delta for delta in drawn.values() if delta.stop is StopReason.REPETITION]
    assert stopped, "greedy decoding of a tiny model runs into a loop"
    for delta in stopped:
        assert repeats(ids(delta.token_ids), 1, 4, 3)
        assert not any(repeats(ids(delta.token_ids)[:n], 1, 4, 3) for n in range(len(delta.token_ids)))


def test_update_weights_from_shared_memory(model_path: Path) -> None:
    model = tiny_llama(seed=5)
    sender = ShmSender()
    probe = [[1, 2, 3, 4, 5, 6], [7, 8, 9]]

    async def work(engine: Engine) -> tuple[Any, Any, Any]:
        before = await engine.score(probe)
        await engine.update_weights(sender.send(model, 3))
        drawn = await finish(engine, requests(2, 4))
        return before, await engine.score(probe), (drawn, await engine.stats())

    before, after, (drawn, stats) = run(HfEngine(str(model_path), CONFIG), work)
    expected = [log_probs(model, sequence) for sequence in probe]
    assert after == [pytest.approx(row, abs=1e-5) for row in expected]
    assert max(abs(a - b) for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True)) > 0.1
    assert {delta.version for delta in drawn.values()} == {3}
    assert (stats.version, stats.requests, stats.tokens) == (3, 2, 8)
    assert stats.weight_bytes > 0
    assert stats.busy_seconds > 0
    sender.close()


def test_an_incomplete_update_is_refused_by_name(model_path: Path) -> None:
    sender = ShmSender()
    update = sender.send(tiny_llama(), 1)
    payload = {**update.payload, "tensors": [t for t in update.payload["tensors"] if "norm.weight" not in t[0]]}
    with pytest.raises(EngineDead, match=r"lacks \d+ tensors.*norm"):
        run(
            HfEngine(str(model_path), CONFIG),
            lambda engine: engine.update_weights(WeightUpdate(1, "shm", payload)),
        )
    sender.close()


def test_weights_whose_learner_is_gone_leave_the_engine_as_it_was(model_path: Path) -> None:
    """It is told from a failure of its own, and it serves on."""
    sender = ShmSender()
    update = sender.send(tiny_llama(), 1)
    sender.close()
    update = WeightUpdate(1, "shm", update.payload | {"path": "/proc/0/fd/3"})  # of no process

    async def work(engine: Engine) -> dict[str, Delta]:
        with pytest.raises(CopyGone, match=r"weight update 1 failed: weights gone: .* cannot be opened: the learner"):
            await engine.update_weights(update)
        return await finish(engine, requests(1, 4))

    (drawn,) = run(HfEngine(str(model_path), CONFIG), work).values()
    assert (drawn.version, len(drawn.token_ids)) == (0, 4)


class Held(HfEngine):
    """Draws no further than its first delivery until it is let go."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.go = threading.Event()

    def _deliver(self, pieces: Sequence[Delta]) -> None:
        super()._deliver(pieces)
        self.go.wait()

    async def close(self) -> None:
        self.go.set()
        await super().close()


async def first_tokens(engine: Engine) -> list[Delta]:
    while not (deltas := await engine.poll(1.0)):
        pass
    return deltas


def test_abort_takes_effect_within_a_step_and_delivers_what_was_drawn(model_path: Path) -> None:
    async def work(engine: Engine) -> list[Delta]:
        await engine.submit(requests(6, 100))
        deltas = await first_tokens(engine)
        await engine.abort([f"r{i}" for i in range(6)])
        engine.go.set()
        return deltas + await polled(engine, 6 - sum(delta.done for delta in deltas))

    deltas = run(Held(str(model_path), CONFIG), work)
    assert {delta.error for delta in deltas if delta.done} == {"aborted"}
    drawn = {key: sum(len(d.token_ids) for d in deltas if d.key == key) for key in ("r0", "r3", "r4", "r5")}
    assert drawn == {"r0": STREAM_INTERVAL + 1, "r3": STREAM_INTERVAL + 1, "r4": 0, "r5": 0}, "r4 and r5 were queued"


def test_a_request_taken_back_goes_on_at_once_under_its_own_name(model_path: Path) -> None:
    """As responses do when weights change beneath them, while others of the engine are still on their way."""

    async def work(engine: Engine) -> tuple[Delta, list[Delta]]:
        await engine.submit(requests(4, 60))
        head = await first_tokens(engine)
        await engine.abort(["r0"])
        engine.go.set()
        while not any(delta.key == "r0" and delta.done for delta in head):
            head += await engine.poll(1.0)
        taken = functools.reduce(joined, (delta for delta in head if delta.key == "r0"))
        others = [delta for delta in head if delta.key != "r0"]
        whole = requests(1, 60)[0]
        left = 60 - len(taken.token_ids)
        await engine.submit([replace(whole, prompt=whole.prompt.followed_by(taken.token_ids), max_new_tokens=left)])
        return taken, others + await polled(engine, 4 - sum(delta.done for delta in others))

    taken, deltas = run(Held(str(model_path), CONFIG), work)
    assert (taken.error, taken.done) == ("aborted", True)
    assert {delta.key: delta.error for delta in deltas if delta.done} == dict.fromkeys(["r0", "r1", "r2", "r3"], "")


async def polled(engine: Engine, count: int) -> list[Delta]:
    """Poll until ``count`` requests are done."""
    deltas: list[Delta] = []
    while sum(delta.done for delta in deltas) < count:
        deltas += await engine.poll(1.0)
    return deltas


def test_weights_in_flight_leave_each_token_the_version_that_drew_it() -> None:
    """Tokens nobody has polled when the weights change included, and at the ends of a request."""
    update = WeightUpdate(1, "local", {"size": 0})

    async def work(engine: Engine) -> list[Delta]:
        await engine.submit([replace(requests(1, 30)[0], key=str(n), max_new_tokens=n) for n in (4, 6, 8, 9, 20)])
        first = await engine.poll(1.0)
        await engine.update_weights(update)
        return first + await polled(engine, 4)

    engine = FakeEngine(logprob=lambda before, token, version: -1.0 - version, takes_in_flight=True)
    deltas = run(engine, work)
    assert all((delta.logprobs == -1.0 - delta.version).all() for delta in deltas)
    sizes = {
        key: [(delta.version, len(delta.token_ids), delta.done) for delta in deltas if delta.key == key]
        for key in ("4", "6", "8", "9", "20")
    }
    assert sizes == {
        "4": [(0, 4, True)],
        "6": [(0, 4, False), (0, 2, True)],
        "8": [(0, 4, False), (0, 4, True)],
        "9": [(0, 4, False), (0, 4, False), (1, 1, True)],
        "20": [(0, 4, False), (0, 4, False), (1, 4, False), (1, 4, False), (1, 4, True)],
    }


def test_an_engine_that_lags_stamps_what_drew_the_tokens() -> None:
    async def work(engine: Engine) -> tuple[list[Delta], list[list[float]]]:
        await engine.update_weights(WeightUpdate(1, "local", {"size": 0}))
        await engine.submit(requests(1, 4))
        return await polled(engine, 1), await engine.score([[1, 2]])

    engine = FakeEngine(logprob=lambda before, token, version: -1.0 - version, faults=Faults(lags=True))
    (delta,), scores = run(engine, work)
    assert (delta.version, set(ids(delta.logprobs)), scores) == (0, {-1.0}, [[-2.0]])


@pytest.mark.parametrize("make", [lambda path: HfEngine(path, CONFIG), lambda path: FakeEngine()])
def test_engines_refuse_misuse_alike(model_path: Path, make: Callable[[str], Engine]) -> None:
    engine = make(str(model_path))

    async def work(engine: Engine) -> None:
        await engine.submit(requests(1, 50))
        with pytest.raises(ValueError, match=r"r0.*in flight"):
            await engine.submit(requests(1, 50))
        with pytest.raises(ValueError, match="in flight"):
            await engine.update_weights(WeightUpdate(1, "local", {"size": 0}))

    run(engine, work)
    with pytest.raises(EngineDead):
        asyncio.run(engine.stats())
    asyncio.run(engine.close())


def test_a_request_beyond_the_context_ends_with_an_error_of_its_own(model_path: Path) -> None:
    work = [*requests(1, 5), Request("long", Prompt(tuple(range(1, 30))), 120, Sampling())]
    drawn = run(HfEngine(str(model_path), CONFIG), lambda engine: finish(engine, work))
    assert "context of 128" in drawn["long"].error
    assert drawn["r0"].error == ""
    assert len(drawn["r0"].token_ids) == 5


def test_a_missing_model_is_a_dead_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineDead, match="nowhere"):
        asyncio.run(HfEngine(str(tmp_path / "nowhere"), CONFIG).start())


def test_draw_follows_the_distribution_and_top_p() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).repeat(4000, 1)
    noise = [(i + 0.5) / 4000 for i in range(4000)]
    tokens, logprobs = draw(logits, [Sampling()] * 4000, noise)
    probabilities = logits[0].softmax(-1)
    assert torch.allclose(tokens.bincount(minlength=4) / 4000, probabilities, atol=1e-3)
    assert torch.allclose(logprobs, probabilities.log()[tokens], atol=1e-6)

    tokens, logprobs = draw(logits, [Sampling(top_p=0.8)] * 4000, noise)
    kept = probabilities[[1, 2]] / probabilities[[1, 2]].sum()
    assert set(tokens.tolist()) == {1, 2}
    assert logprobs[tokens == 2].exp().mean().item() == pytest.approx(kept[1].item(), abs=1e-5)
    mixed, _ = draw(logits[:2], [Sampling(top_p=1e-6), Sampling(temperature=0.0)], [0.99, 0.0])
    assert mixed.tolist() == [2, 2]


def test_draw_never_picks_an_impossible_token() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]]).repeat(3, 1)
    tokens, _ = draw(logits, [Sampling()] * 3, [0.0, 0.5, math.nextafter(1.0, 0.0)])
    assert tokens.tolist() == [1, 1, 1]


ROLLOUT = RolloutConfig(segment_tokens=10, max_tokens=30, repetition=None)


def groups() -> list[Group]:
    problem = Problem.ask(id="p", prompt="?", answer="1", verifier="exact")
    return [
        Group(f"g{i}", problem, tuple(Rollout(f"g{i}/{j}", Prompt((1, 2, 3 + i))) for j in range(3)), 0)
        for i in range(3)
    ]


def test_partial_rollouts_equal_full_ones_with_the_pool(model_path: Path) -> None:
    sender = ShmSender("local")
    model = tiny_llama()

    def sampled(config: RolloutConfig, iterations: int) -> list[list[Rollout]]:
        state = groups()
        with Pool(lambda i: HfEngine(str(model_path), CONFIG), CONFIG, config, (2,), seed=1) as pool:
            for version in range(iterations):
                pool.publish(sender.send(model, version), [], [])
                state = pool.extend(state, version)
        return [list(group.rollouts) for group in state]

    whole = sampled(ROLLOUT.model_copy(update={"segment_tokens": 30}), 1)
    pieces = sampled(ROLLOUT, 3)
    assert [[ids(r.token_ids) for r in g] for g in pieces] == [[ids(r.token_ids) for r in g] for g in whole]
    assert [[r.stop for r in g] for g in pieces] == [[r.stop for r in g] for g in whole]
    assert max(len(r.segments) for g in pieces for r in g) == 3
    assert pieces == sampled(ROLLOUT, 3), "bitwise repeatable, log-probs included"
    sender.close()


def test_fake_engine_dies_on_schedule() -> None:
    async def work(engine: Engine) -> int:
        await engine.submit(requests(2, 50))
        count = 0
        with pytest.raises(EngineDead):
            while True:
                count += sum(len(delta.token_ids) for delta in await engine.poll(0.1))
        return count

    assert run(FakeEngine(faults=Faults(die_after=13)), work) == 13
