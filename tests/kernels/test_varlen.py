from __future__ import annotations

import pytest
import torch
from transformers import AttentionInterface

from kernels.varlen import NAME, packed_attention, packed_attention_reference, register, tiles
from kernels.varlen.op import MAX_PADDING, attention_forward, buckets
from rl.learner.batch import cumulative

LENGTHS = [[1], [7], [3, 3, 3], [1, 2, 9, 10, 30, 31], [30, 1, 17, 2, 64, 5]]


def qkv(tokens, heads=4, kv_heads=2, dim=8, seed=0, value_dim=None):
    g = torch.Generator().manual_seed(seed)
    shapes = [(tokens, heads, dim), (tokens, kv_heads, dim), (tokens, kv_heads, value_dim or dim)]
    return [torch.randn(shape, generator=g, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_outputs_and_gradients_equal_the_reference(lengths, kv_heads, causal):
    tensors = qkv(sum(lengths), kv_heads=kv_heads)
    cu_seqlens = cumulative(lengths)
    upstream = torch.randn(tensors[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    results = []
    for function in (packed_attention, packed_attention_reference):
        out = function(*tensors, cu_seqlens, scale=0.3, causal=causal)
        results.append([out, *torch.autograd.grad((out * upstream).sum(), tensors)])
    for ours, truth in zip(*results, strict=True):
        torch.testing.assert_close(ours, truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("window", [None, 1, 3, 16, 64])
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_windows_and_soft_capping_equal_the_reference(monkeypatch, kv_heads, window, softcap):
    """Sequences shorter and longer than the window, in tiles that do and do not divide them."""
    monkeypatch.setattr(tiles, "TILE_ROWS", 7)
    lengths = [3, 17, 70, 64]
    tensors = qkv(sum(lengths), kv_heads=kv_heads, value_dim=6)
    upstream = torch.randn(sum(lengths), 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    results = []
    for function in (packed_attention, packed_attention_reference):
        out = function(*tensors, cumulative(lengths), 0.8, window, softcap)
        results.append([out, *torch.autograd.grad((out * upstream).sum(), tensors)])
    for ours, truth in zip(*results, strict=True):
        torch.testing.assert_close(ours, truth, rtol=0, atol=1e-12)
    plain = packed_attention_reference(*tensors, cumulative(lengths), 0.8)
    assert torch.allclose(plain, results[1][0]) == (window is None and softcap is None)


def test_under_a_window_a_tile_meets_no_key_beyond_it():
    for length, window in [(1000, 10), (1000, 300), (100, 300)]:
        cut = list(tiles.tiles(length, window, 128, window))
        assert [t.start for t in cut] == [0, *(t.end for t in cut[:-1])]
        assert cut[-1].end == length
        assert all(t.end - t.first <= max(window, 128 + window - 1) for t in cut)


def test_strided_inputs_as_transformers_passes_them():
    lengths = [4, 6, 5]
    tensors = qkv(sum(lengths))
    turned = [t.detach().transpose(0, 1).contiguous().transpose(0, 1) for t in tensors]
    truth = packed_attention_reference(*tensors, cumulative(lengths), 0.5)
    torch.testing.assert_close(packed_attention(*turned, cumulative(lengths), 0.5), truth, rtol=0, atol=1e-12)


def test_no_token_sees_another_sequence_or_its_own_future():
    lengths = [5, 8, 6]
    q, k, v = (t.detach() for t in qkv(sum(lengths)))
    before = packed_attention(q, k, v, cumulative(lengths), 0.3)
    for t in (q, k, v):
        t[9] += 1.0  # token 4 of the second sequence
    after = packed_attention(q, k, v, cumulative(lengths), 0.3)
    changed = (before != after).flatten(1).any(1).nonzero().flatten().tolist()
    assert changed == [9, 10, 11, 12]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_buckets_cover_the_stream_and_bound_the_padding(lengths):
    cut = list(buckets(lengths))
    assert [length for bucket in cut for length in bucket.lengths] == lengths
    assert [bucket.start for bucket in cut] == [sum(b.tokens for b in cut[:i]) for i in range(len(cut))]
    assert all(b.width * len(b.lengths) <= MAX_PADDING * b.tokens for b in cut)


@pytest.mark.parametrize("bad", [[0, 3], [1, 5], [0, 3, 3, 5], [0, 4, 3, 5]])
def test_wrong_boundaries_are_refused(bad):
    with pytest.raises(ValueError, match="cu_seqlens must increase from 0 to 5"):
        packed_attention(*qkv(5), torch.tensor(bad), 1.0)


def test_transformers_knows_it_and_what_it_cannot_do_is_refused():
    register()
    assert AttentionInterface()[NAME] is attention_forward
    q, k, v = (t[None].transpose(1, 2) for t in qkv(6))
    module, cu_seqlens = torch.nn.Identity(), cumulative([6])
    out, _ = attention_forward(module, q, k, v, None, scaling=0.3, cu_seq_lens_q=cu_seqlens, dropout=0.0, softcap=None)
    assert out.shape == (1, 6, 4, 8)
    narrow, _ = attention_forward(
        module, q, k, v, None, scaling=0.3, cu_seq_lens_q=cu_seqlens, sliding_window=2, softcap=1.0
    )
    parts = [part[0].transpose(0, 1) for part in (q, k, v)]
    truth = packed_attention_reference(*parts, cu_seqlens, 0.3, 2, 1.0)
    torch.testing.assert_close(narrow[0], truth, rtol=0, atol=1e-12)
    for wrong, match in [
        ({}, "packed input only"),
        ({"cu_seq_lens_q": cu_seqlens, "s_aux": torch.zeros(4)}, "s_aux"),
        ({"cu_seq_lens_q": cu_seqlens, "dropout": 0.1}, "dropout"),
        ({"cu_seq_lens_q": cu_seqlens, "is_causal": False}, "is causal"),
    ]:
        with pytest.raises(ValueError, match=match):
            attention_forward(module, q, k, v, None, **wrong)


@pytest.mark.parametrize("bound", [{"window": 3}, {"softcap": 0.7}])
def test_windows_and_caps_without_causality_are_refused(bound):
    with pytest.raises(ValueError, match="both directions"):
        packed_attention(*qkv(5), cumulative([5]), 0.5, causal=False, **bound)
