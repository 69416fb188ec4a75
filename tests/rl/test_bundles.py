"""What a run reserves on a cluster of several nodes, and what is refused before anybody waits."""

from __future__ import annotations

import pytest

from rl.bundles import Places, in_turn, lay_out, refusal
from rl.learner.config import RanksConfig

CPU, GPU = {"CPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}


def nodes(*gpus: int) -> list[dict[str, float]]:
    return [{"CPU": 16.0, "GPU": float(count), "memory": 1e9} for count in gpus]


def test_engines_read_shared_memory_on_the_node_of_rank_0_and_other_ranks_are_anywhere() -> None:
    found = lay_out(CPU, CPU, RanksConfig(shard=3), 2, "shm", nodes(0, 0))
    assert found == Places(({"CPU": 3.0}, CPU, CPU), (0, 1, 2), (0, 0))


def test_over_nccl_everybody_is_anywhere() -> None:
    found = lay_out(GPU, {"CPU": 1.0, "GPU": 2.0}, RanksConfig(shard=2), 2, "nccl", nodes(8))
    assert found == Places((GPU, GPU, {"CPU": 1.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 2.0}), (0, 1), (2, 3))


def test_parts_of_one_gpu_are_one_bundle() -> None:
    half = {"CPU": 1.0, "GPU": 0.5}
    assert lay_out(half, half, RanksConfig(), 1, "ipc", nodes(1)) == Places(({"CPU": 2.0, "GPU": 1.0},), (0,), (0,))


@pytest.mark.parametrize(
    ("gpus", "bundles", "ranks"),
    [
        ((8, 8), 2, (0, 0, 0, 0, 1, 1, 1, 1)),
        ((4, 4), 2, (0, 0, 0, 0, 1, 1, 1, 1)),
        ((2, 2, 2, 2), 8, (0, 1, 2, 3, 4, 5, 6, 7)),  # no node holds four of them
    ],
)
def test_ranks_of_a_sequence_are_on_one_node_where_one_holds_them(
    gpus: tuple[int, ...], bundles: int, ranks: tuple[int, ...]
) -> None:
    found = lay_out(GPU, GPU, RanksConfig(shard=2, sequence=4), 1, "nccl", nodes(*gpus))
    assert len(found.bundles) == bundles + 1
    assert found.ranks == ranks
    assert found.engines == (bundles,)


@pytest.mark.parametrize(
    ("mesh", "gpus", "words"),
    [
        (RanksConfig(shard=8), (4, 4), "they need 9 CPU and 9 GPU in all, and the cluster has 32 CPU and 8 GPU"),
        (RanksConfig(shard=3), (), "they need 4 CPU and 4 GPU in all, and the cluster has 0 CPU and 0 GPU"),
        (RanksConfig(shard=3), (4, 4), ""),
        (RanksConfig(shard=2, sequence=4), (2, 2, 2, 2, 2), ""),
    ],
)
def test_what_no_wait_can_help_is_told_with_both_numbers(mesh: RanksConfig, gpus: tuple[int, ...], words: str) -> None:
    there = nodes(*gpus)
    assert refusal(lay_out(GPU, GPU, mesh, 1, "nccl", there), there) == words


def test_an_engine_that_no_node_holds_is_refused() -> None:
    there = nodes(4, 4)
    found = lay_out(GPU, {"CPU": 1.0, "GPU": 6.0}, RanksConfig(), 1, "nccl", there)
    assert refusal(found, there) == (
        "1 CPU and 6 GPU have to be on one node, and no node has more than 16 CPU and 4 GPU"
    )


def test_in_turn_learner_and_engines_have_the_same_gpus() -> None:
    found = in_turn(RanksConfig(shard=4), 2, 2, nodes(4))
    assert found.bundles == ({"CPU": 6.0, "GPU": 4.0},)
    assert (found.ranks, found.rank_gpus) == ((0, 0, 0, 0), ((0,), (1,), (2,), (3,)))
    assert (found.engines, found.engine_gpus) == ((0, 0), ((0, 1), (2, 3)))


def test_in_turn_on_several_nodes_an_engine_is_whole_on_one_of_them() -> None:
    found = in_turn(RanksConfig(shard=5), 3, 2, nodes(3, 0, 4))
    assert found.bundles == ({"CPU": 6.0, "GPU": 4.0}, {"CPU": 2.0, "GPU": 2.0})
    assert (found.ranks, found.rank_gpus) == ((0, 0, 0, 0, 1), ((0,), (1,), (2,), (3,), (0,)))
    assert (found.engines, found.engine_gpus) == ((0, 0, 1), ((0, 1), (2, 3), (0, 1)))


def test_in_turn_ranks_of_a_sequence_are_on_one_node_where_one_holds_them() -> None:
    mesh = RanksConfig(shard=2, sequence=3)
    assert in_turn(mesh, 1, 1, nodes(4, 4)).ranks == (0, 0, 0, 1, 1, 1)
    assert in_turn(mesh, 1, 1, nodes(2, 2, 2)).ranks == (0, 0, 1, 1, 2, 2)


@pytest.mark.parametrize(
    ("mesh", "engines", "each", "words"),
    [
        (RanksConfig(shard=9), 1, 1, "they need 10 CPU and 9 GPU in all, and the cluster has 32 CPU and 8 GPU"),
        (RanksConfig(), 2, 3, ""),
        (RanksConfig(), 3, 3, "they need 4 CPU and 9 GPU in all, and the cluster has 32 CPU and 8 GPU"),
        (RanksConfig(), 1, 5, "5 GPU have to be on one node, and no node has more than 16 CPU and 4 GPU"),
    ],
)
def test_in_turn_too_is_refused_with_both_numbers(mesh: RanksConfig, engines: int, each: int, words: str) -> None:
    there = nodes(4, 4)
    assert refusal(in_turn(mesh, engines, each, there), there).endswith(words)
