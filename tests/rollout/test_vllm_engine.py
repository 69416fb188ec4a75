"""Real vLLM on a CPU: one engine for the whole file, in this process. In Ray actors, killed: ``test_cluster.py``."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import ids
from tiny_models import log_probs, tiny_llama
from vllm_kit import Running, leave_half_way, started

from rollout.config import EngineConfig
from rollout.engine import DEEP, LIGHT, Delta, ParityError, Request, Sampling, WeightsLost, WeightUpdate
from rollout.engines.vllm import VllmEngine
from rollout.engines.vllm_arguments import engine_arguments
from rollout.partial import repeats
from rollout.pool.parity import Limits
from rollout.pool.slot import Life, Publication, Slot
from rollout.transfer import broadcast
from rollout.transfer.gpu import NcclSender
from rollout.transfer.weights import RECEIVER, ShmSender
from rollout.types import Prompt, StopReason
from tests.needs import needs_vllm

pytestmark = [pytest.mark.slow, needs_vllm]

CONFIG = EngineConfig(
    max_model_len=256, max_concurrency=16, max_batched_tokens=64, kv_cache_gib=0.1, threads=1, weight_transfer="shm"
)
PROBE = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11], [12] * 40]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Head dimension 32 is the smallest that vLLM's CPU attention takes; embeddings tied: the hard case."""
    path = tmp_path_factory.mktemp("llama")
    tiny_llama().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def running(model_path: Path) -> Iterator[Running]:
    with started(VllmEngine(str(model_path), CONFIG, 0)) as running:
        yield running


@pytest.fixture
def sender() -> Iterator[ShmSender]:
    sender = ShmSender()
    yield sender
    sender.close()


def gap(ours: Sequence[Sequence[float]], model: torch.nn.Module) -> float:
    rows = zip(ours, (log_probs(model, sequence) for sequence in PROBE), strict=True)
    return max(abs(a - b) for x, y in rows for a, b in zip(x, y, strict=True))


def requests(count: int = 6, tokens: int = 40, **sampling: Any) -> list[Request]:
    s = Sampling(**sampling)
    return [
        Request(f"r{i}", Prompt(tuple((3 * i + j) % 29 + 1 for j in range(5 + i))), tokens, s, 100 + i)
        for i in range(count)
    ]


def perturbed(seed: int = 1) -> torch.nn.Module:
    return tiny_llama(seed=seed)


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_logprobs_are_the_models_under_the_sampling_temperature(
    running: Running, sender: ShmSender, temperature: float
) -> None:
    model = perturbed()
    running.publish(model, sender)
    work = requests(temperature=temperature)
    for request in work:
        delta = running.finish([request])[request.key]
        expected = log_probs(model, [*ids(request.prompt.token_ids), *ids(delta.token_ids)], temperature or 1.0)
        assert delta.logprobs == pytest.approx(expected[len(request.prompt) - 1 :], abs=1e-4)
        assert len(delta.token_ids) == 40
        assert delta.stop is None
        assert not delta.error
        assert delta.version == running.version


def test_an_engine_keeps_nothing_of_the_learners_memory(running: Running, sender: ShmSender) -> None:
    """Matrices are packed from there without a copy; the next publish but one writes over it."""
    model = perturbed(5)
    running.publish(model, sender)
    torch.frombuffer(sender._buffers[-1].map, dtype=torch.float32).fill_(float("nan"))
    assert gap(running(running.engine.score(PROBE)), model) < 1e-4


