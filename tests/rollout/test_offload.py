"""Tensors in host memory for a while: their memory is really given back, and they come back bit for bit."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import pytest
import torch

from rollout import offload
from rollout.offload import Offload, storages


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that tensors reach over several."""
    monkeypatch.setattr(offload, "SLAB", 100)


class Held:
    """A parameter with a gradient, views of one storage, and another type."""

    def __init__(self) -> None:
        self.parameter = torch.nn.Parameter(torch.randn(7, 9))
        self.parameter.grad = torch.randn(7, 9)
        self.whole = torch.randn(40)
        self.view = self.whole[10:20]
        self.half = torch.randn(5).bfloat16()

    def tensors(self) -> Iterator[torch.Tensor]:
        assert self.parameter.grad is not None
        yield from (self.parameter, self.parameter.grad, self.whole, self.view, self.half)

    def copies(self) -> list[torch.Tensor]:
        return [tensor.detach().clone() for tensor in self.tensors()]


def test_memory_is_given_back_and_everything_returns_bit_for_bit() -> None:
    held = Held()
    before, objects = held.copies(), [id(tensor) for tensor in held.tensors()]
    lodged = Offload("cpu", held.tensors)
    lodged.away()
    assert [tensor.untyped_storage().nbytes() for tensor in held.tensors()] == [0] * 5
    assert lodged.bytes == 2 * 7 * 9 * 4 + 40 * 4 + 5 * 2, "the view's storage is moved once"
    lodged.back()
    assert lodged.bytes == 0
    assert all(map(torch.equal, held.tensors(), before))
    assert [id(tensor) for tensor in held.tensors()] == objects
    held.whole[12] = 5.0
    assert held.view[2] == 5.0, "views are views still"


def test_going_twice_and_coming_twice_change_nothing() -> None:
    held = Held()
    before = held.copies()
    lodged = Offload("cpu", held.tensors)
    lodged.back()
    lodged.away()
    lodged.away()
    lodged.back()
    lodged.back()
    assert all(map(torch.equal, held.tensors(), before))


def test_what_came_to_be_meanwhile_is_away_after_the_next_time() -> None:
    held, more = Held(), []
    lodged = Offload("cpu", lambda: [*held.tensors(), *more])
    lodged.away()
    more.append(torch.arange(300))
    lodged.away()
    assert more[0].untyped_storage().nbytes() == 0
    lodged.back()
    assert torch.equal(more[0], torch.arange(300))


def test_a_return_that_finds_no_memory_can_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held()
    before = held.copies()
    lodged = Offload("cpu", held.tensors)
    lodged.away()
    pieces, calls = lodged._host.pieces, []

    def failing(start: int, size: int) -> Iterator[tuple[int, torch.Tensor]]:
        calls.append(start)
        if len(calls) == 3:
            raise torch.OutOfMemoryError
        return pieces(start, size)

    monkeypatch.setattr(lodged._host, "pieces", failing)
    with pytest.raises(torch.OutOfMemoryError):
        lodged.back()
    assert lodged.bytes > 0
    lodged.back()
    assert all(map(torch.equal, held.tensors(), before))


def test_what_lies_elsewhere_stays() -> None:
    """On another device, without elements, or in memory that is not torch's."""
    mapped = torch.frombuffer(mmap.mmap(-1, 64), dtype=torch.float32)
    assert storages([torch.empty(3, device="meta"), torch.empty(0), mapped], "cpu") == []
    assert storages([torch.ones(3)], "cuda") == []
