from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl.objectives.advantages import baseline_value, baselined, standardised
from rl.objectives.config import ImportanceConfig
from rl.objectives.importance import EffectiveShare, importance_weights, scale_gradient
from rl.objectives.mirror_descent import policy_loss
from rl.objectives.sequences import length_norms

REWARDS = st.lists(st.floats(-1, 2), min_size=2, max_size=12)


@pytest.mark.parametrize(("tau", "expected"), [(0.1, 0.9307), (1, 0.6201), (10, 0.5125), (100, 0.5012)])
def test_golden_baselines(tau, expected):
    # tau log Z of r = (1, 0, 0, 1), to the four digits published.
    assert baseline_value([1, 0, 0, 1], "exp_mean", tau) == pytest.approx(expected, abs=5e-5)
    assert baseline_value([1, 0, 0, 1], "mean", tau) == 0.5


def test_small_tau_is_stable_and_tends_to_the_maximum():
    # tau = 0.01, p = 0.25: A+ = +0.014, A- = -0.986 [2501.12599 §2.3.2].
    values = baselined([1, 0, 0, 0], "exp_mean", 0.01)
    assert values == pytest.approx([0.014, -0.986, -0.986, -0.986], abs=5e-4)
    assert baseline_value([1, 0], "exp_mean", 1e-6) == pytest.approx(1.0, abs=1e-5)


@given(REWARDS, st.floats(1e-3, 1e3))
def test_baselines_lie_inside_the_rewards_and_exp_mean_is_the_larger(rewards, tau):
    mean, exp_mean = baseline_value(rewards, "mean", tau), baseline_value(rewards, "exp_mean", tau)
    assert min(rewards) - 1e-9 <= mean <= exp_mean + 1e-9
    assert exp_mean <= max(rewards) + 1e-9


@given(REWARDS)
def test_mean_advantages_sum_to_zero(rewards):
    assert sum(baselined(rewards)) == pytest.approx(0, abs=1e-9)


def test_standardised_advantages_have_the_spread_of_the_known_rewards_as_their_unit():
    assert standardised([1.0, None, 0.0, 0.5]) == pytest.approx([0.9998, None, -0.9998, 0.0], abs=1e-4)
    assert standardised([0.7, 0.7, 0.7]) == [0.0, 0.0, 0.0]
    assert standardised([1.0, None]) == [None, None]


def test_masked_rollouts_count_neither_way():
    assert baselined([1.0, None, 0.0]) == [0.5, None, -0.5]
    assert baselined([1.0, None, None]) == [None, None, None]
    assert baselined([None, None]) == [None, None]
    assert baselined([0.3, 0.3]) == [0.0, 0.0]


# An enumerable policy: one sequence per outcome, log pi = log softmax(theta).


def exact_loss(theta, prior, rewards, tau, level):
    """E over the prior of the surrogate, l = -A log pi + tau/2 Delta^2: samples replaced by the exact expectation."""
    log_pi = theta.log_softmax(0)
    n = len(rewards)
    # norm = 1 / pi_i(o): the sum over sequences becomes the expectation under the prior.
    out = policy_loss(log_pi, prior.log(), torch.arange(n), rewards - level, 1 / prior, tau)
    return out.loss


@pytest.mark.parametrize("tau", [0.2, 1.0, 5.0])
def test_minimiser_of_the_exp_mean_loss_is_the_closed_form(tau):
    prior = torch.tensor([0.1, 0.4, 0.2, 0.25, 0.05], dtype=torch.float64)
    rewards = torch.tensor([1.0, 0.0, 0.5, 0.0, 1.0], dtype=torch.float64)
    level = tau * (prior * (rewards / tau).exp()).sum().log()
    theta = prior.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([theta], lr=1.0, max_iter=500, tolerance_grad=1e-14, tolerance_change=1e-16)

    def closure():
        optimizer.zero_grad()
        loss = exact_loss(theta, prior, rewards, tau, level)
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = prior * (rewards / tau).exp()
    expected /= expected.sum()
    torch.testing.assert_close(theta.detach().softmax(0), expected, rtol=0, atol=1e-6)


