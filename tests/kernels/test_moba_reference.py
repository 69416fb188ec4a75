"""The dense-mask reference against hand-made masks: it is what everything else is compared with."""

from __future__ import annotations

import pytest
import torch
from moba_kit import MobaConfig, close, ends, full_attention, qkv, truth, with_grads

from kernels.moba import coverage, moba_attention_reference, moba_mask_reference, spans


def one_head(scores_per_block, block_size, tail=1):
    """q of ones and 1-dimensional keys whose block means are the given scores; `tail` tokens of a last block follow."""
    keys = [score for score in scores_per_block for _ in range(block_size)] + [100.0] * tail
    k = torch.tensor(keys, dtype=torch.float64)[:, None, None]
    return torch.ones_like(k), k


def blocks_seen(mask_row, block_size):
    return sorted({key // block_size for key in mask_row.nonzero().flatten().tolist()})


def test_the_best_past_blocks_and_the_own_one():
    q, k = one_head([3.0, 1.0, 2.0, 0.0], block_size=4)
    last = moba_mask_reference(q, k, MobaConfig(4, 3))[0, -1]
    assert blocks_seen(last, 4) == [0, 2, 4]
    assert last.sum() == 9  # two whole blocks and itself


def test_the_current_block_is_causal_and_never_judged_by_its_mean():
    q, k = one_head([3.0, 100.0], block_size=4, tail=0)
    mask = moba_mask_reference(q, k, MobaConfig(4, 2))[0]
    assert mask[5].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5]
    alone = moba_mask_reference(q, k, MobaConfig(4, 1))[0]  # top_k includes the current block [2502.13189 §2.2]
    assert alone[5].nonzero().flatten().tolist() == [4, 5]


def test_fewer_past_blocks_than_wanted_are_all_taken():
    q, k = one_head([3.0, 1.0], block_size=4)
    mask = moba_mask_reference(q, k, MobaConfig(4, 7))[0]
    assert torch.equal(mask, torch.ones(9, 9, dtype=torch.bool).tril())


def test_ties_go_to_the_earlier_block():
    q, k = one_head([1.0, 2.0, 1.0, 1.0, 1.0], block_size=2)
    assert blocks_seen(moba_mask_reference(q, k, MobaConfig(2, 4))[0, -1], 2) == [0, 1, 2, 5]


def test_a_partial_block_is_no_candidate_for_anyone():
    q, k = one_head([1.0, 2.0], block_size=4, tail=3)  # the tail's mean, 100, would win everywhere
    mask = moba_mask_reference(q, k, MobaConfig(4, 2))[0]
    assert [blocks_seen(row, 4) for row in mask[8:]] == [[1, 2]] * 3
    assert not mask[:8, 8:].any()


def test_each_query_head_routes_on_its_own_inside_a_group():
    k = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0], dtype=torch.float64)[:, None, None]
    q = torch.ones(5, 2, 1, dtype=torch.float64)
    q[:, 1] = -1.0
    mask = moba_mask_reference(q, k, MobaConfig(2, 2))
    assert [blocks_seen(mask[head, -1], 2) for head in (0, 1)] == [[0, 2], [1, 2]]


def test_early_positions_see_everything_when_asked_to():
    q, k = one_head([1.0, 2.0, 3.0, 4.0, 5.0], block_size=2)
    mask = moba_mask_reference(q, k, MobaConfig(2, 1, full_below=6))[0]
    assert [int(row.sum()) for row in mask] == [1, 2, 3, 4, 5, 6, 1, 2, 1, 2, 1]


@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 40])
def test_enough_blocks_are_full_attention_and_few_are_not(tokens):
    tensors, cu = qkv(tokens), ends([tokens])
    close(
        with_grads(truth(cu, MobaConfig(8, 5)), tensors), with_grads(lambda q, k, v: full_attention(q, k, v), tensors)
    )
    few = moba_attention_reference(*tensors, cu, MobaConfig(8, 2))
    differs = (few - full_attention(*tensors)).abs().amax() > 1e-3
    assert differs == (tokens > 16)


def test_queries_are_the_last_positions_of_longer_keys():
    q, k, v = qkv(50, grad=False)
    config = MobaConfig(8, 3)
    whole = moba_attention_reference(q, k, v, ends([50]), config)
    part = moba_attention_reference(q[37:], k, v, ends([13]), config, ends([50]))
    close([part], [whole[37:]])


@pytest.mark.parametrize("block", [1, 3, 8])
@pytest.mark.parametrize(("top_k", "full_below"), [(1, 0), (2, 0), (3, 24), (40, 0)])
def test_coverage_counts_what_the_mask_shows(block, top_k, full_below):
    config = MobaConfig(block, top_k, full_below)
    q_lengths, k_lengths = [1, 9, 30, 5], [1, 9, 30, 41]
    sequences = spans(ends(q_lengths).tolist(), ends(k_lengths).tolist(), 45, 81)
    q, k, _ = qkv(45, 81, heads=2, grad=False)
    masks = [moba_mask_reference(q[s.queries], k[s.keys], config) for s in sequences]
    seen = coverage(config, sequences)
    assert seen.attended == sum(int(mask[0].sum()) for mask in masks) == sum(int(mask[1].sum()) for mask in masks)
    positions = [p for s in sequences for p in range(s.offset, s.k_len)]
    assert seen.attended == sum(config.attended(p) for p in positions)
    assert (seen.queries, seen.causal) == (45, sum(p + 1 for p in positions))
    assert seen.full_queries == sum(config.attended(p) == p + 1 and p < config.dense_tokens for p in positions)
    assert 0 < seen.density <= 1
