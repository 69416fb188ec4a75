"""The copy head: its labels at the right positions, its gradient, ranks, checkpoints and exports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learner_kit import (
    VOCABULARY,
    learner_spec,
    make_batch,
    make_groups,
    run_config,
    save_tiny_model,
    tiny_llama,
    weights,
)
from rank_kit import run_ranks
from safetensors import safe_open
from torch.nn.functional import cross_entropy

from rl.learner.batch import Batch, concatenated, pack, pack_demonstrations
from rl.learner.config import ModelConfig, RanksConfig
from rl.learner.copies import of_rollout
from rl.learner.forward import PolicyModel, new_head
from rl.learner.host import LearnerHost
from rl.learner.learner import Learner, whole
from rl.learner.policy import PolicyError, prepare
from rl.learner.ranks import Ranks
from rl.learner.spec import LearnerSpec, Receivers
from rl.objectives.config import CopyingConfig
from rl.objectives.copying import F1, WithCopying
from rl.objectives.cross_entropy import CrossEntropy
from rl.objectives.protocol import Head, Needs
from rl.record.metrics import unknown
from rollout.copying.head import FILE, HeadError, load_head, save_head
from rollout.copying.labels import B, I, O, copy_labels
from rollout.models.tokenizer import build_tokenizer
from rollout.types import Author, Prompt, Rollout, Segment, StopReason

CPU = ModelConfig(threads=1)
LCS = {"mode": "lcs"}
PAIRS = [
    ([5, 6, 7, 8], [6, 7, 9, 3]),
    ([5, 9], [8, 9]),
    ([10, 11, 12, 13, 14], [10, 11, 12, 4, 13, 14]),
    ([5, 6], [7]),
]
MODES = [CopyingConfig(mode="ngram"), CopyingConfig(mode="lcs")]


def plain(source: Any, target: Any) -> np.ndarray:
    return copy_labels(source, target).target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = save_tiny_model(tmp_path_factory.mktemp("model"))
    build_tokenizer([chr(97 + i) for i in range(VOCABULARY - 6)] + ["7"], 256).save_pretrained(path)
    return path


def labelled(loss_on: str = "all", groups: int = 6, advantages: list[float] | None = None) -> Batch:
    made = make_groups(groups)
    return pack(made, [advantages or [-0.6, 0.5, -0.4, 0.5] for _ in made], 3, loss_on, label=plain)  # type: ignore[arg-type]


def test_the_state_that_predicts_a_token_has_its_label_and_that_of_the_first_is_trained() -> None:
    """Against transformers, sequence by sequence; the official code trains the first one on another tag."""
    truth, batch = tiny_llama(), pack_demonstrations(PAIRS, plain)
    policy = prepare(tiny_llama(), CPU)
    head = new_head(policy, Head(3), 0)
    model = PolicyModel(policy, torch.float32, copying=head)
    objective = WithCopying(CrossEntropy(), CopyingConfig(weight=1.0))
    outputs = model(batch, objective.needs)
    loss = objective.loss(outputs, batch)
    expected = []
    for prompt, response in PAIRS:
        hidden = truth.model(torch.tensor([[*prompt, *response]])).last_hidden_state[0]
        states = hidden[len(prompt) - 1 : -1]  # the last of the prompt predicts the first of the response
        tags = torch.tensor(copy_labels(prompt, response).target).long()
        assert len(states) == len(tags) == len(response)
        expected.append(cross_entropy(head(states), tags, reduction="sum"))
    assert batch.copies is not None
    assert batch.copies.tolist()[4:8] == [B, I, O, O]
    torch.testing.assert_close(loss.by_token, torch.stack(expected).sum(), rtol=1e-5, atol=1e-5)

    first = batch.loss_mask & ~torch.roll(batch.loss_mask, 1)
    (gradient,) = torch.autograd.grad(loss.by_token, outputs.copying)
    assert gradient[first[batch.loss_mask]].abs().sum(1).min() > 0
    assert outputs.logprobs.equal(PolicyModel(policy, torch.float32)(batch, CrossEntropy().needs).logprobs)


def test_class_weights_are_factors_on_tokens_and_the_divisor_stays_their_number() -> None:
    batch = pack_demonstrations(PAIRS, plain)
    policy = PolicyModel(prepare(tiny_llama(), CPU), torch.float32, copying=new_head(tiny_llama(), Head(3), 0))
    outputs = policy(batch, Needs(copying=True))
    values = []
    for factors in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 2, 3)):
        config = CopyingConfig(weight=2, class_weights=factors)
        values.append(WithCopying(CrossEntropy(), config).loss(outputs, batch).by_token)
    torch.testing.assert_close(values[0] + 2 * values[1] + 3 * values[2], values[3])


def learner_of(folder: Path, copying: Any, **keys: Any) -> Learner:
    adamw = {"optimizer": {"kind": "adamw", "lr": 3e-3, "grad_clip": 1e9}}
    return Learner(learner_spec(copying=copying, **{**adamw, **keys}), folder)


def gradients(learner: Learner) -> dict[str, torch.Tensor]:
    modules = {"model": learner.model, "copying": learner.copying}
    return {
        f"{section}.{name}": whole(parameter.grad).clone()
        for section, module in modules.items()
        if module is not None
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("objective", ["mirror_descent", "reinforce", "grpo"])
def test_at_weight_0_all_gradients_are_those_without_it(folder: Path, objective: str) -> None:
    found = []
    for copying in (None, {"weight": 0, **LCS}):
        learner = learner_of(folder, copying, objective={"kind": objective})
        batch = labelled("current")
        stats = [learner.first_step(batch)[0] if learner.objective.opens_on_reference else None]
        after = gradients(learner)
        step = learner.step(learner.reference(batch))
        found.append((after, gradients(learner), step.loss, step.grad_norm, weights(learner.model), stats))
    off, zero = found
    for one, other in zip(off[:2], zero[:2], strict=True):
        assert all(one[name].equal(other[name]) for name in one)
        assert not any(other[name].any() for name in other.keys() - one.keys())
    assert off[2] == zero[2]
    assert off[3] == pytest.approx(zero[3])
    assert all(off[4][name].equal(zero[4][name]) for name in off[4])


def test_its_gradient_reaches_the_body_and_not_the_lm_head(tmp_path: Path) -> None:
    untied = tmp_path / "untied"
    tiny_llama(tie_word_embeddings=False).save_pretrained(untied)
    batch = pack_demonstrations(PAIRS, plain)
    off, on = learner_of(untied, None), learner_of(untied, {"weight": 2, **LCS})
    off.step(batch, off.supervised)
    on.step(batch, on.supervised)
    one, other = gradients(off), gradients(on)
    assert one["model.lm_head.weight"].equal(other["model.lm_head.weight"])
    assert not one["model.model.layers.0.self_attn.q_proj.weight"].equal(
        other["model.model.layers.0.self_attn.q_proj.weight"]
    )


def test_it_is_divided_by_the_loss_tokens_of_the_minibatch_however_that_is_cut(folder: Path) -> None:
    found = []
    for tokens in (1, 90, 100_000):
        learner = learner_of(folder, {"weight": 3, **LCS}, micro_batch_tokens=tokens)
        learner.step(learner.reference(labelled()))
        found.append(gradients(learner))
    for other in found[:-1]:
        for name, gradient in found[-1].items():
            torch.testing.assert_close(other[name], gradient, rtol=2e-4, atol=1e-6, msg=name)


def test_an_opening_step_is_that_with_a_reference_of_its_own_and_runs_what_has_no_advantage(folder: Path) -> None:
    batch = concatenated([labelled(groups=2), labelled(groups=2, advantages=[0.0] * 4)])
    one, other, off = learner_of(folder, LCS), learner_of(folder, LCS), learner_of(folder, None)
    step, referenced = one.first_step(batch)
    assert len(referenced) == len(batch)
    assert len(off.first_step(batch)[1]) < len(batch)
    assert other.step(other.reference(batch)).loss == step.loss
    ours, theirs = gradients(one), gradients(other)
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_a_batch_keeps_its_labels_through_cuts_and_joins() -> None:
    batch = labelled()
    assert batch.copies is not None
    both = concatenated([batch.select([3, 1]), batch.select([0])])
    assert both.copies is not None
    assert both.copies.equal(batch.select([3, 1, 0]).copies)
    assert concatenated([batch, make_batch("all")]).copies is None
    assert make_batch().copies is None


def test_an_iteration_reports_it_by_known_names(folder: Path) -> None:
    learner = learner_of(folder, LCS)
    found = learner.train_iteration(labelled(), 0).metrics
    told = {name for name in found if name.startswith("copying/")}
    assert told >= {"copying/loss", "copying/probability", "copying/share", "copying/without", "copying/f1_outside"}
    assert not unknown(found)
    assert found["copying/share"] == pytest.approx((labelled().copies != 0).sum() / labelled().loss_mask.sum())


def test_texts_without_any_copy_train_and_are_counted(folder: Path) -> None:
    learner = learner_of(folder, LCS)
    pairs = [([5, 6], [7, 8]), ([5, 6], [5, 6])]
    step = learner.step(pack_demonstrations(pairs, learner.label), learner.supervised)
    assert step.tallies["copying/without"].value == 0.5
    assert not step.skipped
    nothing = learner.step(pack_demonstrations(pairs[:1], learner.label), learner.supervised)
    assert nothing.tallies["copying/share"].value == 0
    assert not nothing.skipped


def test_f1_adds_up() -> None:
    told, true = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2])
    parts = [F1.of(told[:2], true[:2], 1), F1.of(told[2:], true[2:], 1)]
    assert parts[0] + parts[1] == F1.of(told, true, 1)
    assert (parts[0] + parts[1]).value == pytest.approx(2 / 3)
    assert F1.of(told[:1], true[:1], 2).value is None


def test_the_source_of_a_turn_is_the_prompt_and_what_the_environment_wrote_by_then() -> None:
    def drawn(version: int, *tokens: int) -> Segment:
        return Segment(version, tokens, (-1.0,) * len(tokens))

    fed = Segment(2, (20, 21, 22), by=Author.ENVIRONMENT)
    segments = (drawn(1, 5, 6, 9), drawn(2, 20, 21), fed, drawn(2, 21, 22, 6, 20))
    rollout = Rollout("0/0", Prompt((4, 5, 6)), segments, StopReason.EOS)
    assert of_rollout(rollout, plain).tolist() == [B, I, O, O, O, O, O, O, B, I, O, O]
    # across two segments of one turn, and not across the seam of the source
    halves = Rollout("0/1", Prompt((4, 5, 6)), (drawn(1, 4, 5), drawn(2, 6)), StopReason.EOS)
    assert of_rollout(halves, plain).tolist() == [B, I, I]


def on_ranks(rank: int, spec: LearnerSpec, model: Path, mesh: RanksConfig, out: Path) -> dict[str, Any]:
    return stepped(Learner(spec, model, Ranks(mesh, "cpu")), out if rank == 0 else None)


def stepped(learner: Learner, out: Path | None = None) -> dict[str, Any]:
    step, _ = learner.first_step(labelled(groups=3))
    taught = learner.step(pack_demonstrations(PAIRS, learner.label), learner.supervised)
    found = {"loss": [step.loss, taught.loss], "gradients": gradients(learner), "tallies": taught.tallies}
    folder = out or Path("/nowhere")
    learner.export_hf(folder)
    return found


@pytest.mark.parametrize("mesh", [{"shard": 2}, {"sequence": 2}, {"shard": 2, "sequence": 2}], ids=str)
def test_ranks_compute_what_one_alone_does(folder: Path, tmp_path: Path, mesh: dict[str, int]) -> None:
    keys = {"optimizer": {"kind": "adamw", "lr": 1e-3, "grad_clip": 1e9}, "copying": {"weight": 1.5}}
    (tmp_path / "alone").mkdir()
    (tmp_path / "ranks").mkdir()
    alone = stepped(Learner(learner_spec(**keys), folder), tmp_path / "alone")
    spec, ranks = learner_spec(**keys, ranks=mesh), RanksConfig(**mesh)
    for found in run_ranks(ranks.size, on_ranks, spec, folder, ranks, tmp_path / "ranks"):
        assert found["loss"] == pytest.approx(alone["loss"], abs=1e-6)
        assert found["tallies"]["copying/f1_outside"] == alone["tallies"]["copying/f1_outside"]
        assert found["gradients"].keys() == alone["gradients"].keys()
        for name, gradient in alone["gradients"].items():
            torch.testing.assert_close(found["gradients"][name], gradient, rtol=1e-3, atol=2e-6, msg=name)
    one, other = load_head(tmp_path / "alone"), load_head(tmp_path / "ranks")
    torch.testing.assert_close(one.weight, other.weight, rtol=1e-3, atol=1e-4)


OWN = """
from rl.objectives.protocol import Head, Loss, Needs, Objective