def equation_3(theta, samples, log_reference, rewards, tau):
    """(1/k) sum_j [ log pi (r_j - mean) - tau/2 (log pi - log pi_i)^2 ] of k sampled outcomes, written out."""
    log_pi = theta.log_softmax(0)[samples]
    return ((rewards - rewards.mean()) * log_pi - 0.5 * tau * (log_pi - log_reference[samples]) ** 2).mean()


def test_gradient_is_equation_3_by_finite_differences():
    g = torch.Generator().manual_seed(0)
    theta = torch.randn(6, generator=g, dtype=torch.float64)
    log_reference = torch.randn(6, generator=g, dtype=torch.float64).log_softmax(0)
    samples = torch.tensor([0, 3, 3, 5])
    rewards = torch.tensor([1.0, 0.0, 0.7, 0.0], dtype=torch.float64)
    tau, step = 0.3, 1e-6

    variable = theta.clone().requires_grad_()
    advantage = torch.tensor(baselined(rewards.tolist()), dtype=torch.float64)
    logprobs = variable.log_softmax(0)[samples]
    # A sequence of one token each; minus the loss over k sequences is what equation (3) ascends.
    loss = policy_loss(logprobs, log_reference[samples], torch.arange(4), advantage, torch.ones(4), tau).loss / 4
    (gradient,) = torch.autograd.grad(-loss, variable)

    differences = torch.stack(
        [
            (
                equation_3(theta + step * unit, samples, log_reference, rewards, tau)
                - equation_3(theta - step * unit, samples, log_reference, rewards, tau)
            )
            / (2 * step)
            for unit in torch.eye(6, dtype=torch.float64)
        ]
    )
    torch.testing.assert_close(gradient, differences, rtol=0, atol=1e-8)


def test_log_ratio_is_summed_over_tokens_before_it_is_squared():
    logprobs = torch.tensor([-1.0, -2.0, -3.0, -0.5], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-1.5, -1.0, -3.5, -1.0], dtype=torch.float64)
    sequence = torch.tensor([0, 0, 1, 1])
    advantage, norm = torch.tensor([0.5, -0.25]), torch.tensor([2.0, 4.0])
    out = policy_loss(logprobs, reference, sequence, advantage, norm, tau=0.8)
    delta = [-0.5, 1.0]
    expected = (0.5 * 3.0 + 0.4 * delta[0] ** 2) / 2 + (-0.25 * 3.5 + 0.4 * delta[1] ** 2) / 4
    assert out.loss.item() == pytest.approx(expected, abs=1e-12)
    (gradient,) = torch.autograd.grad(out.loss, logprobs)
    weights = [-(0.5 - 0.8 * delta[0]) / 2, -(-0.25 - 0.8 * delta[1]) / 4]  # -(A - tau Delta) / norm
    assert gradient.tolist() == pytest.approx([weights[0], weights[0], weights[1], weights[1]], abs=1e-12)


def test_saturation_is_where_the_regulariser_outweighs_the_advantage():
    reference = torch.zeros(4)
    logprobs = torch.tensor([0.4, 0.6, -0.6, 0.3])
    advantage = torch.tensor([0.5, 0.5, -0.5, 0.0])  # fixed points at A / tau = +-0.5
    out = policy_loss(logprobs, reference, torch.arange(4), advantage, torch.ones(4), tau=1.0)
    assert out.saturated.tolist() == [False, True, True, False]


def test_length_norms():
    lengths = torch.tensor([2, 10])
    assert length_norms(lengths, "none", 50).tolist() == [1, 1]
    assert length_norms(lengths, "response", 50).tolist() == [2, 10]
    assert length_norms(lengths, "max_tokens", 50).tolist() == [50, 50]
    assert math.isclose(length_norms(lengths, "response", 50).sum().item(), 12)


LOGITS = st.lists(st.floats(-3, 3), min_size=4, max_size=4)


