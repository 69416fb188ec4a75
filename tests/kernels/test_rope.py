"""Rotary embedding: golden values, transformers' own tables, both layouts, gradients, the Triton kernel."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from kernels.rope import Rotary, frequencies, hf, install, rotate, rotate_reference, tables

LAYOUTS = ["half", "interleaved"]


def at(position: float, rotary: Rotary) -> tuple[torch.Tensor, torch.Tensor]:
    return tables(*frequencies(rotary), torch.tensor([float(position)]))


@pytest.mark.parametrize(
    ("layout", "position", "expected"),
    [
        ("interleaved", 1, (-1.14264, 1.922076, 2.959851, 4.0298)),
        ("interleaved", 3, (-1.272233, -1.838865, 2.878668, 4.088187)),
        ("half", 1, (-1.984111, 1.959901, 2.462378, 4.0198)),
    ],
)
def test_golden_vectors(layout, position, expected) -> None:
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    for function in (rotate, rotate_reference):
        out = function(x, *at(position, Rotary(4)), layout)
        torch.testing.assert_close(out[0, 0], torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("dim", "base", "trained", "factor", "low", "high", "scale", "ratio"),
    [
        (128, 1e4, 4096, 16, 20, 46, 1.277259, 0.53125),
        (128, 1e6, 32768, 4, 23, 40, 1.138629, 0.64706),
        (64, 1e4, 2048, 4, 8, 21, 1.138629, 0.65385),
        (128, 5e5, 8192, 8, 18, 35, 1.207944, 0.58824),
        (64, 1e6, 32768, 4, 11, 20, 1.138629, 0.66667),
    ],
)
def test_yarn_golden_values(dim, base, trained, factor, low, high, scale, ratio) -> None:
    rotary = Rotary(dim, base, "yarn", factor, trained)
    inverse, mscale = frequencies(rotary)
    assert mscale == pytest.approx(scale, abs=1e-6)
    relative = inverse / frequencies(Rotary(dim, base))[0]
    middle = (low + high) // 2
    torch.testing.assert_close(relative[[low, middle, high]], torch.tensor([1, ratio, 1 / factor]), atol=1e-5, rtol=0)


def test_yarn_frequencies_of_a_real_model() -> None:
    inverse, _ = frequencies(Rotary(128, 1e6, "yarn", 4, 32768))
    golden = [1, 1.154782e-1, 6.978306e-3, 1.064361e-3, 8.029597e-4, 4.445699e-5, 3.102344e-7]
    torch.testing.assert_close(inverse[[0, 10, 23, 30, 31, 40, 63]], torch.tensor(golden), atol=0, rtol=1e-6)


@pytest.mark.parametrize(
    ("rotary", "parameters"),
    [
        (Rotary(64, 1e4), {"rope_type": "default"}),
        (Rotary(64, 1e6), {"rope_type": "default", "rope_theta": 1e6}),
        (Rotary(64, 1e4, "linear", 4), {"rope_type": "linear", "factor": 4.0}),
        (Rotary(64, 1e4, "yarn", 4, 2048), {"rope_type": "yarn", "factor": 4.0}),
        (
            Rotary(64, 1e4, "by_parts", 4, 2048),
            {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 32.0},
        ),
    ],
    ids=["plain", "base change", "linear", "yarn", "by parts"],
)
def test_tables_are_those_of_transformers(rotary, parameters) -> None:
    parameters = {"rope_theta": 1e4, **parameters}
    if parameters["rope_type"] in ("yarn", "llama3"):
        parameters["original_max_position_embeddings"] = 2048
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=2, max_position_embeddings=8192, rope_parameters=parameters
    )
    positions = torch.tensor([0, 1, 7, 300, 2047, 8000])
    theirs = LlamaRotaryEmbedding(config)
    assert torch.equal(frequencies(rotary)[0], theirs.inv_freq)
    assert frequencies(rotary)[1] == theirs.attention_scaling
    cos, sin = theirs(torch.zeros(1), positions[None])
    ours = tables(*frequencies(rotary), positions)
    angles = positions[:, None] * torch.cat([frequencies(rotary)[0]] * 2).double()
    rounding = (2**-22 * angles).clamp(min=2e-6)  # of frequency and product in float32: it grows with the angle
    for mine, theirs in zip(ours, (cos[0], sin[0]), strict=True):
        assert ((torch.cat([mine] * 2, 1) - theirs).abs() <= rounding).all()
    x = torch.randn(6, 3, 64)
    cos, sin = (torch.cat([mine] * 2, 1)[None] for mine in ours)
    theirs, _ = apply_rotary_pos_emb(x.transpose(0, 1)[None], x.transpose(0, 1)[None], cos, sin)
    torch.testing.assert_close(rotate(x, *ours), theirs[0].transpose(0, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("turning", [16, 10, 2])
def test_outputs_and_gradients_against_the_reference(layout, turning) -> None:
    x = torch.randn(5, 3, 16, dtype=torch.float64, requires_grad=True)
    cos, sin = tables(*frequencies(Rotary(turning)), torch.tensor([0, 3, 11, 400, 0]))
    out = rotate(x, cos, sin, layout)
    torch.testing.assert_close(out, rotate_reference(x, cos, sin, layout))
    assert torch.equal(out[..., turning:], x[..., turning:]), "channels beyond the rotary ones pass"
    torch.autograd.gradcheck(lambda y: rotate(y, cos, sin, layout), (x,))
    torch.testing.assert_close(rotate(out, cos, -sin, layout), x)


def test_the_layouts_are_one_function_up_to_a_permutation() -> None:
    x = torch.randn(7, 2, 12)
    cos, sin = tables(*frequencies(Rotary(12)), torch.arange(7))
    order = [*range(0, 12, 2), *range(1, 12, 2)]
    torch.testing.assert_close(rotate(x[..., order], cos, sin, "half"), rotate(x, cos, sin, "interleaved")[..., order])


@settings(max_examples=30, deadline=None)
@given(offset=st.integers(0, 5000), gap=st.integers(0, 300), seed=st.integers(0, 2**31))
def test_scores_depend_on_distance_only(offset, gap, seed) -> None:
    q, k = torch.randn(2, 1, 1, 32, generator=torch.Generator().manual_seed(seed))
    rotary = Rotary(32)

    def score(start: int) -> float:
        return (rotate(q, *at(start + gap, rotary)) * rotate(k, *at(start, rotary))).sum().item()

    assert score(offset) == pytest.approx(score(0), abs=2e-2)  # float32 angles at offset 5000
    assert rotate(q, *at(offset, rotary)).norm().item() == pytest.approx(q.norm().item(), rel=1e-5)


@pytest.mark.parametrize("scaling", ["none", "linear", "yarn"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_continued_rollout_goes_on_where_it_stopped_and_packed_ones_start_anew(layout, scaling) -> None:
    x = torch.randn(20, 2, 16)
    angles = frequencies(Rotary(16) if scaling == "none" else Rotary(16, scaling=scaling, factor=4, trained=64))
    whole = rotate(x, *tables(*angles, torch.arange(20)), layout)
    for cut in (1, 7, 19):
        rest = rotate(x[cut:], *tables(*angles, torch.arange(cut, 20)), layout)
        assert torch.equal(rest, whole[cut:])
    packed = rotate(x, *tables(*angles, torch.cat([torch.arange(13), torch.arange(7)])), layout)
    alone = rotate(x[13:], *tables(*angles, torch.arange(7)), layout)
    assert torch.equal(packed, torch.cat([whole[:13], alone]))


def test_low_precision_inputs_are_turned_in_float32() -> None:
    x = torch.randn(4, 2, 8)
    cos, sin = tables(*frequencies(Rotary(8)), torch.tensor([0, 9, 257, 4097]))
    low = rotate(x.bfloat16(), cos, sin)
    assert low.dtype == torch.bfloat16
    assert torch.equal(low, rotate(x.bfloat16().float(), cos, sin).bfloat16())


def test_impossible_settings_and_shapes() -> None:
    for changes, message in [
        ({"dim": 7}, "even"),
        ({"base": 1.0}, "base"),
        ({"factor": 0.5}, "factor"),
        ({"scaling": "yarn", "factor": 4}, "trained length"),
        ({"scaling": "by_parts", "factor": 4, "trained": 100, "beta_fast": 1}, "beta_slow"),
    ]:
        with pytest.raises(ValueError, match=message):
            Rotary(**{"dim": 8, **changes})
    with pytest.raises(ValueError, match=r"rotate wants x \[T, H, D\]"):
        rotate(torch.zeros(3, 2, 8), *tables(*frequencies(Rotary(8)), torch.arange(4)))
    with pytest.raises(ValueError, match="rotate wants"):
        rotate(torch.zeros(3, 2, 8), *tables(*frequencies(Rotary(16)), torch.arange(3)))


@pytest.mark.parametrize("trained", [1, 5, 7, 16, 64])
def test_tiny_trained_lengths_stay_between_none_and_all_of_the_factor(trained: int) -> None:
    inverse, _ = frequencies(Rotary(32, 1e4, "yarn", 4, trained))
    plain, _ = frequencies(Rotary(32, 1e4))
    assert ((plain / 4 <= inverse * (1 + 1e-6)) & (inverse <= plain * (1 + 1e-6))).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("heads", "dim", "turning"), [(3, 64, 64), (5, 80, 32), (1, 96, 96), (20, 128, 126)])
def test_triton_kernel_interpreted(monkeypatch, layout, heads, dim, turning) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    from kernels.rope import triton_kernel

    kernel = importlib.reload(triton_kernel)
    try:
        x = torch.randn(9, heads, 2 * dim)[..., ::2].transpose(0, 1).contiguous().transpose(0, 1)
        cos, sin = tables(*frequencies(Rotary(turning)), torch.tensor([0, 1, 2, 0, 1, 900, 901, 5, 6]))
        for dtype in (torch.float32, torch.bfloat16):
            out = kernel.turn_triton(x.to(dtype), cos, sin, layout)
            torch.testing.assert_close(
                out, rotate(x.to(dtype), cos, sin, layout), atol=1e-6, rtol=1e-2 if dtype.itemsize == 2 else 0
            )
        assert kernel.turn_triton(x[:0], cos[:0], sin[:0], layout).shape == (0, heads, dim)
    finally:
        monkeypatch.undo()
        importlib.reload(triton_kernel)


def test_inside_of_transformers_models_where_it_computes_the_same(monkeypatch) -> None:
    from transformers import CohereConfig, CohereForCausalLM, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
    from transformers.models.cohere import modeling_cohere
    from transformers.models.llama import modeling_llama
    from transformers.models.qwen2 import modeling_qwen2

    own = apply_rotary_pos_emb if apply_rotary_pos_emb is not hf.apply_rotary else None
    for module in (modeling_llama, modeling_qwen2, modeling_cohere):
        monkeypatch.setattr(module, hf.FUNCTION, getattr(module, hf.FUNCTION))  # put back afterwards
    sizes = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    for module, make, config, same in [
        (modeling_llama, LlamaForCausalLM, LlamaConfig, True),
        (modeling_qwen2, Qwen2ForCausalLM, Qwen2Config, True),
        (modeling_cohere, CohereForCausalLM, CohereConfig, False),  # interleaved: left alone
    ]:
        model = make(config(**sizes, **heads))
        rows = torch.randint(0, 32, (2, 40))
        if module is modeling_llama and own is not None:
            module.apply_rotary_pos_emb = own
        before = model(rows).logits
        assert install(model) is same
        assert (module.apply_rotary_pos_emb is hf.apply_rotary) is same
        torch.testing.assert_close(model(rows).logits, before, atol=1e-5, rtol=0)
    q, k = torch.randn(2, 3, 5, 8), torch.randn(2, 1, 5, 8)
    cos, sin = (torch.cat([part, part], -1)[None] for part in tables(*frequencies(Rotary(8)), torch.arange(5)))
    ours = hf.apply_rotary(q.transpose(1, 2), k.transpose(1, 2), cos, sin, unsqueeze_dim=2)
    for a, b in zip(hf.apply_rotary(q, k, cos, sin), ours, strict=True):
        torch.testing.assert_close(a, b.transpose(1, 2))


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
def test_triton_kernel_on_the_device(layout) -> None:
    x = torch.randn(1000, 8, 128, device="cuda", requires_grad=True)
    cos, sin = tables(*frequencies(Rotary(128, 1e6)), torch.arange(1000, device="cuda"))
    out = rotate(x, cos, sin, layout)
    torch.testing.assert_close(out, rotate_reference(x, cos, sin, layout), atol=1e-5, rtol=0)
    out.square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x, atol=1e-4, rtol=0)
