"""Heads exchanged for tokens: outputs and every gradient against plain all-gather, and what is refused."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.distributed as dist
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kernels.ulysses import check_heads, gather_rows, install, ulysses_attention, ulysses_reference
from kernels.varlen import NAME, packed_attention, register
from tests.rank_kit import run_ranks
from tests.tiny_models import tiny_llama

HEADS = {2: [(2, 2), (4, 1), (6, 3)], 3: [(6, 2), (12, 4), (3, 1)]}
"""Query and key heads by number of ranks: those that the ranks divide, one for all, and those that fit neither way."""
D, DV, PART = 8, 6, 5


def inputs(ranks, heads, kv_heads):
    g = torch.Generator().manual_seed(heads)
    shapes = [(heads, D), (kv_heads, D), (kv_heads, DV), (heads, DV)]
    return [torch.randn((PART * ranks, *shape), generator=g, dtype=torch.float64) for shape in shapes]


def attend(q, k, v, window):
    return packed_attention(q, k, v, torch.tensor([0, 3, q.shape[0] - 1, q.shape[0]]), D**-0.5, window)


def attention_on(rank, ranks):
    """[heads][output and gradients of q, k and v; from the op, then from the reference]."""
    found = []
    for heads, kv_heads in HEADS[ranks]:
        *parts, upstream = (part.split(PART)[rank] for part in inputs(ranks, heads, kv_heads))
        results = []
        for function in (ulysses_attention, ulysses_reference):
            parts = [part.detach().requires_grad_() for part in parts]
            out = function(functools.partial(attend, window=4), *parts, dist.group.WORLD)
            results.append([out.detach(), *torch.autograd.grad((out * upstream).sum(), parts)])
        found.append(results)
    return found


@pytest.mark.parametrize("ranks", [2, 3])
def test_outputs_and_gradients_are_those_of_one_process(ranks):
    results = run_ranks(ranks, attention_on, ranks)
    for index, heads in enumerate(HEADS[ranks]):
        *parts, upstream = inputs(ranks, *heads)
        parts = [part.requires_grad_() for part in parts]
        out = attend(*parts, window=4)
        truth = [out.detach(), *torch.autograd.grad((out * upstream).sum(), parts)]
        for path in (0, 1):
            found = [torch.cat([result[index][path][which] for result in results]) for which in range(4)]
            torch.testing.assert_close(found, truth, rtol=0, atol=1e-12, msg=lambda text, h=heads: f"{h}: {text}")


def traffic_on(rank, heads, kv_heads):
    """Elements of each exchange, forward then backward."""
    sent, swap = [], dist.all_to_all_single

    def counted(received, chunks, **options):
        sent.append(chunks.numel())
        return swap(received, chunks, **options)

    dist.all_to_all_single = counted
    q, k, v, _ = (part.split(PART)[rank].requires_grad_() for part in inputs(2, heads, kv_heads))
    ulysses_attention(functools.partial(attend, window=4), q, k, v, dist.group.WORLD).sum().backward()
    return sent


@pytest.mark.parametrize(("heads", "kv_heads", "repeated"), [(4, 2, 2), (4, 1, 2)])
def test_two_exchanges_each_way_of_what_attention_reads_and_writes(heads, kv_heads, repeated):
    read, written = PART * (heads * D + repeated * (D + DV)), PART * heads * DV
    assert run_ranks(2, traffic_on, heads, kv_heads) == [[read, written, written, read]] * 2


def rows_on(rank, counts):
    own = torch.full((counts[rank], 2), float(rank), requires_grad=True)
    rows = gather_rows(own, counts, dist.group.WORLD)
    weights = torch.arange(float(rows.numel())).view(rows.shape)
    (rows * weights).sum().backward()
    return rows.detach(), own.grad


def test_rows_come_together_in_order_and_each_rank_has_the_gradient_of_its_own():
    counts = (2, 0, 3)
    for rank, (rows, grad) in enumerate(run_ranks(3, rows_on, counts)):
        assert rows[:, 0].tolist() == [0, 0, 2, 2, 2]
        own = torch.arange(10.0).view(5, 2).split(list(counts))[rank]
        assert torch.equal(grad, own)  # and [0, 2] zeros where a rank has none: its backward pass still runs


def test_ranks_that_do_not_divide_the_heads_are_refused():
    check_heads(12, 4)
    with pytest.raises(
        ValueError, match=r"^8 ranks cannot share 12 query heads evenly; take a number that divides them$"
    ):
        check_heads(12, 8)


def test_a_model_keeps_its_attention_and_without_a_group_nothing_changes():
    register()  # as it is before anybody installs anything
    model, ids = tiny_llama(), torch.arange(3, 12)[None]
    model.set_attn_implementation(NAME)
    packed = {"cu_seq_lens_q": torch.tensor([0, 4, 9]), "use_cache": False}
    before = model(ids, **packed).logits
    install(model)
    installed = ALL_ATTENTION_FUNCTIONS[NAME]
    install(model)
    assert ALL_ATTENTION_FUNCTIONS[NAME] is installed
    assert model.config._attn_implementation == NAME
    assert torch.equal(model(ids, **packed).logits, before)


def test_attention_that_transformers_does_not_look_up_is_refused():
    model = tiny_llama()
    model.set_attn_implementation("eager")
    with pytest.raises(ValueError, match=r"^attention 'eager' of LlamaForCausalLM cannot be shared by ranks[^\n]*$"):
        install(model)
