"""Real vLLM on a CPU that takes weights while it draws: what each token says it was drawn by is what drew it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tiny_models import log_probs, tiny_llama
from vllm_kit import Running, leave_half_way, started

from rollout.config import EngineConfig
from rollout.engine import Delta, EngineDead, Request, Sampling, WeightsLost
from rollout.engines.hf import use_attention
from rollout.engines.vllm import VllmEngine
from rollout.engines.vllm_flight import cut
from rollout.models.attention import PLAIN, AttentionConfig, BlockAttentionConfig, RotaryStage
from rollout.transfer import broadcast
from rollout.transfer.gpu import NcclSender
from rollout.transfer.weights import ShmSender
from rollout.types import Prompt, StopReason
from tests.needs import needs_vllm

PROBE = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11], [12] * 40, [3, 1] * 30, [5] * 9]
CONFIG = EngineConfig(
    max_model_len=256, max_concurrency=6, max_batched_tokens=64, kv_cache_gib=0.1, threads=1, weight_transfer="shm"
)
EXACT = 1e-4
"""Nats between engine and learner in float32, where both have the same weights."""


@pytest.mark.parametrize(
    ("first", "end", "starts", "parts"),
    [
        (0, 5, [(1, 0)], [(1, 0, 5)]),
        (0, 5, [(1, 0), (2, 3)], [(1, 0, 3), (2, 3, 5)]),
        (2, 5, [(1, 0), (2, 3)], [(1, 0, 1), (2, 1, 3)]),
        (3, 5, [(1, 0), (2, 3)], [(2, 0, 2)]),
        (0, 3, [(1, 0), (2, 3)], [(1, 0, 3)]),  # the others are drawn, and not here yet
        (0, 9, [(1, 0), (2, 3), (4, 4), (5, 9)], [(1, 0, 3), (2, 3, 4), (4, 4, 9)]),
        (4, 4, [(1, 0)], []),
        (0, 0, [], []),
    ],
)
def test_tokens_are_cut_where_their_version_changes(
    first: int, end: int, starts: list[tuple[int, int]], parts: list[tuple[int, int, int]]
) -> None:
    assert [(version, part.start, part.stop) for version, part in cut(first, end, starts)] == parts


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    tiny_llama().save_pretrained(path)
    return path


ATTENTION = {
    "recompute": AttentionConfig(
        moba=BlockAttentionConfig(block_size=32, top_k=2, full_from=4), rotary=(RotaryStage(iteration=3, base=1e5),)
    ),
    "keep": PLAIN,
}
"""Keys and values that are computed anew may be of another attention."""


def policy(way: str, version: int) -> torch.nn.Module:
    """The learner under ``version``."""
    model = tiny_llama(seed=version)
    use_attention(model, ATTENTION[way], version)
    return model


@pytest.fixture(scope="module", params=["recompute", "keep"])
def running(request: pytest.FixtureRequest, model_path: Path) -> Iterator[Running]:
    config = CONFIG.model_copy(update={"in_flight": request.param})
    with started(VllmEngine(str(model_path), config, 0, ATTENTION[request.param])) as running:
        yield running


@torch.no_grad()
def kept_log_probs(models: dict[int, Any], prompt: Sequence[int], pieces: list[Delta]) -> list[float]:
    """Log-probs of a response whose keys and values each stay those of the weights that computed them; nats.

    A token is computed by the weights that draw the one after it.
    """
    from transformers import DynamicCache

    tokens = [*prompt, *(int(token) for piece in pieces for token in piece.token_ids)]
    found: list[float] = []
    at, end, cache = 0, len(prompt) - 1, DynamicCache()
    for piece in pieces:
        if not len(piece.token_ids):
            continue
        end += len(piece.token_ids)
        fed = torch.tensor([tokens[at:end]])
        logits = models[piece.version](fed, past_key_values=cache).logits[0].float()
        wanted = torch.tensor(tokens[at + 1 : end + 1])
        found += logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0].tolist()[-len(piece.token_ids) :]
        at = end
    return found


def recomputed_log_probs(models: dict[int, Any], prompt: Sequence[int], pieces: list[Delta]) -> list[float]:
    """Log-probs of a response, all of it computed by the weights that drew each token; nats."""
    found: list[float] = []
    tokens = list(prompt)
    for piece in pieces:
        if len(piece.token_ids):
            tokens += piece.token_ids.tolist()
            found += log_probs(models[piece.version], tokens)[-len(piece.token_ids) :]
    return found


LOG_PROBS = {"recompute": recomputed_log_probs, "keep": kept_log_probs}


def work() -> Iterator[Request]:
    """Endless requests that share most of their prompt, with ends of every kind at every place."""
    shared = tuple((3 * j) % 29 + 1 for j in range(70))
    kinds = (
        Sampling(),
        Sampling(stop_token_ids=(5, 9)),
        Sampling(temperature=0.0, repetition_min_pattern=1, repetition_max_pattern=8, repetition_count=3),
    )
    for n in itertools.count():
        prompt = Prompt((*shared, n % 31 + 1, 1 + n // 31))
        yield Request(f"r{n}", prompt, 1 + (37 * n) % 170, kinds[n % 3], 100 + n)


class Flying:
    """Keeps an engine at work and notes what comes."""

    def __init__(self, running: Running, at_once: int) -> None:
        self.engine = running.engine
        self.at_once = at_once
        self.asked: dict[str, Request] = {}
        self.pieces: dict[str, list[Delta]] = {}
        self.open: set[str] = set()
        self.work = work()

    async def feed(self) -> None:
        new = list(itertools.islice(self.work, self.at_once - len(self.open)))
        self.asked |= {request.key: request for request in new}
        self.open |= {request.key for request in new}
        await self.engine.submit(new)

    async def hear(self) -> int:
        deltas = await self.engine.poll(1.0)
        for delta in deltas:
            self.pieces.setdefault(delta.key, []).append(delta)
            if delta.done:
                self.open.remove(delta.key)
        return sum(len(delta.token_ids) for delta in deltas)

    async def draw(self, tokens: int) -> None:
        while tokens > 0:
            await self.feed()
            tokens -= await self.hear()

    async def land(self) -> None:
        while self.open:
            await self.hear()


async def fly(running: Running, updates: Iterator[Any], models: dict[int, Any], exact: float) -> Flying:
    """Update again and again while requests run, wait and end; some are taken back just before, some just after."""
    flying = Flying(running, 14)
    for update in updates:
        await flying.draw(300)
        await flying.feed()
        first, *_, last = sorted(flying.open, key=lambda key: int(key[1:]))
        await flying.engine.abort([first])
        await flying.engine.update_weights(update)
        await flying.engine.abort([last])
        scores = await flying.engine.score(PROBE)
        for sequence, row in zip(PROBE, scores, strict=True):
            assert row == pytest.approx(log_probs(models[update.version], sequence), abs=exact)
    await flying.draw(300)
    await flying.land()
    return flying


def fly_and_check(running: Running, policy: Callable[[int], torch.nn.Module], exact: float) -> None:
    """Five versions in flight; each token is compared with the learner's log-prob under the version it names."""
    sender = ShmSender()
    versions = range(running.version + 1, running.version + 6)
    running.version = versions[-1]
    models = {version: policy(version) for version in versions}
    running(running.engine.update_weights(sender.send(models[versions[0]], versions[0])))
    updates = (sender.send(models[version], version) for version in versions[1:])  # two buffers take turns: when due
    flying = running(fly(running, updates, models, exact))
    sender.close()
    mixed, ends = 0, set()
    for key, pieces in flying.pieces.items():
        named = [piece.version for piece in pieces if len(piece.token_ids)]
        assert named == sorted(named)
        assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        ends.add(pieces[-1].error or pieces[-1].stop)
        drawn = [value for piece in pieces for value in piece.logprobs.tolist()]
        prompt = flying.asked[key].prompt.token_ids.tolist()
        wanted = LOG_PROBS[running.engine.config.in_flight](models, prompt, pieces)
        assert drawn == pytest.approx(wanted, abs=exact), f"{key}: versions {named}"
        mixed += len(set(named)) > 1
    assert mixed >= len(versions) - 1, "responses went on under new weights"
    assert ends == {None, StopReason.EOS, StopReason.REPETITION, "aborted"}


