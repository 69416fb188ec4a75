"""The routed CPU path: outputs and every gradient against the dense-mask reference."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moba_kit import MobaConfig, close, ends, fast, full_attention, qkv, truth, with_grads

from kernels.moba import moba_attention
from kernels.moba.gate import _one_by_one, _ranked, choose_blocks, top_blocks

ODD = [1, 15, 16, 17, 55, 63, 111]  # block 16: one less, one more, 3 blocks + 7, and odd ones


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1), (6, 2)], ids=str)
@pytest.mark.parametrize("tokens", ODD)
def test_outputs_and_gradients_equal_the_reference(tokens, heads):
    config = MobaConfig(16, 2)
    tensors, cu = qkv(tokens, heads=heads[0], kv_heads=heads[1]), ends([tokens])
    close(with_grads(fast(cu, config), tensors), with_grads(truth(cu, config), tensors))


@pytest.mark.parametrize("dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 4e-3)], ids=str
)
def test_dtypes_and_head_dims(dim, dtype, atol):
    config, cu = MobaConfig(16, 3), ends([111, 40])
    tensors = qkv(151, dim=dim, dtype=dtype)
    ours, theirs = with_grads(fast(cu, config), tensors), with_grads(truth(cu, config), tensors)
    assert {part.dtype for part in ours} == {dtype}
    close(ours, theirs, atol)


@given(
    lengths=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=4),
    block=st.integers(1, 12),
    top_k=st.integers(1, 6),
    full_blocks=st.sampled_from([0, 0, 1, 3]),
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_and_any_prefix(lengths, block, top_k, full_blocks, heads, seed):
    config = MobaConfig(block, top_k, full_blocks * block)
    q_lengths, k_lengths = [q for q, _ in lengths], [q + prefix for q, prefix in lengths]
    tensors = qkv(sum(q_lengths), sum(k_lengths), *heads, seed=seed)
    cu, cu_k = ends(q_lengths), ends(k_lengths)
    close(with_grads(fast(cu, config, cu_k), tensors), with_grads(truth(cu, config, cu_k), tensors))


@pytest.mark.parametrize("tokens", [1, 7, 64, 111])
def test_enough_blocks_equal_full_attention(tokens):
    tensors, cu = qkv(tokens), ends([tokens])
    full = with_grads(lambda q, k, v: full_attention(q, k, v), tensors)
    for config in (MobaConfig(16, 7), MobaConfig(1, 111), MobaConfig(8, 1, full_below=112), MobaConfig(500, 1)):
        close(with_grads(fast(cu, config), tensors), full)


@pytest.mark.parametrize(("alone", "band"), [(1, 1), (1, 5), (40, 16), (1 << 30, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_however_the_work_is_cut(monkeypatch, alone, band, dtype):
    """Every list of queries in a call alone, some, or none; squares in bands that do and do not divide them."""
    monkeypatch.setattr("kernels.moba.pieces.ALONE", alone)
    monkeypatch.setattr("kernels.moba.pieces.BAND", band)
    monkeypatch.setattr("kernels.moba.cpu.GATHERED", 7 * 32)
    config, cu = MobaConfig(16, 3), ends([111, 40, 97])
    tensors = qkv(248, heads=4, kv_heads=2, dtype=dtype)
    atol = 2e-2 if dtype == torch.bfloat16 else 2e-5
    close(with_grads(fast(cu, config), tensors), with_grads(truth(cu, config), tensors), atol)


def test_packed_equals_separate():
    lengths, config = [5, 64, 1, 77], MobaConfig(8, 3)
    q, k, v = qkv(sum(lengths), grad=False)
    together = fast(ends(lengths), config)(q, k, v)
    parts = zip(*(t.split(lengths) for t in (q, k, v)), strict=True)
    apart = [fast(ends([len(part[0])]), config)(*part) for part in parts]
    assert torch.equal(together, torch.cat(apart))


@pytest.mark.parametrize("cuts", [[0, 30, 31, 80, 100], [0, 1, 100], [0, 16, 48, 100], [0, 99, 100]])
def test_chunked_prefill_equals_one_shot(cuts):
    q, k, v = qkv(100, grad=False)
    for config in (MobaConfig(16, 2), MobaConfig(16, 2, full_below=48)):
        whole = fast(ends([100]), config)(q, k, v)
        chunks = [
            fast(ends([stop - start]), config, ends([stop]))(q[start:stop], k[:stop], v[:stop])
            for start, stop in pairwise(cuts)
        ]
        close([torch.cat(chunks)], [whole])


@pytest.mark.parametrize("token", [0, 15, 16, 50, 99])
def test_nothing_sees_its_future_or_another_sequence(token):
    lengths, config = [20, 100, 20], MobaConfig(16, 2)
    q, k, v = qkv(sum(lengths), grad=False)
    before = fast(ends(lengths), config)(q, k, v)
    for t in (q, k, v):
        t[20 + token] += 3.0
    moved = (before - fast(ends(lengths), config)(q, k, v)).abs()
    changed = (moved > 1e-9).flatten(1).any(1).nonzero().flatten()  # other neighbours in a product: other last bits
    assert changed.min() == 20 + token
    assert changed.max() < 120


def test_blocks_that_nobody_chose_have_no_gradient_beyond_their_own_queries():
    config, cu = MobaConfig(4, 2), ends([20])
    tensors = qkv(20, heads=1, kv_heads=1)
    with torch.no_grad():
        tensors[0][8:] = 1.0
        for tensor, scores in ((tensors[1], [9.0, -9.0, -9.0, -9.0, 0.0]),):
            tensor.copy_(torch.tensor(scores, dtype=torch.float64).repeat_interleave(4)[:, None, None].expand(20, 1, 8))
    out, _, grad_k, _ = with_grads(fast(cu, config), tensors)
    assert out.isfinite().all()
    assert grad_k.isfinite().all()
    upstream = torch.zeros_like(out)
    upstream[12:] = 1.0  # queries of blocks 3 and 4, which all choose block 0
    grad_v = torch.autograd.grad((fast(cu, config)(*tensors) * upstream).sum(), tensors[2])[0]
    assert (grad_v[:4] != 0).all()
    assert (grad_v[4:12] == 0).all()


def test_strided_inputs_and_scale():
    config, cu = MobaConfig(8, 2), ends([50])
    tensors = qkv(50)
    turned = [t.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() for t in tensors]
    close(with_grads(fast(cu, config, scale=0.7), turned), with_grads(truth(cu, config, scale=0.7), tensors))


def test_uninitialised_memory_is_never_read(monkeypatch):
    config, cu, cu_k = MobaConfig(8, 3), ends([60, 9]), ends([60, 40])
    tensors = qkv(69, 100, dtype=torch.float32)
    expected = with_grads(truth(cu, config, cu_k), tensors)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)  # fills what torch.empty and empty_like return with NaN
    try:
        ours = with_grads(fast(cu, config, cu_k), tensors)
    finally:
        torch.use_deterministic_algorithms(False)
    close(ours, expected, 2e-5)


def test_the_higher_score_wins_and_the_lower_index_on_a_tie():
    inf = float("-inf")
    scores = torch.tensor(
        [[1.0, 3.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 2.0, 2.0], [5.0, inf, inf, inf], [2.0, 0.0, 2.0, 0.0]]
    )
    chosen = [sorted(row) for row in top_blocks(scores, 2).tolist()]
    assert chosen == [[1, 2], [0, 1], [1, 2], [-1, 0], [0, 2]]
    assert top_blocks(scores, 6).shape == (5, 6)
    assert top_blocks(scores[:, :0], 2).tolist() == [[-1, -1]] * 5


@pytest.mark.parametrize("count", [1, 2, 4])
def test_maxima_one_by_one_are_the_ranked_ones(count):
    scores = torch.randint(0, 4, (200, 9), generator=torch.Generator().manual_seed(0)).float()
    scores[:50, 3:] = float("-inf")
    kept = scores.clone()
    (values, index), (ranked, order) = _one_by_one(scores, count), _ranked(scores, count)
    assert torch.equal(values, ranked)
    real = values > float("-inf")
    assert torch.equal(index[real].sort().values, order[real].sort().values)
    assert all(set(mine.tolist()) == set(theirs.tolist()) for mine, theirs in zip(index[50:], order[50:], strict=True))
    assert torch.equal(scores, kept)


def test_the_gate_works_in_tiles(monkeypatch):
    q, k, _ = qkv(90, grad=False)
    means = k.unflatten(0, (15, 6)).mean(1)
    whole = choose_blocks(q, means, 0, MobaConfig(6, 4))
    monkeypatch.setattr("kernels.moba.gate.TILE_SCORES", 300)
    assert torch.equal(choose_blocks(q, means, 0, MobaConfig(6, 4)), whole)


@pytest.mark.parametrize(
    ("block", "top_k", "full_below", "match"),
    [(0, 2, 0, "block_size"), (4, 0, 0, "top_k"), (4, 2, 6, "full_below"), (4, 2, -4, "full_below")],
)
def test_impossible_configurations_are_refused(block, top_k, full_below, match):
    with pytest.raises(ValueError, match=match):
        moba_attention(*qkv(5), ends([5]), block, top_k, full_below=full_below)


@pytest.mark.parametrize("bad", [[0, 3], [1, 5], [0, 3, 3, 5], [0, 4, 3, 5], []])
def test_wrong_boundaries_are_refused(bad):
    with pytest.raises(ValueError, match="cu_seqlens_q must increase from 0 to 5"):
        moba_attention(*qkv(5), torch.tensor(bad), 4, 2)


def test_tensors_that_do_not_fit_are_refused():
    q, k, v = qkv(5)
    for wrong in ((q, k[:, :, :4], v), (q[0], k, v), (q, k[:3], v), (q[:, :3], k, v), (q, k[:, :0], v[:, :0])):
        with pytest.raises(ValueError, match="MoBA wants q"):
            moba_attention(*wrong, ends([5]), 4, 2)
    with pytest.raises(ValueError, match="one floating-point dtype"):
        moba_attention(q, k.float(), v, ends([5]), 4, 2)
    with pytest.raises(ValueError, match="6 queries but only 5 keys"):
        moba_attention(*qkv(6, 5), ends([6]), 4, 2, cu_seqlens_k=ends([5]))
    with pytest.raises(ValueError, match="2 sequences but cu_seqlens_k has 1"):
        moba_attention(*qkv(5), ends([2, 3]), 4, 2, cu_seqlens_k=ends([5]))
