"""Who owns which matrix, in which round, and what that puts on the wire: no ranks needed."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl.optim.distributed import BUCKET
from rl.optim.ownership import Layout, assign, buckets, cost, plan, rounds
from rl.optim.routing import along, convolution, interleaved, parts, whole
from rl.optim.shards import chunk

RANKS = st.integers(1, 7)
SIZES = st.lists(st.integers(1, 50), min_size=1, max_size=20)


@given(st.integers(0, 40), RANKS)
def test_rows_of_a_rank_are_those_of_torch_chunk(rows, ranks):
    theirs = [part.tolist() for part in torch.arange(rows).chunk(ranks)] if rows else []
    ours = [list(chunk(rows, ranks, rank)) for rank in range(ranks)]
    assert ours == theirs + [[]] * (ranks - len(theirs))


@given(SIZES, st.lists(st.integers(0, 100), min_size=1, max_size=7))
def test_owners_have_as_much_to_do_as_one_matrix_allows(costs, busy):
    owners = assign(costs, busy)
    loads = [b + sum(c for c, owner in zip(costs, owners, strict=True) if owner == r) for r, b in enumerate(busy)]
    for rank in set(owners):
        last = min(c for c, owner in zip(costs, owners, strict=True) if owner == rank)
        assert loads[rank] - last <= min(loads)
    assert owners == assign(costs, busy)


@given(SIZES, RANKS, st.integers(1, 100))
def test_rounds_take_every_matrix_once_and_keep_to_the_limit(sizes, ranks, limit):
    owners = assign(sizes, [0] * ranks)
    found = rounds(sizes, owners, sizes, limit)
    assert sorted(m for members in found for m in members) == list(range(len(sizes)))
    for members in found:
        assert members
        for rank in range(ranks):
            assert sum(sizes[m] for m in members if owners[m] == rank) <= max(limit, *sizes)
    assert len(rounds(sizes, owners, sizes, sum(sizes))) == 1


@given(SIZES, st.integers(1, 100))
def test_buckets_keep_order_and_limit(sizes, limit):
    found = buckets(sizes, limit)
    assert [i for bucket in found for i in bucket] == list(range(len(sizes)))
    assert all(len(bucket) == 1 or sum(sizes[i] for i in bucket) <= limit for bucket in found)


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 4)), min_size=1, max_size=9), st.integers(2, 6), st.data())
def test_what_leaves_a_rank(shapes, ranks, data):
    owners = data.draw(st.lists(st.integers(0, ranks - 1), min_size=len(shapes), max_size=len(shapes)))
    layout = Layout(shapes, owners, ranks)
    sent = [layout.sent(rank) for rank in range(ranks)]
    arrived = [0] * ranks
    counted = [0] * ranks
    for (rows, columns), owner in zip(shapes, owners, strict=True):
        for rank in range(ranks):
            if rank != owner:
                mine = len(chunk(rows, ranks, rank)) * columns
                counted[rank] += mine  # to the owner
                counted[owner] += mine  # and back
                arrived[owner] += mine
                arrived[rank] += mine
    assert sent == counted == arrived
    total = sum(rows * columns for rows, columns in shapes)
    if all(rows % ranks == 0 for rows, _ in shapes):
        assert sum(sent) == pytest.approx(2 * total * (1 - 1 / ranks))
        for rank in range(ranks):
            owned = sum(math.prod(shapes[m]) for m in layout.owned(rank))
            assert sent[rank] == pytest.approx(total / ranks + owned * (1 - 2 / ranks))
            if owned * (ranks - 2) <= total:
                assert sent[rank] <= 2 * total / ranks


def layers(hidden, mlp, count, queries, keys):
    layer = [(queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries)]
    return count * [*layer, (mlp, hidden), (mlp, hidden), (hidden, mlp)]


def experts(hidden, mlp, number, count, queries, keys):
    layer = [(queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries), (number, hidden)]
    return count * [*layer, (number, 2 * mlp, hidden), (number, hidden, mlp)]


REAL = {
    "0.6B": layers(1024, 3072, 28, 2048, 1024),
    "7B": layers(3584, 18944, 28, 3584, 512),
    "32B": layers(5120, 27648, 64, 5120, 1024),
    "30B-A3B": experts(2048, 768, 128, 48, 4096, 512),
}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("ranks", [2, 3, 8, 64])
def test_real_models_send_at_most_four_bytes_an_element_and_rank(name, ranks):
    """In bfloat16: 4 P/N for every rank up to 8 ranks; on 64, where an owner has few matrices, what it owns is counted.

    Experts send nothing.
    """
    shapes = REAL[name]
    made = plan(shapes, [whole] * len(shapes), ranks, BUCKET)
    layouts = [layout for _, layout in made.rounds]
    elements = sum(math.prod(shape) for shape in shapes if len(shape) == 2)
    assert elements == sum(rows * columns for layout in layouts for rows, columns in layout.shapes)
    sent = [2 * sum(layout.sent(rank) for layout in layouts) for rank in range(ranks)]
    owned = [sum(math.prod(layout.shapes[m]) for layout in layouts for m in layout.owned(r)) for r in range(ranks)]
    assert sum(sent) / ranks <= 4 * elements / ranks
    if ranks <= 8:
        assert max(sent) <= 4 * elements / ranks
    assert all(here <= 2 * (elements / ranks + own) for here, own in zip(sent, owned, strict=True))
    work = [sum(cost(*layout.shapes[m]) for layout in layouts for m in layout.owned(rank)) for rank in range(ranks)]
    largest = max(cost(*shape) for layout in layouts for shape in layout.shapes)
    if len(shapes[-1]) == 2:  # without experts, who count as well
        assert max(work) - min(work) <= largest


@pytest.mark.parametrize(
    ("shape", "split"),
    [
        ((7, 5), whole),
        ((12, 5), along(0, [6, 4, 2])),
        ((5, 12), along(1, [6, 4, 2])),
        ((24, 5), interleaved(2, 2, 3)),
        ((6, 3, 2), convolution),
        ((6, 3, 2, 2), convolution),
    ],
)
@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_parts_say_where_the_matrices_of_a_split_are(shape, split, ranks):
    tensor = torch.arange(math.prod(shape)).view(shape)
    flat = tensor.flatten(1)
    matrices = [matrix.flatten(0, -2) for matrix in split(tensor)]
    found = parts(shape, split)
    assert [part.shape for part in found] == [tuple(matrix.shape) for matrix in matrices]
    for part, matrix in zip(found, matrices, strict=True):
        columns = slice(part.columns.start, part.columns.stop)
        assert torch.equal(torch.cat([flat[run.start : run.stop, columns] for run in part.rows]), matrix)
    seen = torch.zeros_like(flat)
    for rank in range(ranks):
        rows = chunk(shape[0], ranks, rank)
        for part in found:
            for run in part.within(rows):
                assert len(run) > 0
                seen[rows.start :][run.start : run.stop, part.columns.start : part.columns.stop] += 1
    assert torch.equal(seen, torch.ones_like(seen))
