"""Importance weights against closed forms: a policy of three tokens and two turns, enumerated in double precision."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rl.learner.batch import Batch
from rl.learner.learner import Learner
from rl.objectives.build import build
from rl.objectives.config import CispoConfig, GrpoConfig, ImportanceConfig, MirrorDescentConfig, ReinforceConfig
from rl.objectives.protocol import Objective, Outputs
from tests.learner_kit import learner_spec, make_batch, save_tiny_model

TOKENS = 3
OBJECTIVES: dict[str, Any] = {
    "mirror descent": MirrorDescentConfig(tau=0.3, length_norm="none"),
    "mirror descent, per token of the response": MirrorDescentConfig(tau=0.3, length_norm="response"),
    "reinforce": ReinforceConfig(length_norm="none"),
    "grpo": GrpoConfig(),
    "gspo": GrpoConfig(ratio="sequence", clip_low=0.03, clip_high=0.04),
    "cispo": CispoConfig(cap=1.2),
}
NO_CAP = 1e9


@dataclass(frozen=True)
class Tabular:
    """A policy that draws ``length`` tokens: logits of the first, and of each later one given that before it."""

    first: torch.Tensor
    """[TOKENS]."""
    later: torch.Tensor
    """[TOKENS, TOKENS]."""
    temperature: float

    @classmethod
    def drawn(cls, seed: int, temperature: float) -> Tabular:
        draw = torch.Generator().manual_seed(seed)
        first, later = (torch.randn(size, generator=draw).double() for size in ((TOKENS,), (TOKENS, TOKENS)))
        return cls(first, later, temperature)

    def logprobs(self, response: tuple[int, ...]) -> torch.Tensor:
        """[length], at the temperature."""
        rows = [self.first, *(self.later[token] for token in response[:-1])]
        scaled = [(row / self.temperature).log_softmax(-1)[token] for row, token in zip(rows, response, strict=True)]
        return torch.stack(scaled)


def reward(response: tuple[int, ...]) -> float:
    return sum((place + 1) * token for place, token in enumerate(response)) - 2.5


def every(length: int) -> list[tuple[int, ...]]:
    return list(itertools.product(range(TOKENS), repeat=length))


def batch_of(response: tuple[int, ...], reference: torch.Tensor, sampler: torch.Tensor) -> Batch:
    mask = torch.tensor([False] + [True] * len(response))
    return Batch(
        tokens=torch.tensor([0, *response], dtype=torch.int32),
        cu_seqlens=torch.tensor([0, len(mask)], dtype=torch.int32),
        loss_mask=mask,
        current=mask,
        sampler_logprobs=torch.cat([torch.zeros(1).double(), sampler]),
        advantages=torch.tensor([reward(response)]).double(),
        groups=("g",),
        total=1,
        reference_logprobs=reference,
    )


def expected_gradient(
    objective: Objective, policy: Tabular, reference: Tabular, samplers: list[Tabular], how_likely: Any = None
) -> torch.Tensor:
    """The mean gradient of the loss over responses whose t-th token ``samplers[t]`` drew, and recorded.

    ``how_likely``: probability of a response, if another than the samplers' is to weigh it.
    """
    leaves = replace(policy, first=policy.first.clone().requires_grad_(), later=policy.later.clone().requires_grad_())
    total = torch.zeros(()).double()
    for response in every(len(samplers)):
        recorded = torch.stack([each.logprobs(response)[place] for place, each in enumerate(samplers)])
        batch = batch_of(response, reference.logprobs(response), recorded)
        loss = objective.loss(Outputs(logprobs=leaves.logprobs(response)), batch).value
        probability = recorded.sum().exp() if how_likely is None else how_likely(response, recorded)
        total = total + probability * loss
    gradients = torch.autograd.grad(total, [leaves.first, leaves.later], allow_unused=True)
    return torch.cat([g.flatten() for g in gradients if g is not None])


def weighed(name: str, level: str, cap: float = NO_CAP) -> Objective:
    config = OBJECTIVES[name].model_copy(update={"importance": ImportanceConfig(cap=cap, level=level)})
    return build(config, 8)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("moved", [False, True], ids=["first step", "later step"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_weights_of_responses_undo_the_older_policies_that_sampled(name: str, moved: bool, temperature: float) -> None:
    """Below the cap the mean gradient is that of samples of pi_i, also where two versions drew one response."""
    present, older, oldest, later = (Tabular.drawn(seed, temperature) for seed in range(4))
    policy = later if moved else present
    found = expected_gradient(weighed(name, "sequence"), policy, present, [oldest, older])
    plain = build(OBJECTIVES[name], 8)
    wanted = expected_gradient(plain, policy, present, [present, present])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    biased = expected_gradient(plain, policy, present, [oldest, older])
    assert (biased - wanted).abs().max() > 0.05 * wanted.abs().max()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_weights_of_tokens_are_without_bias_where_a_response_is_one_token(name: str, temperature: float) -> None:
    present, older = (Tabular.drawn(seed, temperature) for seed in range(2))
    found = expected_gradient(weighed(name, "token"), present, present, [older])
    wanted = expected_gradient(build(OBJECTIVES[name], 8), present, present, [present])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_weights_of_tokens_correct_each_token_and_not_what_surrounds_it() -> None:
    """Of longer responses: as if pi_i had drawn that token, and the sampler the rest."""
    present, older, oldest = (Tabular.drawn(seed, 1.0) for seed in range(3))
    samplers = [oldest, older]
    found = expected_gradient(weighed("reinforce", "token"), present, present, samplers)
    leaves = replace(
        present, first=present.first.clone().requires_grad_(), later=present.later.clone().requires_grad_()
    )
    total = torch.zeros(()).double()
    for response in every(2):
        probabilities = [each.logprobs(response)[place].exp() for place, each in enumerate(samplers)]
        own = present.logprobs(response).exp()
        slopes = leaves.logprobs(response)
        total = total - reward(response) * (
            own[0] * probabilities[1] * slopes[0] + probabilities[0] * own[1] * slopes[1]
        )
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(total, [leaves.first, leaves.later])])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_above_the_cap_a_response_counts_for_less_than_it_should(name: str) -> None:
    """E_mu[min(c, r) g] = E_pi_i[min(c / r, 1) g] with r = pi_i / mu."""
    present, older = (Tabular.drawn(seed, 1.0) for seed in range(2))
    cap = 1.5

    def truncated(response: tuple[int, ...], recorded: torch.Tensor) -> torch.Tensor:
        own = present.logprobs(response).sum()
        return own.exp() * (cap * (recorded.sum() - own).exp()).clamp(max=1)

    found = expected_gradient(weighed(name, "sequence", cap), present, present, [older, older])
    wanted = expected_gradient(build(OBJECTIVES[name], 8), present, present, [older, older], truncated)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    free = expected_gradient(weighed(name, "sequence"), present, present, [older, older])
    assert (found - free).abs().max() > 0.01 * free.abs().max()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_learner_weighs_by_the_log_probs_at_the_temperature_of_sampling(tmp_path: Any, temperature: float) -> None:
    """Tokens that an older policy drew: weights and their metrics are those of transformers' own log-probs."""
    folders = [save_tiny_model(tmp_path / str(seed), seed) for seed in (0, 1)]
    batch, log_weights = make_batch("all"), []
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in folders]
    sampled = torch.zeros_like(batch.sampler_logprobs)
    for start, end in itertools.pairwise(batch.cu_seqlens.tolist()):
        ids = batch.tokens[start:end].long()
        with torch.no_grad():
            scores = [(m(ids[None]).logits[0, :-1] / temperature).log_softmax(-1) for m in models]
        older, present = (values.gather(1, ids[1:, None]).squeeze(1) for values in scores)
        sampled[start + 1 : end] = older
        log_weights.append((present - older)[batch.loss_mask[start + 1 : end]])
    weights, cap = torch.cat(log_weights).exp(), 1.02
    spec = learner_spec(updates=1, objective={"importance": {"cap": cap}})
    learner = Learner(replace(spec, temperature=temperature), folders[1])
    found = learner.train_iteration(replace(batch, sampler_logprobs=sampled), 0).metrics
    cut = weights.clamp(max=cap)
    share = ((cut.sum().square() / cut.square().sum()) / len(cut)).item()
    assert found["importance/mean"] == pytest.approx(cut.mean().item(), abs=1e-5)
    assert found["importance/ess"] == pytest.approx(share, abs=1e-5)
    assert found["importance/truncated"] == pytest.approx((weights > cap).float().mean().item(), abs=0.005)
    assert 0.05 < found["importance/truncated"] < 0.95
    free = ((weights.sum().square() / weights.square().sum()) / len(weights)).item()
    assert found["off_policy/ess"] == pytest.approx(free, abs=1e-5)
    assert free < share < 1
