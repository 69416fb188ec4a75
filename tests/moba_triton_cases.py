"""The Triton path against the reference: on a GPU where there is one, else under Triton's interpreter.

Not collected by itself: ``test_moba_triton.py`` runs it in a process of its own, because TRITON_INTERPRET must be set
before Triton is first imported, and ``test_moba_gpu.py`` runs it on a CUDA device. Shapes are tiny for the interpreter.
"""

from __future__ import annotations

import pytest
import torch
from moba_kit import MobaConfig, close, ends, qkv, truth, with_grads

from kernels.moba import Span, gpu, new_page_sums, paged_rows, spans, triton_decode, tuning
from kernels.moba.gate import block_means, choose_blocks
from kernels.moba.lists import chunks, turn_around
from kernels.moba.op import attend
from kernels.moba.tables import tables
from kernels.moba.triton_gate import block_means as triton_means
from kernels.moba.triton_gate import choose_blocks as triton_choice

DEVICE = "cpu" if tuning.INTERPRETED else "cuda"


def on_path(lengths_q, config, lengths_k=None, scale=None, deterministic=False):
    """The Triton path as a function of CPU tensors."""
    lengths_k = lengths_k or lengths_q
    sequences = spans(ends(lengths_q).tolist(), ends(lengths_k).tolist(), sum(lengths_q), sum(lengths_k))

    def call(q, k, v):
        moved = [t.to(DEVICE) for t in (q, k, v)]
        return attend(*moved, sequences, config, scale or q.shape[-1] ** -0.5, gpu, deterministic).cpu()

    return call


def compare(lengths_q, config, lengths_k=None, atol=2e-5, deterministic=False, **shape):
    tensors = qkv(sum(lengths_q), sum(lengths_k or lengths_q), **{"dtype": torch.float32, **shape})
    cu, cu_k = ends(lengths_q), ends(lengths_k or lengths_q)
    ours = with_grads(on_path(lengths_q, config, lengths_k, deterministic=deterministic), tensors)
    assert {part.dtype for part in ours} == {tensors[0].dtype}
    close(ours, with_grads(truth(cu, config, cu_k), tensors), atol)


@pytest.fixture(autouse=True)
def _fresh_memory_is_nan(monkeypatch):
    def filled(function):
        def make(*args, **kwargs):
            made = function(*args, **kwargs)
            return made.fill_(float("nan") if made.is_floating_point() else torch.iinfo(made.dtype).max)

        return make

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, filled(getattr(torch, name)))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("tokens", [1, 15, 17, 55])
def test_outputs_and_gradients_at_odd_lengths(tokens, deterministic):
    compare([tokens], MobaConfig(16, 2), deterministic=deterministic, heads=2, kv_heads=1)


@pytest.mark.parametrize("heads", [(2, 2), (3, 1)], ids=str)
@pytest.mark.parametrize("deterministic", [False, True])
def test_packed_sequences_and_prefixes(heads, deterministic):
    shape = {"heads": heads[0], "kv_heads": heads[1], "deterministic": deterministic}
    compare([20, 1, 9], MobaConfig(8, 3), [20, 30, 9], **shape)


def test_head_dims_that_are_no_power_of_two_and_blocks_that_are_no_multiple_of_a_tile():
    compare([50], MobaConfig(20, 2), heads=1, kv_heads=1, dim=80)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 4e-3), (torch.bfloat16, 4e-2)], ids=str)
def test_half_precision(dtype, atol):
    if tuning.INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies the bit patterns of bfloat16: only a GPU can show it")
    compare([40], MobaConfig(16, 2), heads=1, kv_heads=1, dim=16, dtype=dtype, atol=atol)


def test_the_own_block_alone():
    compare([20], MobaConfig(8, 1), heads=2, kv_heads=1)


@pytest.mark.parametrize("full_below", [16, 32, 64])
def test_early_positions_see_everything(full_below):
    compare([40, 10], MobaConfig(8, 2, full_below), [40, 45], heads=2, kv_heads=1)


def test_enough_blocks_equal_few_larger_ones():
    tensors = qkv(40, heads=2, kv_heads=1, dtype=torch.float32, grad=False)
    close([on_path([40], MobaConfig(8, 5))(*tensors)], [on_path([40], MobaConfig(64, 1))(*tensors)], 2e-5)


def test_heads_are_worked_off_in_groups_where_memory_is_short(monkeypatch):
    monkeypatch.setattr(gpu, "WORKSPACE", 1)
    compare([30], MobaConfig(8, 2), heads=4, kv_heads=2, deterministic=True)


@pytest.mark.parametrize("routed", [1, 3, 5])
def test_the_gate_chooses_what_the_reference_chooses(routed):
    config = MobaConfig(8, routed + 1)
    q, k, _ = qkv(70, 90, heads=2, kv_heads=1, dtype=torch.float32, grad=False)
    sequences = [Span(0, 60, 0, 60), Span(60, 10, 60, 30)]
    where = tables(sequences, config, 16, torch.device(DEVICE))
    means = triton_means(k.to(DEVICE), where, 8)
    ours = triton_choice(q.to(DEVICE), means, where, routed).cpu()
    for span, base in zip(sequences, [0, 8], strict=True):
        expected = choose_blocks(q[span.queries], block_means(k[span.keys], 8), span.offset, config)
        expected = torch.where(expected >= 0, expected + base, expected)
        assert torch.equal(ours[span.queries].sort(-1).values, expected.sort(-1).values)


