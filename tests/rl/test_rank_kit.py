"""The kit itself: results by rank, and no failure or hang that goes unseen."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from tests.rank_kit import RankFailed, run_ranks


def total(rank, values):
    tensor = torch.tensor(values[rank])
    dist.all_reduce(tensor)
    return rank, tensor.item(), torch.get_num_threads()


def fail_on_one(rank, how):
    if rank == 1:
        if how == "raise":
            raise ValueError("on purpose")
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(300)


def hang(rank):
    time.sleep(300)


def test_results_come_by_rank():
    assert run_ranks(2, total, [3.0, 4.0]) == [(0, 7.0, 1), (1, 7.0, 1)]


@pytest.mark.parametrize(
    ("how", "message"), [("raise", "rank 1 of 2:\n(.|\n)*on purpose"), ("kill", "rank 1 of 2 died")]
)
def test_a_rank_that_fails_ends_all(how, message):
    with pytest.raises(RankFailed, match=message):
        run_ranks(2, fail_on_one, how)


def test_ranks_that_hang_are_killed():
    with pytest.raises(RankFailed, match="died or hung"):
        run_ranks(2, hang, limit=1.0)
