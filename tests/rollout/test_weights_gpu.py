"""Weight transfer between GPUs: the logic on a CPU, the transfer itself where there are GPUs (``-m gpu``)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import log_probs, named_weights, tiny_llama

from rollout.config import EngineConfig
from rollout.engine import DEEP, LIGHT, WeightUpdate
from rollout.engines.vllm import VllmEngine, _transfer_of
from rollout.transfer.gpu import IpcSender, NcclSender
from rollout.transfer.mirror import mirrored
from rollout.transfer.sender import sender
from rollout.transfer.weights import ShmReader, ShmSender
from tests.needs import needs_vllm

pytestmark = needs_vllm

PROBE = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11]]


def test_each_way_becomes_what_vllms_end_of_it_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    from rollout.transfer.vllm import Init, Update

    monkeypatch.setattr("rollout.transfer.gpu.own_address", lambda: "127.0.0.1")
    monkeypatch.setattr("rollout.transfer.gpu.gpu_of", lambda device: f"GPU of {device}")
    names = [name for name, _ in named_weights(tiny_llama())]
    for transfer in ("shm", "ipc", "nccl"):
        source = sender(transfer, ranks=2)
        update = source.send(tiny_llama(), 3)
        assert (update.version, update.backend) == (3, transfer)
        init, info = (kind(**part) for kind, part in zip((Init, Update), _parts(update, True), strict=True))
        assert [tensor[0] for tensor in info.tensors] == names
        assert (init.meeting is not None) == (transfer == "nccl")
        assert (init.engine, init.roster) == ((5, [1, 5]) if transfer == "nccl" else (0, []))
        assert (info.handles is not None) == (transfer == "ipc")
        restarted, copy = (kind(**part) for kind, part in zip((Init, Update), _parts(update, False), strict=True))
        assert restarted.meeting is None, "an engine that starts later needs nobody"
        assert copy.handles is None
        source.close()


def _parts(update: WeightUpdate, there: bool) -> tuple[dict, dict]:
    return _transfer_of(update.directly(5, [1, 5]) if there else update.copied())


def test_handles_stand_for_the_learners_own_tensors_and_the_copy_does_not_change_with_them() -> None:
    source, model = IpcSender(), tiny_llama(seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rollout.transfer.gpu.gpu_of", lambda device: f"GPU of {device}")
        update = source.send(model, 1)
    handles = update.payload["direct"]["ipc"]
    assert handles.keys() == dict(named_weights(model)).keys()
    assert {gpu for gpu, _ in handles.values()} == {"GPU of cpu"}
    held = {tensor.data_ptr() for tensor in source._held}
    assert held == {parameter.data_ptr() for parameter in model.parameters()}
    truth = {name: tensor.clone() for name, tensor in named_weights(model)}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)  # the next step, before an engine is restarted
    assert all(torch.equal(tensor, truth[name]) for name, tensor in ShmReader().read(update.payload))
    source.close()


def test_a_failure_that_is_no_lost_peer_reaches_the_next_send(monkeypatch: pytest.MonkeyPatch) -> None:
    from rollout.transfer.broadcast import Host

    def broken(*_: object) -> bool:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr("rollout.transfer.gpu.own_address", lambda: "127.0.0.1")
    source = NcclSender(1)
    source.send(tiny_llama(), 1)
    monkeypatch.setattr(Host, "send", broken)
    source.send(tiny_llama(), 2)
    with pytest.raises(RuntimeError, match="previous nccl broadcast failed: CUDA error"):
        source.send(tiny_llama(), 3)
    source.close()


def test_an_engine_on_another_machine_gets_the_copy_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.transfer.weights.PIECE", 10_000)
    store: dict[int, bytes] = {}

    def put(data: object) -> int:
        store[len(store)] = bytes(data)  # type: ignore[call-overload]
        return len(store) - 1

    source, model = ShmSender("nccl", put=put), tiny_llama(seed=2)
    update = source.send(model, 1)
    assert len(store) > 3
    with mirrored(update, store.pop) as same:
        assert same.payload["path"] == update.payload["path"]
        assert "pieces" not in same.payload
    elsewhere = replace(update, payload={**update.payload, "machine": "another"})
    with pytest.raises(FileNotFoundError, match="another machine"):
        list(ShmReader().read(elsewhere.payload))
    direct = replace(elsewhere, payload={**elsewhere.payload, "direct": {"nccl": {}}})
    with mirrored(direct, store.pop) as broadcast:
        assert broadcast.payload["machine"] == "another"
    assert store, "nothing was fetched for an engine that takes part in a broadcast"
    with mirrored(elsewhere, store.pop) as here:
        found = {name: tensor.clone() for name, tensor in ShmReader().read(here.payload)}
    assert not store
    assert all(torch.equal(tensor, found[name]) for name, tensor in named_weights(model))
    source.close()


@pytest.mark.gpu
@pytest.mark.parametrize("transfer", ["ipc", "nccl"])
def test_publish_to_a_gpu_engine_keeps_parity(transfer: str, tmp_path: Path) -> None:
    """``ipc``: learner and engine on one GPU. ``nccl`` needs a second one (the engine's)."""
    if transfer == "nccl" and torch.cuda.device_count() < 2:
        pytest.skip("nccl needs one GPU for the learner and one for the engine")
    tiny_llama(head_dim=64).save_pretrained(tmp_path)
    config = EngineConfig(
        device="cuda", dtype="float32", max_model_len=256, gpu_memory_utilization=0.2, weight_transfer=transfer
    )  # type: ignore[arg-type]
    learner = 1 if transfer == "nccl" else 0
    models = [tiny_llama(seed=seed, head_dim=64).to(f"cuda:{learner}") for seed in (3, 4, 5)]
    source = sender(transfer)

    async def main() -> list[list[list[float]]]:
        engine, found = VllmEngine(str(tmp_path), config, 0), []
        await engine.start()
        try:
            for version, model in enumerate(models):
                update = source.send(model, version)
                await engine.update_weights(update.copied() if version == 2 else update.directly(0, [0]))
                found.append(await engine.score(PROBE))
        finally:
            await engine.close()
            source.close()
        return found

    for scores, model in zip(asyncio.run(main()), models, strict=True):
        for row, sequence in zip(scores, PROBE, strict=True):
            assert row == pytest.approx(log_probs(model.cpu(), sequence), abs=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("level", [LIGHT, DEEP])
def test_a_gpu_engine_gives_its_memory_back_while_it_sleeps(level: int, tmp_path: Path) -> None:
    """And serves the weights of the next publish, its graphs and buffers as before."""
    tiny_llama(head_dim=64).save_pretrained(tmp_path)
    extra = {"enable_sleep_mode": True}
    config = EngineConfig(device="cuda", dtype="float32", max_model_len=256, gpu_memory_utilization=0.5, extra=extra)
    models = [tiny_llama(seed=seed, head_dim=64) for seed in (3, 4)]
    source = sender("shm")
    total = torch.cuda.mem_get_info()[1]

    async def main() -> list[tuple[int, int, list[list[float]]]]:
        engine, found = VllmEngine(str(tmp_path), config, 0), []
        await engine.start()
        try:
            for version, model in enumerate(models):
                await engine.sleep(level)
                asleep = torch.cuda.mem_get_info()[0]
                await engine.wake()
                await engine.update_weights(source.send(model, version))
                found.append((asleep, torch.cuda.mem_get_info()[0], await engine.score(PROBE)))
        finally:
            await engine.close()
            source.close()
        return found

    for (asleep, awake, scores), model in zip(asyncio.run(main()), models, strict=True):
        assert asleep - awake > 0.4 * total
        for row, sequence in zip(scores, PROBE, strict=True):
            assert row == pytest.approx(log_probs(model, sequence), abs=1e-2)
