"""The scale model: its parts by hand, published figures, plans that fit, and a page that says what the code does."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import scale_model
from benchmarks.scale import publish
from benchmarks.scale.anchors import ANCHORS, SENSITIVITY, Anchor
from benchmarks.scale.hardware import DEFAULT, H20, H100, H200, SOURCES
from benchmarks.scale.learner import (
    Lockstep,
    Mesh,
    by_bound,
    by_cut,
    in_order,
    link_seconds,
    most_tokens,
    rate,
    state_bytes,
    training,
    ulysses_bytes,
)
from benchmarks.scale.models import (
    DEEPSEEK_V3,
    KIMI_K2,
    LADDER,
    MOONLIGHT,
    QWEN2_7B,
    QWEN2_72B,
    QWEN3_4B,
    QWEN3_30B,
    QWEN3_32B,
    QWEN3_600M,
    Model,
)
from benchmarks.scale.plan import Workload, fits, memory, meshes, overlapped, synchronous, traffic
from benchmarks.scale.rollout import PROMPT, Engine, Lengths, drained, phase_seconds, segmented
from benchmarks.scale.tables import anchors, constants

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scale.md"
SMALL = Workload(Lengths(2048, 8192), responses=512)


@pytest.mark.parametrize(
    ("model", "billions"),
    [(QWEN3_600M, 0.596), (QWEN3_4B, 4.02), (QWEN2_7B, 7.61), (QWEN3_30B, 30.5), (QWEN3_32B, 32.8), (MOONLIGHT, 15.96),
     (DEEPSEEK_V3, 671), (KIMI_K2, 1026)],
)  # fmt: skip
def test_models_have_as_many_parameters_as_their_cards_say(model: Model, billions: float) -> None:
    assert model.parameters / 1e9 == pytest.approx(billions, rel=0.005)


def test_active_parameters_and_caches() -> None:
    assert (QWEN3_30B.active + QWEN3_30B.head) / 1e9 == pytest.approx(3.0, abs=0.1)
    assert (MOONLIGHT.active + MOONLIGHT.head) / 1e9 == pytest.approx(2.6, abs=0.1)
    assert QWEN3_30B.cache_bytes(1) == 2 * 48 * 4 * 128 * 2
    assert QWEN3_30B.cache_bytes(4) == QWEN3_30B.cache_bytes(8) == QWEN3_30B.cache_bytes(1) / 4  # a head is not cut
    assert MOONLIGHT.cache_bytes(8) == MOONLIGHT.cache_bytes(1) == 27 * 576 * 2  # everybody needs the latent


def test_training_costs_the_flops_of_four_forward_passes_and_attention_grows_with_the_square() -> None:
    dense = rate(QWEN3_32B, H100, train=True)
    products = 2 * (4 * (QWEN3_32B.matrices) + 3 * QWEN3_32B.head) / (0.6 * 989e12)
    assert products < dense.linear < 2 * products  # the rest is bound by memory
    forward = rate(QWEN3_32B, H100, train=False)
    assert dense.quadratic == pytest.approx(4.5 * forward.quadratic)
    assert dense.seconds(2000) - 2 * dense.seconds(1000) == pytest.approx(dense.quadratic * 2e6)


def test_links() -> None:
    assert link_seconds(1e9, 1, H100) == 0
    assert link_seconds(9e9, 8, H100) == pytest.approx(9e9 * 7 / 8 / 450e9 / 0.95)  # NVLink
    assert link_seconds(9e9, 64, H100) == pytest.approx(9e9 / (8 * 50e9) / 0.95)  # eight network cards a node


@pytest.mark.parametrize("parts", [2, 8, 64, 1024])
def test_state_is_shared_out_and_muon_sends_four_bytes_a_parameter_and_rank(parts: int) -> None:
    assert state_bytes(QWEN2_7B, parts) == state_bytes(QWEN2_7B, 1) / parts
    assert state_bytes(QWEN2_7B, 1) < 13 * QWEN2_7B.parameters  # AdamW: 16
    plan = synchronous(QWEN3_600M, H100, 8, SMALL, partial=False)
    assert plan is not None
    assert traffic(QWEN3_600M, plan)["muon"] <= 4 * QWEN3_600M.parameters / plan.mesh.parts


def test_ulysses_sends_nothing_without_a_sequence_axis() -> None:
    assert ulysses_bytes(QWEN2_7B, 1, train=True) == 0
    width = 2 * 3584 + 2 * 512
    assert ulysses_bytes(QWEN2_7B, 4, train=True) == 3 * 2 * 28 * width * 3 / 4


def test_an_engine_ends_with_its_longest_response() -> None:
    requests = [(0, 3), (0, 5), (0, 2)]
    assert drained(lambda sequences, context: 1.0, requests, at_once=3) == 5
    assert drained(lambda sequences, context: 1.0, requests, at_once=1) == 10
    assert drained(lambda sequences, context: 1.0, requests, at_once=2) == 5  # the third takes the first one's place
    assert drained(lambda sequences, context: sequences, requests, at_once=3) == 10  # 2 * 3 + 2 + 1 + 1
    half = drained(lambda sequences, context: context, [(10, 4)], at_once=1)
    assert half == 4 * (10 + 2)  # the mean context of four steps


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 60))
def test_segments_are_the_whole_response(lengths: list[int], segment: int) -> None:
    parts = segmented(lengths, segment)
    assert sum(tokens for _, tokens in parts) == sum(lengths)
    assert max(tokens for _, tokens in parts) <= segment
    assert max(before + tokens for before, tokens in parts) == PROMPT + max(lengths)


def test_lengths_have_the_mean_asked_for() -> None:
    drawn = Lengths(3158, 4096).drawn(2000)
    assert sum(drawn) / 2000 == pytest.approx(3158, rel=0.01)
    assert max(drawn) == 4096
    assert Lengths(2000, 32768).drawn(500) == Lengths(2000, 32768).drawn(500)
    assert Lengths(2000, 32768).drawn(500) != Lengths(2000, 32768).drawn(500, seed=1)


def test_decoding_is_bound_by_memory_and_a_response_that_does_not_fit_takes_forever() -> None:
    engine = Engine(QWEN2_7B, H100)
    weights = 2 * (QWEN2_7B.matrices + QWEN2_7B.head) / (0.8 * 3.35e12)
    assert engine.step(1, 0) == pytest.approx(weights + DEFAULT.decode_step + DEFAULT.decode_sequence)
    assert engine.throughput(1000) > 50 / engine.step(1, 1000)
    assert phase_seconds(Engine(QWEN2_72B, H100), 1, [(PROMPT, 32768)]) == math.inf
    few = Engine(QWEN3_30B, H100).step(1, 0)
    assert few < Engine(QWEN3_30B, H100).step(64, 0) / 3  # more tokens meet more experts


def test_what_dealing_out_by_the_order_costs() -> None:
    lengths = Lengths(2000, 28672).drawn(512)

    def seconds(lockstep: Lockstep) -> float:
        return training(QWEN2_7B, H20, Mesh(1, 32, 1), [lengths], 32768, lockstep).train

    assert seconds(by_bound) * (1 - 1e-9) <= seconds(by_cut) < 1.06 * seconds(by_bound)
    assert seconds(in_order) > 1.3 * seconds(by_cut)


def test_publishing() -> None:
    assert publish.resharded(QWEN3_30B, H100, 8) < publish.resharded(QWEN3_30B, H100, 2)
    assert publish.shared(QWEN2_7B, H100, 8) < publish.broadcast(QWEN2_7B, H100, 8)


@pytest.mark.parametrize("anchor", [a for a in ANCHORS if a.kind != "extra"], ids=lambda a: f"{a.what} {a.unit}")
def test_published_figures_are_met_within_30_percent(anchor: Anchor) -> None:
    assert anchor.predict() == pytest.approx(anchor.published, rel=0.3)


def test_a_plan_uses_the_gpus_and_fits_their_memory() -> None:
    for plan in (synchronous(QWEN2_7B, H100, 64, SMALL, False), overlapped(QWEN2_7B, H100, 64, SMALL)):
        assert plan is not None
        assert plan.gpus <= 64
        assert QWEN2_7B.heads % plan.mesh.sequence == 0
        bytes_of = memory(QWEN2_7B, plan, SMALL)
        assert bytes_of["state"] + bytes_of["activations"] < H100.memory
        assert bytes_of["engine_weights"] < H100.memory
    whole, partial = (synchronous(QWEN2_7B, H100, 64, SMALL, partial) for partial in (False, True))
    assert whole is not None
    assert partial is not None
    assert partial.step < whole.step


def test_what_does_not_fit_has_no_plan() -> None:
    assert overlapped(QWEN3_32B, H100, 8, SMALL) is None
    assert synchronous(QWEN3_32B, H100, 2, SMALL, partial=False) is None
    assert fits(QWEN3_30B, H100, 8, 8192)
    assert not fits(KIMI_K2, H100, 1024, 8192)  # no node holds its weights
    assert most_tokens(QWEN3_32B, 8, H200) > 0 > most_tokens(QWEN3_32B, 1, H200)


@settings(deadline=None)
@given(st.sampled_from(LADDER), st.sampled_from([1, 2, 4, 6, 8, 24, 48, 64, 384, 1024]))
def test_meshes_take_all_gpus(model: Model, gpus: int) -> None:
    found = list(meshes(model, gpus))
    assert found
    assert len(set(found)) == len(found)
    for mesh in found:
        assert mesh.size == gpus
        assert model.heads % mesh.sequence == 0


def test_the_verdict_follows_from_the_rows() -> None:
    good = {"row": "anchor", "what": "a", "kind": "held out", "ratio": 1.2, "within": True}
    bad = {"row": "anchor", "what": "b", "kind": "fitted", "ratio": 1.5, "within": False}
    cell = {"row": "plan", "model": "m", "longest": 1, "gpus": 8, "fits": True}
    assert scale_model.verdict([good, cell])["met"]
    last = scale_model.verdict([good, bad, cell])
    assert not last["met"]
    assert last["goals"]["anchors_within_30_percent"]["worst"] == ["b", 1.5]
    assert scale_model.verdict([good, bad | {"kind": "extra"}, cell])["met"]
    assert not scale_model.verdict([good, cell | {"fits": False}])["met"]


def test_every_constant_has_a_source_and_the_page_says_what_the_code_does() -> None:
    assert set(SOURCES) == set(vars(DEFAULT))
    page = PAGE.read_text()
    for line in [*constants(list(scale_model.constants())), *anchors(list(scale_model.anchors()))]:
        assert line in page, "docs/scale.md is old: python -m benchmarks.scale_model --markdown"
    assert all(name in page for name in SENSITIVITY)
