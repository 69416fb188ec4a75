"""A forward pass on a GPU does not wait for it in each layer: what needs the lengths on the host is made once.

Fake tensors stand for a GPU's: they have no values, so whatever would read one from the host raises. (They are called
CPU tensors, since a build for CPUs slices no others.)
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from types import ModuleType
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)

from kernels.moba import MobaConfig, paged, spans
from kernels.moba import op as moba_op
from kernels.moba.op import attend
from kernels.moba.tables import _tables, tables
from kernels.varlen import boundaries, host, packed_attention
from kernels.varlen import op as varlen_op
from rl.learner.batch import cumulative
from rl.learner.forward import packed_inputs
from rollout.models import moba
from rollout.models.attention import BlockAttentionConfig

LENGTHS = [7, 9, 9, 30, 31, 64, 5]
DEVICE = torch.device("cpu")


@pytest.fixture
def fake_gpu() -> Iterator[FakeTensorMode]:
    """Plans made before are of real tensors, those made here of fake ones: neither may meet the other."""
    plans = (varlen_op.plan, moba_op._cut, _tables, paged._rows)
    for plan in plans:
        plan.cache_clear()
    with FakeTensorMode() as mode:
        yield mode
    for plan in plans:
        plan.cache_clear()


def seen() -> torch.Tensor:
    """Boundaries on the GPU, as if they had been read there once."""
    there = torch.empty(len(LENGTHS) + 1, dtype=torch.int32, device=DEVICE)
    host._read[there] = (there._version, (0, *accumulate(LENGTHS)))
    return there


def qkv(heads: int = 4, kv_heads: int = 2, dim: int = 64) -> list[torch.Tensor]:
    shapes = [(sum(LENGTHS), count, dim) for count in (heads, kv_heads, kv_heads)]
    return [torch.empty(shape, device=DEVICE, dtype=torch.bfloat16, requires_grad=True) for shape in shapes]


def test_reading_a_tensor_on_the_gpu_raises_here(fake_gpu: FakeTensorMode) -> None:
    unseen = torch.empty(3, dtype=torch.int32, device=DEVICE)
    for read in (unseen.tolist, lambda: torch.nonzero(unseen), lambda: int(unseen.max())):
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            read()


def test_packed_attention_waits_for_nothing(fake_gpu: FakeTensorMode) -> None:
    q, k, v = qkv()
    out = packed_attention(q, k, v, seen(), 0.125)
    assert out.shape == q.shape
    out.sum().backward()
    assert q.grad is not None


def test_a_forward_pass_asks_for_the_lengths_once(fake_gpu: FakeTensorMode) -> None:
    tokens = torch.empty(sum(LENGTHS), dtype=torch.int32, device=DEVICE)
    inputs = packed_inputs(tokens, seen())
    assert inputs["max_length_q"] == max(LENGTHS)
    assert inputs["position_ids"].shape == (1, sum(LENGTHS))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("full_below", [0, 32])
def test_block_attention_waits_for_nothing(
    full: bool, full_below: int, fake_gpu: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the kernels, which Triton compiles for real tensors only."""
    path = ModuleType("path")

    def forward(q: torch.Tensor, *_: Any) -> tuple[torch.Tensor, tuple[()]]:
        sequences, config = _[2], _[3]
        tables(sequences, config, 128, q.device)
        return torch.empty_like(q), ()

    path.forward = forward  # type: ignore[attr-defined]
    monkeypatch.setattr("kernels.moba.op.path_of", lambda _: path)
    block = BlockAttentionConfig(block_size=16, top_k=2, full_below=full_below)
    cu = seen()
    q, k, v = qkv()
    with torch.no_grad():
        out = moba.block_attention(q, k, v, cu, cu, block, full, 0.125)
    assert isinstance(out, FakeTensor)
    assert out.shape == q.shape


def test_a_tensor_on_a_device_is_read_once_and_again_when_it_changes() -> None:
    class Device(torch.Tensor):
        """Says that it is on a GPU, and counts how often it is read."""

        reads = 0

        @property
        def device(self) -> torch.device:
            return torch.device("cuda:0")

        def tolist(self) -> list[int]:
            Device.reads += 1
            return self.as_subclass(torch.Tensor).tolist()

    ends = torch.tensor([0, 3, 5]).as_subclass(Device)
    assert [boundaries(ends) for _ in range(3)] == [(0, 3, 5)] * 3
    assert Device.reads == 1
    ends[1] = 2
    assert [boundaries(ends) for _ in range(3)] == [(0, 2, 5)] * 3
    assert Device.reads == 2
    assert boundaries([0, 3, 5]) == (0, 3, 5)


def test_layers_share_one_plan_also_after_inference() -> None:
    """A plan made while nothing is recorded serves a pass that is."""
    lengths = [3, 5, 6]
    q, k, v = (torch.randn(14, 2, 8, requires_grad=True) for _ in range(3))
    varlen_op.plan.cache_clear()
    with torch.inference_mode():
        alone = packed_attention(q, k, v, cumulative(lengths), 0.3)
    for _ in range(4):
        out = packed_attention(q, k, v, cumulative(lengths), 0.3)
    out.sum().backward()
    assert torch.equal(out, alone)
    assert (varlen_op.plan.cache_info().misses, varlen_op.plan.cache_info().hits) == (1, 4)
    moba_op._cut.cache_clear()
    config = MobaConfig(2, 1, full_below=4)
    sequences = spans([0, 3, 8, 14], [0, 3, 8, 14], 14, 14)
    path = ModuleType("path")
    path.forward = lambda q, *_: (q.clone(), ())  # type: ignore[attr-defined]
    for _ in range(3):
        attend(q.detach(), k.detach(), v.detach(), sequences, config, 0.3, path)
    assert (moba_op._cut.cache_info().misses, moba_op._cut.cache_info().hits) == (1, 2)
