from __future__ import annotations

import pytest
import torch

from kernels.logprob import LogitTransform, token_logprobs, token_logprobs_reference


def inputs(tokens=13, width=6, vocabulary=11, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=g, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=g, dtype=dtype, requires_grad=True)
    bias = torch.randn(vocabulary, generator=g, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, vocabulary, (tokens,), generator=g)
    return hidden, weight, targets, bias


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 5, 13, 100])
def test_values_and_gradients_equal_the_reference(chunk, temperature, with_bias):
    hidden, weight, targets, bias = inputs()
    bias = bias if with_bias else None
    outputs = []
    for function, extra in ((token_logprobs, {"chunk": chunk}), (token_logprobs_reference, {})):
        logp, entropy = function(hidden, weight, targets, bias=bias, temperature=temperature, **extra)
        upstream = torch.linspace(-1, 2, len(logp), dtype=logp.dtype)
        leaves = [hidden, weight] + ([bias] if with_bias else [])
        outputs.append((logp, entropy, *torch.autograd.grad((logp * upstream).sum(), leaves)))
    for ours, truth in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "transform", [LogitTransform(scale=0.3), LogitTransform(softcap=0.8), LogitTransform(2.0, 1.5)], ids=str
)
def test_scaled_and_capped_logits_equal_the_reference(transform):
    hidden, weight, targets, bias = inputs()
    outputs = []
    for function, extra in ((token_logprobs, {"chunk": 5}), (token_logprobs_reference, {})):
        logp, entropy = function(hidden, weight, targets, bias, temperature=0.7, transform=transform, **extra)
        upstream = torch.linspace(-1, 2, len(logp), dtype=logp.dtype)
        outputs.append((logp, entropy, *torch.autograd.grad((logp * upstream).sum(), [hidden, weight, bias])))
    for ours, truth in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, truth, rtol=0, atol=1e-12)
    plain, _ = token_logprobs(hidden, weight, targets, bias, temperature=0.7)
    assert not torch.allclose(plain, outputs[0][0])


@pytest.mark.parametrize("cached", [1, 22, 50])
def test_pieces_that_fit_into_caches_change_nothing(monkeypatch, cached):
    hidden, weight, targets, bias = inputs()

    def run():
        logp, entropy = token_logprobs(hidden, weight, targets, bias=bias, temperature=0.7, chunk=5)
        return logp, entropy, *torch.autograd.grad(logp.sum(), [hidden, weight, bias])

    whole = run()
    monkeypatch.setattr("kernels.logprob.op.CACHED_ELEMENTS", cached)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    for ours, truth in zip(run(), whole, strict=True):
        torch.testing.assert_close(ours, truth, rtol=0, atol=1e-12)


def test_bfloat16_gradients_are_rounded_only_where_they_are_multiplied():
    hidden, weight, targets, _ = inputs(tokens=200, width=32, vocabulary=64, dtype=torch.float32)
    low = [part.detach().bfloat16().requires_grad_() for part in (hidden, weight)]
    exact = [part.detach().double().requires_grad_() for part in low]
    grads = [torch.autograd.grad(token_logprobs(*pair, targets, chunk=16)[0].sum(), pair) for pair in (low, exact)]
    for ours, truth in zip(*grads, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - truth).norm() / truth.norm() < 6e-3


def test_gradcheck():
    hidden, weight, targets, bias = inputs(tokens=5, width=3, vocabulary=4)

    def logp(h, w, b):
        return token_logprobs(h, w, targets, bias=b, temperature=1.3, chunk=2)[0]

    assert torch.autograd.gradcheck(logp, (hidden, weight, bias))


def test_float32_stays_close_to_float64_with_large_logits():
    hidden, weight, targets, _ = inputs(dtype=torch.float32)
    logp, entropy = token_logprobs(30 * hidden, weight, targets)
    truth, true_entropy = token_logprobs_reference(30 * hidden.double(), weight.double(), targets)
    assert logp.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logp.double(), truth, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(entropy.double(), true_entropy, rtol=1e-4, atol=1e-4)


def test_bfloat16_inputs_give_float32_results_also_under_autocast():
    hidden, weight, targets, _ = inputs(dtype=torch.float32)
    truth, _ = token_logprobs_reference(hidden, weight, targets)
    logp, _ = token_logprobs(hidden.bfloat16(), weight, targets)
    assert logp.dtype == torch.float32
    torch.testing.assert_close(logp, truth, rtol=0, atol=0.2)  # bfloat16 logits of size 5: 0.02 each
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exact, _ = token_logprobs(hidden, weight, targets)
    torch.testing.assert_close(exact, truth, rtol=0, atol=1e-5)


def test_entropy_carries_no_gradient_and_masked_logits_do_not_break_it():
    hidden, weight, targets, bias = inputs()
    _, entropy = token_logprobs(hidden, weight, targets)
    assert not entropy.requires_grad
    masked = bias.detach().clone()
    masked[3] = float("-inf")
    logp, entropy = token_logprobs(hidden, weight, targets * 0, bias=masked)
    assert entropy.isfinite().all()
    grad_hidden, grad_weight = torch.autograd.grad(logp.sum(), [hidden, weight])
    assert grad_hidden.isfinite().all()
    assert not grad_weight[3].any()


def test_full_logits_are_never_held():
    # The largest tensor made in the forward pass has chunk x V elements.
    hidden, weight, targets, _ = inputs(tokens=64, vocabulary=50)
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            seen.extend(t.numel() for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    with Watch():
        token_logprobs(hidden, weight, targets, chunk=4)[0].sum().backward()
    assert max(seen) < 64 * 50
    assert max(seen) >= 4 * 50


def test_empty_and_mismatched_input():
    hidden, weight, targets, _ = inputs()
    logp, entropy = token_logprobs(hidden[:0], weight, targets[:0])
    assert logp.shape == entropy.shape == (0,)
    for wrong, message in [
        ((hidden, weight, targets[1:]), r"13 hidden states but targets of shape \[12\]"),
        ((hidden, weight[:, 1:], targets), "want hidden"),
        ((hidden[0], weight, targets), "want hidden"),
        ((hidden, weight, targets, torch.zeros(3)), "11 rows but a bias"),
        ((hidden, weight, targets, None, 0.0), "temperature above 0"),
        ((hidden, weight, targets, None, 1.0, 0), "chunk of at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            token_logprobs(*wrong)
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        token_logprobs(hidden, weight, targets + 11)