class Critic(Objective):
    needs = Needs(reference=False, head=Head(1, "tokens"))
    per = "token"

    def loss(self, outputs, batch):
        values, policy = outputs.head[:, 0], -batch.advantages[batch.sequence] * outputs.logprobs
        return Loss((values - batch.advantages[batch.sequence]).square().sum() + policy.sum())
"""


@pytest.mark.parametrize("own", [False, True])
def test_a_resumed_learner_goes_on_bitwise(folder: Path, tmp_path: Path, own: bool) -> None:
    (tmp_path / "own.py").write_text(OWN)
    keys: dict[str, Any] = {"optimizer": {"lr": 3e-3, "reset_each_iteration": False}}
    if own:
        keys["objective"] = {"kind": "python", "path": f"{tmp_path / 'own.py'}:Critic"}
    straight, resumed = (learner_of(folder, LCS, **keys) for _ in range(2))
    straight.train_iteration(labelled(), 0)
    (tmp_path / "saved").mkdir()
    straight.save(tmp_path / "saved")
    straight.saved()
    resumed.load(tmp_path / "saved")
    for learner in (straight, resumed):
        learner.train_iteration(labelled(), 1)
    assert straight.copying is not None
    assert resumed.copying is not None
    assert resumed.copying.weight.equal(straight.copying.weight)
    assert resumed.copying.bias.any()
    ours, theirs = weights(resumed.model), weights(straight.model)
    assert all(ours[name].equal(theirs[name]) for name in ours)
    if own:
        assert resumed.head is not None
        assert straight.head is not None
        assert resumed.head.weight.equal(straight.head.weight)


def test_an_export_has_the_head_beside_the_model_and_not_in_it(folder: Path, tmp_path: Path) -> None:
    on, off = learner_of(folder, LCS), learner_of(folder, None)
    for learner, name in ((on, "on"), (off, "off")):
        (tmp_path / name).mkdir()
        learner.export_hf(tmp_path / name, "bfloat16")
    assert on.copying is not None
    assert load_head(tmp_path / "on").weight.equal(on.copying.weight)
    assert not (tmp_path / "off" / FILE).exists()
    names = [set(safe_open(tmp_path / name / "model.safetensors", "pt").keys()) for name in ("on", "off")]
    assert names[0] == names[1]
    with pytest.raises(HeadError, match="no copy head"):
        load_head(tmp_path / "off")
    save_head(torch.zeros(2, 4), torch.zeros(2), tmp_path / "off")
    with pytest.raises(HeadError, match=r"\[2, 4\] and bias \[2\], not \[3, d\]"):
        load_head(tmp_path / "off")


def test_a_model_with_a_head_beside_it_goes_on_from_that(folder: Path, tmp_path: Path) -> None:
    learner = learner_of(folder, LCS)
    learner.step(pack_demonstrations(PAIRS, plain), learner.supervised)
    learner.export_hf(tmp_path)
    assert learner.copying is not None
    again = learner_of(tmp_path, LCS).copying
    assert again is not None
    assert again.weight.equal(learner.copying.weight)
    assert again.bias.equal(learner.copying.bias)
    assert again.weight.requires_grad
    save_head(torch.zeros(3, 4), torch.zeros(3), tmp_path)
    with pytest.raises(PolicyError, match="states of 4 numbers, and this model's have 32"):
        learner_of(tmp_path, LCS)


def test_a_warm_up_teaches_it_and_tells(folder: Path) -> None:
    spec = learner_spec(copying={"mode": "ngram"}, optimizer={"lr": 3e-3})
    host = LearnerHost(spec, folder, Receivers("local"))
    first = host.sft(PAIRS, 3e-3)
    for _ in range(30):
        last = host.sft(PAIRS, 3e-3)
    assert last.loss < first.loss
    assert last.metrics["copying/loss"] < 0.5 * first.metrics["copying/loss"]
    assert last.metrics["copying/f1_inside"] == 1
    assert not unknown(last.metrics)
    assert (
        not LearnerHost(replace(spec, learner=learner_spec().learner), folder, Receivers("local"))
        .sft(PAIRS, 1e-3)
        .metrics
    )


def test_single_tokens_with_a_digit_are_copies(folder: Path) -> None:
    label = learner_of(folder, {"mode": "ngram"}).label
    digit = VOCABULARY - 1  # the tokenizer's "7"
    assert label is not None
    assert label(np.array([6, digit, 8]), np.array([digit, 6])).tolist() == [B, O]


def test_what_it_cannot_do_is_refused_in_one_line(tmp_path: Path) -> None:
    for keys, reason in (
        (
            {"learner": {"copying": {"weight": 0.5}, "updates": 1}, "overlap": {"mode": "on_policy"}},
            "overlap.mode on_policy",
        ),
        ({"learner": {"copying": LCS}, "engine": {"max_model_len": 9000}}, "set it to ngram"),
        ({"learner": {"copying": {"weight": 0.5}, "objective": {"kind": "classes"}}}, "judges whole ones"),
    ):
        config = run_config().model_dump()
        merged = {**config, **{name: {**(config[name] or {}), **value} for name, value in keys.items()}}
        merged["model"]["base"]["context"] = 10_000
        with pytest.raises(ValueError, match=reason):
            type(run_config()).model_validate(merged)
    with pytest.raises(PolicyError, match=r"learner.copying.mode ngram needs the tokenizer"):
        learner_of(save_tiny_model(tmp_path), {"mode": "ngram"})


def test_a_learner_without_it_refuses_to_tell(folder: Path) -> None:
    learner = learner_of(folder, None)
    with pytest.raises(ValueError, match="no copy head"):
        learner.step(labelled(), WithCopying(CrossEntropy(), CopyingConfig()))
    on = learner_of(folder, LCS)
    with pytest.raises(ValueError, match="no copy labels"):
        on.step(pack_demonstrations(PAIRS), on.supervised)