@given(LOGITS, LOGITS, st.lists(st.floats(-2, 2), min_size=4, max_size=4))
def test_sequence_weights_turn_an_expectation_under_the_sampler_into_one_under_the_policy(policy, sampler, values):
    pi, mu = (torch.tensor(x, dtype=torch.float64).softmax(0) for x in (policy, sampler))
    weights = importance_weights(
        pi.log(), mu.log(), torch.arange(4), 4, ImportanceConfig.model_construct(cap=math.inf, level="sequence")
    )
    value = torch.tensor(values, dtype=torch.float64)
    assert (mu * weights * value).sum().item() == pytest.approx((pi * value).sum().item(), abs=1e-9)


@given(st.lists(st.floats(-20, 0), min_size=6, max_size=6), st.lists(st.floats(-20, 0), min_size=6, max_size=6))
def test_weights_are_truncated_ratios_and_one_where_both_agree(reference, sampler):
    ours, theirs, sequence = torch.tensor(reference), torch.tensor(sampler), torch.tensor([0, 0, 1, 1, 1, 2])
    for level in ("token", "sequence"):
        config = ImportanceConfig(cap=2.0, level=level)
        weights = importance_weights(ours, theirs, sequence, 3, config)
        assert ((weights >= 0) & (weights <= 2)).all()
        assert importance_weights(ours, ours, sequence, 3, config).eq(1).all()
        assert 0 <= EffectiveShare.of(weights.double() + 1e-12).value <= 1 + 1e-9
    whole = importance_weights(ours, theirs, sequence, 3, config)
    each = importance_weights(ours, theirs, sequence, 3, ImportanceConfig.model_construct(cap=math.inf, level="token"))
    assert whole[2] == whole[3] == whole[4]
    assert whole[2].item() == pytest.approx(min(2.0, each[2:5].double().prod().item()), rel=1e-4)


def test_weights_scale_each_tokens_gradient_and_leave_the_loss_as_told():
    torch.manual_seed(0)
    logprobs = torch.randn(6, requires_grad=True)
    reference, weight = torch.randn(6), torch.tensor([0.0, 0.5, 1.0, 2.0, 1.0, 1.3])
    rest = (torch.tensor([0, 0, 1, 1, 1, 1]), torch.tensor([0.7, -0.4]), torch.tensor([1.0, 2.0]), 0.3)
    plain = policy_loss(logprobs, reference, *rest)
    (whole,) = torch.autograd.grad(plain.loss, logprobs)
    weighed = policy_loss(scale_gradient(logprobs, weight), reference, *rest)
    (scaled,) = torch.autograd.grad(weighed.loss, logprobs)
    assert weighed.loss.item() == plain.loss.item()
    assert torch.allclose(scaled, whole * weight)
    (same,) = torch.autograd.grad(policy_loss(scale_gradient(logprobs, torch.ones(6)), reference, *rest).loss, logprobs)
    assert same.equal(whole)


def test_the_effective_share_is_that_of_the_equal_samples():
    assert EffectiveShare.of(torch.full((7,), 0.3)).value == pytest.approx(1)
    assert EffectiveShare.of(torch.tensor([1.0, 0.0, 0.0, 0.0])).value == 0.25
    assert EffectiveShare.of(torch.empty(0)).value is None
    parts = torch.rand(9).split((2, 3, 4))
    whole = EffectiveShare.of(parts[0]) + EffectiveShare.of(parts[1]) + EffectiveShare.of(parts[2])
    assert whole.value == pytest.approx(EffectiveShare.of(torch.cat(parts)).value)


@pytest.mark.parametrize(("drift", "share"), [(-30.0, 1.0), (-60.0, 1.0), (-100.0, 1.0), (-2000.0, 0.0)])
def test_weights_of_long_responses_may_be_as_small_as_they_like(drift: float, share: float) -> None:
    """exp(-60) squared is 0 in single precision, exp(-2000) is 0 itself."""
    reference, sampler, sequence = torch.full((4,), drift / 2), torch.zeros(4), torch.tensor([0, 0, 1, 1])
    weights = importance_weights(reference, sampler, sequence, 2, ImportanceConfig(level="sequence"))
    assert weights.dtype == torch.float32
    assert EffectiveShare.of(weights).value == pytest.approx(share)