@pytest.mark.slow
@needs_vllm
def test_each_token_is_of_the_weights_that_it_names(running: Running) -> None:
    """At every place and end: budget, end token, repetition, taken back; kept back by vLLM's streaming or not."""
    fly_and_check(running, lambda version: policy(running.engine.config.in_flight, version), EXACT)


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["recompute", "keep"])
def test_each_token_is_of_the_weights_that_it_names_on_a_gpu(way: str, tmp_path: Path) -> None:
    """There the core has the next step under way when it is asked to stand still."""
    tiny_llama(head_dim=64).save_pretrained(tmp_path)
    config = CONFIG.model_copy(
        update={"device": "cuda", "gpu_memory_utilization": 0.2, "weight_transfer": "auto", "in_flight": way}
    )
    with started(VllmEngine(str(tmp_path), config, 0)) as running:
        fly_and_check(running, lambda version: tiny_llama(seed=version, head_dim=64), 1e-2)


@pytest.mark.slow
@needs_vllm
def test_after_an_update_that_broke_off_nothing_is_drawn_until_weights_are_whole(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollout.transfer.gpu.own_address", lambda: "127.0.0.1")
    monkeypatch.setattr(broadcast, "PART_BYTES", 30_000)
    before, after = running.version + 1, running.version + 2
    running.version = after
    way = running.engine.config.in_flight
    models = {version: policy(way, version) for version in (before, after)}
    source = NcclSender(1, patience_s=5.0)

    async def work() -> Flying:
        await running.engine.update_weights(source.send(models[before], before).copied())
        flying = Flying(running, 6)
        await flying.draw(100)
        update = source.send(models[after], after)
        left = threading.Thread(target=leave_half_way, args=(update,))
        left.start()
        with pytest.raises(WeightsLost):
            await running.engine.update_weights(update.directly(0, [0, 1]))
        left.join(60)
        while await flying.hear():
            pass
        await running.engine.abort([min(flying.open)])
        await flying.hear()
        assert await flying.hear() == 0, "stopping one does not let the others go on"
        await running.engine.update_weights(update.copied())
        await flying.land()
        return flying

    flying = running(work())
    source.close()
    for key, pieces in flying.pieces.items():
        drawn = [value for piece in pieces for value in piece.logprobs.tolist()]
        prompt = flying.asked[key].prompt.token_ids.tolist()
        assert drawn == pytest.approx(LOG_PROBS[way](models, prompt, pieces), abs=EXACT)


@pytest.mark.slow
@needs_vllm
def test_the_probe_waits_for_no_response_to_end(running: Running) -> None:
    """More of them than an engine draws at a time, and all of them long."""
    running.version += 1
    sender = ShmSender()
    update = sender.send(tiny_llama(), running.version)

    async def work() -> set[str]:
        flying = Flying(running, 0)
        given = itertools.islice(flying.work, 2 * CONFIG.max_concurrency)
        long = [replace(request, max_new_tokens=180, sampling=Sampling()) for request in given]
        flying.open = {request.key for request in long}
        await running.engine.submit(long)
        await flying.hear()
        await running.engine.update_weights(update)
        await running.engine.score(PROBE)
        left = set(running.engine._mail.in_flight)
        await running.engine.abort(list(flying.open))
        await flying.land()
        return left

    assert len(running(work())) == 2 * CONFIG.max_concurrency
    sender.close()


@pytest.mark.slow
@needs_vllm
def test_what_is_taken_back_at_once_is_not_drawn(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM does not know a request yet when it is asked to stop it."""
    llm = running.engine._llm
    add = llm.add_request

    async def work() -> Flying:
        stopped = asyncio.Event()

        async def late(*request: Any) -> Any:
            await stopped.wait()
            return await add(*request)

        monkeypatch.setattr(llm, "add_request", late)
        flying = Flying(running, 6)
        await flying.feed()
        await running.engine.abort(list(flying.open))
        stopped.set()
        await flying.land()
        return flying

    flying = running(work())
    assert {pieces[-1].error for pieces in flying.pieces.values()} == {"aborted"}


@pytest.mark.slow
@needs_vllm
def test_taking_back_loses_no_token_on_its_way(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's front end drops what the core drew for a request that it has stopped already."""
    lost = 0
    outputs = running.engine._llm.output_processor
    process = outputs.process_outputs

    def watched(steps: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal lost
        lost += sum(len(out.new_token_ids) for out in steps if out.request_id not in outputs.request_states)
        return process(steps, *args, **kwargs)

    monkeypatch.setattr(outputs, "process_outputs", watched)

    async def work() -> None:
        for _ in range(3):
            flying = Flying(running, 10)
            await flying.draw(60)
            await running.engine.abort(list(flying.open))
            await flying.land()

    running(work())
    assert lost == 0


@pytest.mark.slow
@needs_vllm
def test_calls_end_when_the_core_dies_in_their_midst(running: Running) -> None:
    """It stands still when they are made, and is killed then; vLLM would leave them waiting for ever.

    The last test here, since it leaves no engine.
    """
    sender = ShmSender()
    update = sender.send(tiny_llama(), running.version + 1)
    long = [replace(request, max_new_tokens=180, sampling=Sampling()) for request in itertools.islice(work(), 2)]

    async def die() -> None:
        engine = running.engine
        below = psutil.Process().children(recursive=True)
        cores = (one for one in below if one.name().startswith("VLLM::EngineCor"))
        core = max(cores, key=lambda one: one.create_time())  # should another file have left one, that is older
        await engine.submit(long)
        await engine.poll(10.0)
        core.suspend()
        calls = (engine.score(PROBE), engine.update_weights(update), engine.abort([long[0].key]))
        waiting = [asyncio.create_task(call) for call in calls]
        done, _ = await asyncio.wait(waiting, timeout=1.0)
        assert not done
        core.kill()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in ended] == [EngineDead] * len(calls)

    running(die())
    sender.close()