def test_an_engine_takes_a_broadcast_and_the_copy_after_one_that_broke_half_way(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollout.transfer.gpu.own_address", lambda: "127.0.0.1")
    monkeypatch.setattr(broadcast, "PART_BYTES", 30_000)
    source, whole, broken = NcclSender(1, patience_s=5.0), perturbed(8), perturbed(9)
    running(running.engine.update_weights(source.send(whole, 100).directly(0, [0])))
    assert gap(running(running.engine.score(PROBE)), whole) < 1e-4

    update = source.send(broken, 101)
    left = threading.Thread(target=leave_half_way, args=(update,))
    left.start()
    with pytest.raises(WeightsLost):
        running(running.engine.update_weights(update.directly(0, [0, 1])))
    left.join(60)
    running(running.engine.update_weights(update.copied()))
    assert gap(running(running.engine.score(PROBE)), broken) < 1e-4
    assert running(running.engine.stats()).version == 101
    source.close()
    assert source.lost


def test_publish_changes_weights_and_version_and_keeps_parity(running: Running, sender: ShmSender) -> None:
    for seed in (2, 3, 4):
        model = perturbed(seed)
        before = running(running.engine.score(PROBE))
        assert gap(before, model) > 0.5
        update = running.publish(model, sender)
        assert gap(running(running.engine.score(PROBE)), model) < 1e-4
        stats = running(running.engine.stats())
        assert (stats.version, stats.weight_bytes) == (running.version, update.payload["size"])


def test_stale_tied_head_is_caught_by_the_probe(running: Running, sender: ShmSender) -> None:
    """Without ``lm_head.weight`` vLLM reports success and serves the old head; only the probe sees it."""
    model = perturbed(6)
    update = sender.send(model, running.version)
    headless = {**update.payload, "tensors": [t for t in update.payload["tensors"] if t[0] != "lm_head.weight"]}
    running(running.engine.update_weights(WeightUpdate(running.version, "shm", headless)))
    assert gap(running(running.engine.score(PROBE)), model) > 0.1, "the silent failure that invariant 1 is about"

    slot = Slot(0, lambda _: running.engine, CONFIG)
    slot.life = Life(running.engine)
    reference = [log_probs(model, sequence) for sequence in PROBE]
    with pytest.raises(
        ParityError,
        match=r"disagree after publish.*nats apart.* against .*The engine does not serve the learner's weights$",
    ):
        running(
            slot.adopt(
                Publication(WeightUpdate(running.version, "shm", headless), PROBE, reference, Limits("float32")), [0]
            )
        )
    running(slot.adopt(Publication(update, PROBE, reference, Limits("float32")), [0]))
    assert slot.gap.largest < 1e-4


def test_prefix_cache_does_not_survive_a_publish(running: Running, sender: ShmSender) -> None:
    prompt = tuple(i % 30 + 1 for i in range(150))
    greedy = [Request("long", Prompt(prompt), 8, Sampling(temperature=0.0))]
    for seed in (7, 8):
        model = perturbed(seed)
        running.publish(model, sender)
        delta = running.finish(greedy)["long"]
        assert delta.logprobs == pytest.approx(log_probs(model, [*prompt, *ids(delta.token_ids)])[149:], abs=1e-4)


@pytest.mark.parametrize("level", [LIGHT, DEEP])
def test_an_engine_that_slept_serves_again(running: Running, sender: ShmSender, level: int) -> None:
    """On a CPU vLLM frees nothing, but it pauses, forgets its caches and resumes as on a GPU."""
    engine, model = running.engine, perturbed(10)
    running.publish(model, sender)
    running.finish(requests())
    running(engine.sleep(level))
    running(engine.sleep(LIGHT))
    assert running(engine.stats()).version == running.version
    for use in (lambda: engine.submit(requests()), lambda: engine.score(PROBE), lambda: running.publish(model, sender)):
        with pytest.raises(ValueError, match="sleeps: wake it first"):
            running(use())
    running(engine.wake())
    running(engine.wake())
    if level == DEEP:
        with pytest.raises(ValueError, match="slept without weights"):
            running(engine.score(PROBE))
        running(engine.sleep(DEEP))  # a turn in which nobody published
        running(engine.wake())
        model = perturbed(11)
        running.publish(model, sender)
    assert gap(running(engine.score(PROBE)), model) < 1e-4
    done = running.finish(requests())
    assert {len(delta.token_ids) for delta in done.values()} == {40}


def test_an_engine_with_requests_in_flight_does_not_sleep(running: Running) -> None:
    async def work() -> None:
        await running.engine.submit(requests(1, 200))
        with pytest.raises(ValueError, match="cannot sleep with 1 requests"):
            await running.engine.sleep(DEEP)

    running(work())
    running(running.engine.abort(["r0"]))
    while not any(delta.done for delta in running(running.engine.poll(1.0))):
        pass
    assert running(running.engine.score(PROBE)), "it is awake still"


def test_end_token_stops_and_is_part_of_the_response(running: Running) -> None:
    free = running.finish(requests(count=1))["r0"]
    end = int(free.token_ids[20])
    position = free.token_ids.tolist().index(end)
    stopped = running.finish(requests(count=1, stop_token_ids=(end,)))["r0"]
    assert ids(stopped.token_ids) == ids(free.token_ids[: position + 1]), "same seed, same noise"
    assert stopped.stop is StopReason.EOS
    (last,) = running.finish([replace(requests(1, stop_token_ids=(end,))[0], max_new_tokens=position + 1)]).values()
    assert last.stop is StopReason.EOS, "an end token on the last token of the budget is an end"


def test_repetition_stops_early(running: Running) -> None:
    pattern = {"repetition_min_pattern": 1, "repetition_max_pattern": 8, "repetition_count": 3}
    drawn = running.finish(requests(tokens=200, temperature=0.0, **pattern))
    stopped = [delta for delta in drawn.values() if delta.stop is StopReason.REPETITION]
    assert stopped, "greedy decoding of a tiny model runs into a loop"
    for delta in stopped:
        assert len(delta.token_ids) < 200
        assert repeats(ids(delta.token_ids), 1, 8, 3)


def test_abort_delivers_what_was_drawn(running: Running) -> None:
    async def work() -> list[Delta]:
        engine = running.engine
        await engine.submit(requests(2, 240))
        deltas = await engine.poll(5.0)
        await engine.abort(["r0", "r1"])
        while sum(delta.done for delta in deltas) < 2:
            deltas += await engine.poll(1.0)
        return deltas

    deltas = running(work())
    assert {delta.error for delta in deltas if delta.done} <= {"aborted", ""}
    assert all(sum(len(d.token_ids) for d in deltas if d.key == key) > 0 for key in ("r0", "r1"))


def test_misuse_is_refused_and_a_bad_request_fails_alone(running: Running) -> None:
    too_long = Request("long", Prompt(tuple([1] * 256)), 4, Sampling())
    drawn = running.finish([too_long, *requests(1, 4)])
    assert drawn["long"].done
    assert "256" in drawn["long"].error
    assert not len(drawn["long"].token_ids)
    assert len(drawn["r0"].token_ids) == 4

    async def busy() -> None:
        await running.engine.submit(requests(1, 200))
        with pytest.raises(ValueError, match="in flight"):
            await running.engine.update_weights(WeightUpdate(99, "shm", {}))
        with pytest.raises(ValueError, match=r"r0.*in flight"):
            await running.engine.submit(requests(1, 200))

    running(busy())
    while not any(delta.done for delta in running(running.engine.poll(1.0))):
        pass


def test_transformers_models_and_vllm_import_in_one_process() -> None:
    """Our package ``kernels`` and the companions of torch are what may be in the way."""
    import vllm
    from transformers import Qwen2ForCausalLM

    assert vllm.AsyncLLMEngine
    assert Qwen2ForCausalLM


def test_engine_arguments() -> None:
    arguments = engine_arguments("m", EngineConfig(max_concurrency=64, extra={"max_num_seqs": 7}), -1)
    assert arguments["max_num_seqs"] == 7, "extra has the last word"
    assert arguments["weight_transfer_config"] == {"backend": RECEIVER}
    assert 0 <= arguments["seed"] < 2**32
    assert "enforce_eager" not in engine_arguments("m", EngineConfig(device="cuda"), 0)


def test_ranks_of_an_engine_are_its_own_processes() -> None:
    """Left alone, vLLM takes its Ray executor within a placement group, which refuses bundles of several GPUs."""
    one, two = (engine_arguments("m", EngineConfig(device="cuda", tensor_parallel=n), 0) for n in (1, 2))
    assert "distributed_executor_backend" not in one
    assert (two["tensor_parallel_size"], two["distributed_executor_backend"]) == (2, "mp")


def test_resumed_rollouts_that_exceed_a_step_do_not_kill_the_core(running: Running) -> None:
    """More prefill than ``max_batched_tokens``: vLLM cuts it, which would kill requests with a generator on a CPU."""
    long = [
        Request(f"long{i}", Prompt(tuple((7 * i + j) % 29 + 1 for j in range(100))), 4, Sampling(), 7 + i)
        for i in range(8)
    ]
    drawn = running.finish(long)
    assert [len(drawn[request.key].token_ids) for request in long] == [4] * 8
    assert not any(delta.error for delta in drawn.values())