def test_ties_go_to_the_earlier_block():
    config = MobaConfig(2, 4)
    q = torch.ones(14, 1, 16)
    k = torch.zeros(14, 1, 16)
    k[2:4] = 1.0
    k[6:8] = -0.0
    where = tables([Span(0, 14, 0, 14)], config, 16, torch.device(DEVICE))
    chosen = triton_choice(q.to(DEVICE), triton_means(k.to(DEVICE), where, 2), where, 3).cpu()
    assert sorted(chosen[12, 0].tolist()) == [0, 1, 2]  # block 1 scores 16, all others 0


def test_lists_hold_every_choice_once():
    generator = torch.Generator().manual_seed(3)
    chosen = torch.stack([torch.randperm(5, generator=generator)[:2] for _ in range(36)]).view(9, 4, 2).int()
    chosen[0] = -1
    chosen[3, 1, 1] = -1
    lists = turn_around(chosen.to(DEVICE), key_heads=2, blocks=5)
    order, stops = lists.order.cpu(), lists.ends.cpu().tolist()
    for block in range(5):
        for group in range(2):
            number = block * 2 + group
            members = order[stops[number] : stops[number + 1]].tolist()
            expected = ((chosen == block) & (torch.arange(4)[:, None] // 2 == group)).flatten().nonzero().flatten()
            assert members == expected.tolist()
    cut = chunks(lists, 3)
    owner, sizes = cut.owner.cpu().tolist(), lists.ends.diff().cpu().tolist()
    assert [owner.count(number) for number in range(10)] == [-(-size // 3) for size in sizes]
    assert [owner.index(number) for number in range(10) if sizes[number]] == [
        first for first, size in zip(cut.first.cpu().tolist(), sizes, strict=True) if size
    ]


def test_results_are_bitwise_reproducible():
    tensors = qkv(40, heads=2, kv_heads=1, dtype=torch.float32)
    runs = [with_grads(on_path([40], MobaConfig(8, 3), deterministic=True), tensors) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def paged(lengths, kv_heads, dim, page, dtype=torch.float32):
    """Pages in random order that hold nothing but NaN, their sums, and the table of each sequence."""
    count = [-(-length // page) for length in lengths]
    store = torch.full((sum(count) + 1, kv_heads, 2 * page, dim), float("nan"), dtype=dtype, device=DEVICE)
    keys, values = store.chunk(2, dim=2)
    order = torch.randperm(sum(count) + 1, generator=torch.Generator().manual_seed(0)).tolist()
    table = torch.zeros((len(lengths), max(count) + 1), dtype=torch.int32)
    for row, number in enumerate(count):
        table[row, :number] = torch.tensor([order.pop() for _ in range(number)])
    return keys, values, new_page_sums(keys).fill_(float("nan")), table


@pytest.mark.parametrize(
    ("config", "heads"),
    [(MobaConfig(8, 3), (2, 1)), (MobaConfig(8, 2, 24), (2, 2)), (MobaConfig(32, 1), (3, 1))],
    ids=str,
)
def test_decode_over_pages_equals_prefill(config, heads):
    lengths, page = [61, 25, 3], 4
    q, k, v = qkv(sum(lengths), heads=heads[0], kv_heads=heads[1], dtype=torch.float32, grad=False)
    expected = truth(ends(lengths), config)(q, k, v)
    keys, values, sums, table = paged(lengths, heads[1], 8, page)
    row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    position = torch.cat([torch.arange(length) for length in lengths])
    slots = table[row, position // page].long() * page + position % page
    moved = [t.to(DEVICE) for t in (k, v, slots)]
    triton_decode.write_pages(*moved[:2], keys, values, sums, moved[2])
    last = torch.tensor([60, 59, 30, 61 + 24, 61 + 25 + 2])  # several new tokens of a sequence are rows of their own
    where = [t.to(DEVICE) for t in (q[last], table[row[last]], position[last])]
    ours = triton_decode.attend_rows(where[0], keys, values, sums, *where[1:], config, 8**-0.5)
    close([ours.cpu()], [expected[last]], 2e-5)
    torch_path = paged_rows.attend_rows(where[0], keys, values, sums, *where[1:], config, 8**-0.5)
    close([ours], [torch_path], 2e-5)


def test_padding_slots_and_open_pages_leave_no_trace():
    keys, values, sums, table = paged([7], 1, 16, 4)
    _, k, v = qkv(8, heads=1, kv_heads=1, dim=16, dtype=torch.float32, grad=False)
    position = torch.arange(8)
    slots = torch.where(position < 7, table[0, position // 4].long() * 4 + position % 4, -1)
    triton_decode.write_pages(k.to(DEVICE), v.to(DEVICE), keys, values, sums, slots.to(DEVICE))
    assert int(keys.isnan().all(-1).logical_not().sum()) == int(values.isnan().all(-1).logical_not().sum()) == 7
    full, open_page = table[0, :2].tolist()
    close([sums[full].cpu()], [k[:4].sum(0)], 1e-5)
    assert bool(sums[open_page].isnan().all())
