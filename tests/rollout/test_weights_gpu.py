"""Weight transfer between GPUs: the logic on a CPU, the transfer itself where there are GPUs (``-m gpu``)."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import log_probs, tiny_llama

from rollout.config import EngineConfig
from rollout.engine import WeightUpdate
from rollout.engines.vllm import VllmEngine, _transfer_of
from rollout.transfer.sender import sender
from tests.needs import needs_vllm

pytestmark = needs_vllm

PROBE = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11]]


class FakeTrainer:
    """Stands in for vLLM's trainer engine, which needs a GPU; tells the client what the real one tells it."""

    def __init__(self, backend: str, arrive: threading.Event | None = None, fail: str = "") -> None:
        self.backend = backend
        self.arrive = arrive
        self.fail = fail
        self.sent: list[list[str]] = []
        self.closed = 0
        self.__name__ = "FakeTrainer"  # vLLM logs it: its registry holds classes

    def trainer_init(self, init_info: Any, *, client: Any, source: Any) -> FakeTrainer:
        self.client, self.source = client, source
        client.init_weight_transfer_engine({"packed": False} if self.backend == "ipc" else {})
        return self

    def send_weights(self) -> None:
        if self.arrive is not None:
            assert self.arrive.wait(10)
        if self.fail:
            raise RuntimeError(self.fail)
        self.sent.append([name for name, _ in self.source])
        names, tensors = zip(*self.source, strict=True)
        self.client.start_weight_update()
        self.client.update_weights(
            {
                "names": list(names),
                "dtype_names": ["float32"] * len(names),
                "shapes": [list(tensor.shape) for tensor in tensors],
                "ipc_handles": [{"gpu": ()}] * len(names),
            }
        )
        self.client.finish_weight_update()

    def shutdown(self) -> None:
        self.closed += 1


def use(monkeypatch: pytest.MonkeyPatch, trainer: FakeTrainer) -> None:
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    monkeypatch.setitem(WeightTransferTrainerFactory._registry, trainer.backend, lambda: trainer)


def test_source_declares_what_it_yields() -> None:
    from vllm.distributed.weight_transfer.base import VLLMWeightSyncClient

    from rollout.transfer.gpu import Notes, PolicySource

    source = PolicySource(tiny_llama())
    declared = [(item.name, item.dtype, item.shape) for item in source.metadata()]
    assert declared == [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in source]
    assert next(iter(source))[1] is next(iter(source))[1], "each pass yields the same tensors: IPC handles stay valid"
    assert "lm_head.weight" in {item.name for item in source.metadata()}
    assert source.size == sum(tensor.numel() * 4 for _, tensor in source)
    assert isinstance(Notes(), VLLMWeightSyncClient)


def test_ipc_update_is_what_vllm_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferInitInfo, IPCWeightTransferUpdateInfo

    from rollout.transfer.gpu import PolicySource

    use(monkeypatch, FakeTrainer("ipc"))
    update = sender("ipc").send(tiny_llama(), 3)
    assert (update.version, update.backend) == (3, "ipc")
    init, info = _transfer_of(WeightUpdate(3, "ipc", {**update.payload, "engine": 5}))
    assert not IPCWeightTransferInitInfo(**init).packed
    assert IPCWeightTransferUpdateInfo(**info).names == [name for name, _ in PolicySource(tiny_llama())]


def test_nccl_gives_every_engine_its_ranks_and_sends_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.distributed.weight_transfer.nccl_engine import (
        NCCLWeightTransferInitInfo,
        NCCLWeightTransferUpdateInfo,
    )

    from rollout.transfer.gpu import PolicySource

    arrive = threading.Event()
    trainer = FakeTrainer("nccl", arrive)
    use(monkeypatch, trainer)
    source = sender("nccl", engines=3, ranks=2)
    update = source.send(tiny_llama(), 1)
    assert trainer.sent == [], "send returns while the broadcast still waits for the engines"
    offsets = []
    for index in range(3):
        init, info = _transfer_of(WeightUpdate(1, "nccl", {**update.payload, "engine": index}))
        parsed = NCCLWeightTransferInitInfo(**init)
        assert parsed.world_size == 7
        assert parsed.packed
        assert parsed.master_port
        offsets.append(parsed.rank_offset)
        assert NCCLWeightTransferUpdateInfo(**info).names == [name for name, _ in PolicySource(tiny_llama())]
    assert offsets == [1, 3, 5]
    arrive.set()
    again = source.send(tiny_llama(), 2)
    assert len(trainer.sent) >= 1
    assert trainer.closed >= 1
    assert again.payload["init"][0]["master_port"] != update.payload["init"][0]["master_port"], "a new group each time"


def test_nccl_reports_a_failed_broadcast_at_the_next_send(monkeypatch: pytest.MonkeyPatch) -> None:
    from rollout.transfer.gpu import NcclSender

    use(monkeypatch, FakeTrainer("nccl", fail="peer lost"))
    source = NcclSender(1, 1)
    source.send(tiny_llama(), 1)
    with pytest.raises(RuntimeError, match="previous nccl broadcast failed: peer lost"):
        source.send(tiny_llama(), 2)
    source.send(tiny_llama(), 3)
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
    model = tiny_llama(seed=3, head_dim=64).to(f"cuda:{learner}")
    source = sender(transfer)

    async def main() -> None:
        engine = VllmEngine(str(tmp_path), config, 0)
        await engine.start()
        try:
            with torch.cuda.device(learner):
                update = source.send(model, 1)
            await engine.update_weights(WeightUpdate(1, transfer, {**update.payload, "engine": 0}))
            scores = await engine.score(PROBE)
        finally:
            await engine.close()
        for row, sequence in zip(scores, PROBE, strict=True):
            assert row == pytest.approx(log_probs(model.cpu(), sequence), abs=1e-2)

    asyncio.run(main())
