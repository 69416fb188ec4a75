"""Decode and chunked prefill over a paged cache against one-shot prefill."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moba_kit import MobaConfig, close, ends, qkv, truth

from kernels.moba import moba_paged_attention, new_page_sums, write_pages

PAGE = 4


class Cache:
    """A cache of one layer, filled with NaN, whose pages are handed out in random order."""

    def __init__(self, lengths, kv_heads=2, dim=8, layout="cpu", dtype=torch.float64, page=PAGE, seed=0):
        pages = sum(-(-length // page) for length in lengths) + 3
        nan = float("nan")
        if layout == "cpu":  # the views that the README names
            store = torch.full((pages, kv_heads, page, 2 * dim), nan, dtype=dtype)
            self.keys, self.values = store.view(pages, kv_heads, 2 * page, dim).chunk(2, dim=2)
        elif layout == "gpu":
            store = torch.full((pages, kv_heads, page, 2 * dim), nan, dtype=dtype)
            self.keys, self.values = store[..., :dim], store[..., dim:]
        else:  # token-major
            store = torch.full((2, pages, page, kv_heads, dim), nan, dtype=dtype)
            self.keys, self.values = store[0].transpose(1, 2), store[1].transpose(1, 2)
        self.sums = new_page_sums(self.keys).fill_(nan)
        order = torch.randperm(pages, generator=torch.Generator().manual_seed(seed)).tolist()
        width = max(-(-length // page) for length in lengths) + 1
        self.table = torch.full((len(lengths), width), -1, dtype=torch.int32)  # -1 where nothing is allotted
        for row, length in enumerate(lengths):
            count = -(-length // page)
            self.table[row, :count] = torch.tensor([order.pop() for _ in range(count)])
        self.page = page

    def slots(self, sequence, start, stop):
        position = torch.arange(start, stop)
        return self.table[sequence, position // self.page].long() * self.page + position % self.page

    def step(self, q, k, v, sequences, before, count, config, scale=None, most=None):
        """Write and attend `count[i]` new tokens of each listed sequence that has `before[i]` cached ones."""
        slots = [self.slots(s, b, b + c) for s, b, c in zip(sequences, before, count, strict=True)]
        write_pages(k, v, self.keys, self.values, self.sums, torch.cat(slots))
        lengths = torch.tensor([b + c for b, c in zip(before, count, strict=True)], dtype=torch.int32)
        table = self.table[sequences]
        return moba_paged_attention(
            q, self.keys, self.values, self.sums, table, lengths, ends(count).int(), config, scale, most
        )


@pytest.mark.parametrize("layout", ["cpu", "gpu", "tokens"])
@pytest.mark.parametrize(
    "config", [MobaConfig(8, 2), MobaConfig(4, 3), MobaConfig(12, 3, 48), MobaConfig(8, 1)], ids=str
)
def test_token_by_token_equals_one_shot_prefill(config, layout):
    lengths = [61, 40, 7]
    q, k, v = qkv(sum(lengths), grad=False)
    expected = truth(ends(lengths), config)(q, k, v).split(lengths)
    cache = Cache(lengths, layout=layout)
    parts = [t.split(lengths) for t in (q, k, v)]
    for step in range(max(lengths)):
        live = [s for s, length in enumerate(lengths) if step < length]
        new = [torch.stack([part[s][step] for s in live]) for part in parts]
        out = cache.step(*new, live, [step] * len(live), [1] * len(live), config)
        close([out], [torch.stack([expected[s][step] for s in live])])


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    cut=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    blocks=st.integers(1, 4),
    top_k=st.integers(1, 4),
    full_blocks=st.sampled_from([0, 0, 3]),
    heads=st.sampled_from([(2, 2), (4, 2), (4, 1)]),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_any_chunks_equal_one_shot_prefill(lengths, cut, blocks, top_k, full_blocks, heads, seed):
    config = MobaConfig(blocks * PAGE, top_k, full_blocks * blocks * PAGE)
    q, k, v = qkv(sum(lengths), heads=heads[0], kv_heads=heads[1], seed=seed, grad=False)
    expected = truth(ends(lengths), config)(q, k, v).split(lengths)
    cache, parts = Cache(lengths, kv_heads=heads[1], seed=seed), [t.split(lengths) for t in (q, k, v)]
    done, turn = [0] * len(lengths), 0
    while any(d < n for d, n in zip(done, lengths, strict=True)):
        live = [s for s, n in enumerate(lengths) if done[s] < n]
        count = [min(cut[(turn + s) % len(cut)], lengths[s] - done[s]) for s in live]
        picks = [slice(done[s], done[s] + c) for s, c in zip(live, count, strict=True)]
        new = [torch.cat([part[s][pick] for s, pick in zip(live, picks, strict=True)]) for part in parts]
        out = cache.step(*new, live, [done[s] for s in live], count, config)
        close([out], [torch.cat([expected[s][pick] for s, pick in zip(live, picks, strict=True)])])
        for s, c in zip(live, count, strict=True):
            done[s] += c
        turn += 1


@pytest.mark.parametrize("most", [2, None])
def test_lengths_need_not_be_read_where_few_tokens_are_new(most):
    config, lengths = MobaConfig(8, 2), [30, 41]
    q, k, v = qkv(71, grad=False)
    cache = Cache(lengths)
    prompt = [torch.cat([t[:28], t[30:70]]) for t in (q, k, v)]
    cache.step(*prompt, [0, 1], [0, 0], [28, 40], config)
    last = [28, 29, 70]
    out = cache.step(*(t[last] for t in (q, k, v)), [0, 1], [28, 40], [2, 1], config, most=most)
    close([out], [truth(ends(lengths), config)(q, k, v)[last]])


def test_a_shared_prefix_needs_no_second_write():
    config, lengths = MobaConfig(8, 2), [40, 49]
    q, k, v = qkv(49, grad=False)
    cache = Cache(lengths)
    cache.step(q[:40], k[:40], v[:40], [0], [0], [40], config)
    cache.table[1, :10] = cache.table[0, :10]  # a prefix-cache hit: the second request gets the same pages
    out = cache.step(q[40:], k[40:], v[40:], [1], [40], [9], config)
    close([out], [truth(ends([49]), config)(q, k, v)[40:]])


def test_a_page_given_to_another_request_is_summed_anew():
    config = MobaConfig(8, 2)
    cache = Cache([48])
    for seed in (1, 2):
        q, k, v = qkv(48, seed=seed, grad=False)
        cache.step(q[:44], k[:44], v[:44], [0], [0], [44], config)
        out = [cache.step(q[i : i + 1], k[i : i + 1], v[i : i + 1], [0], [i], [1], config) for i in range(44, 48)]
        close([torch.cat(out)], [truth(ends([48]), config)(q, k, v)[44:]])


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 4e-3)])
def test_half_precision_caches(dtype, atol):
    config, lengths = MobaConfig(8, 3), [61, 90]
    q, k, v = qkv(sum(lengths), dtype=dtype, grad=False)
    expected = truth(ends(lengths), config)(q, k, v)
    cache = Cache(lengths, dtype=dtype)
    prompt = [torch.cat([t[:60], t[61:150]]) for t in (q, k, v)]
    cache.step(*prompt, [0, 1], [0, 0], [60, 89], config)
    out = cache.step(*(t[[60, 150]] for t in (q, k, v)), [0, 1], [60, 89], [1, 1], config)
    assert out.dtype == dtype
    close([out], [expected[[60, 150]]], atol)


def test_batches_of_rows_are_bounded_and_cover_all(monkeypatch):
    config, lengths = MobaConfig(8, 2), [70, 9, 33, 64, 1]
    q, k, v = qkv(sum(lengths), grad=False)
    cache, starts = Cache(lengths), ends(lengths).tolist()
    last = [end - 1 for end in starts[1:]]
    prompt = [torch.cat([t[a:b] for a, b in zip(starts, last, strict=False)]) for t in (q, k, v)]
    cache.step(*(t for t in prompt), [0, 1, 2, 3], [0] * 4, [n - 1 for n in lengths[:4]], config)
    monkeypatch.setattr("kernels.moba.paged_rows.GATHERED", 600)
    out = cache.step(*(t[last] for t in (q, k, v)), [0, 1, 2, 3, 4], [n - 1 for n in lengths], [1] * 5, config)
    close([out], [truth(ends(lengths), config)(q, k, v)[last]])


def test_padding_slots_are_left_out():
    cache = Cache([8])
    _, k, v = qkv(8, grad=False)
    slots = cache.slots(0, 0, 8)
    slots[3] = -1
    write_pages(k, v, cache.keys, cache.values, cache.sums, slots)
    assert int(cache.keys.isnan().all(-1).logical_not().sum()) == 7 * 2


def test_bad_input_is_refused():
    cache = Cache([8])
    q, k, v = qkv(8, grad=False)
    with pytest.raises(ValueError, match="block_size 6 must be a multiple of the cache's page size 4"):
        cache.step(q, k, v, [0], [0], [8], MobaConfig(6, 2))
    with pytest.raises(ValueError, match="8 queries but only 3 keys"):
        moba_paged_attention(
            q, cache.keys, cache.values, cache.sums, cache.table, torch.tensor([3]), ends([8]), MobaConfig(4, 2)
        )
    with pytest.raises(ValueError, match="MoBA wants q"):
        cache.step(q[:, :3], k, v, [0], [0], [8], MobaConfig(4, 2))
