"""Evidence: masses, Dempster's rule, bins and ranking, held against worked examples and properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.models.evidence import NOTHING, Combined, EvidenceBins, Feature, Mass, cosine_loss, dempster
from rewards.models.neighbours import Neighbours, unit
from rewards.models.ranking import Predicted, confident, rank


def of_share(share: float, uncertainty: float = 0.3) -> Mass:
    return Mass((1 - uncertainty) * share, (1 - uncertainty) * (1 - share), uncertainty)


shares = st.floats(0, 1)
masses = st.builds(of_share, shares, st.floats(0.01, 1))


def close(found: Combined, expected: Combined) -> bool:
    pairs = zip((*found.mass, found.conflict), (*expected.mass, expected.conflict), strict=True)
    return all(math.isclose(a, b, abs_tol=1e-9) for a, b in pairs)


@pytest.mark.parametrize(
    ("pos", "mass", "conflict"),
    [
        ((0.8, 0.6), (0.674656, 0.210607, 0.114737), 0.2156),
        ((0.8, 0.6, 0.9), (0.853215, 0.104813, 0.041972), None),
        ((1.0, 0.0), (0.411765, 0.411765, 0.176471), 0.49),
        ((0.8,), (0.56, 0.14, 0.3), 0.0),
        ((), (0.0, 0.0, 1.0), 0.0),
    ],
)
def test_dempsters_rule_gives_the_worked_values(
    pos: tuple[float, ...], mass: tuple[float, ...], conflict: float | None
) -> None:
    found = dempster(map(of_share, pos))
    assert found.mass == pytest.approx(mass, abs=5e-7)
    assert conflict is None or found.conflict == pytest.approx(conflict, abs=1e-12)


@given(st.lists(masses, max_size=5), st.randoms())
def test_the_order_of_masses_does_not_matter(some: list[Mass], random) -> None:
    shuffled = some[:]
    random.shuffle(shuffled)
    assert close(dempster(some), dempster(shuffled))


@given(masses, masses, masses)
def test_masses_may_be_combined_in_steps_and_no_conflict_is_lost(a: Mass, b: Mass, c: Mass) -> None:
    at_once, first = dempster([a, b, c]), dempster([a, b])
    then = dempster([first.mass, c])
    both = 1 - (1 - first.conflict) * (1 - then.conflict)
    assert close(at_once, Combined(then.mass, both))


@given(st.lists(masses, max_size=6))
def test_what_is_combined_is_a_mass(some: list[Mass]) -> None:
    found = dempster(some)
    assert sum(found.mass) == pytest.approx(1)
    assert all(0 <= value <= 1 for value in (*found.mass, found.conflict))
    assert found.mass.uncertainty <= min((mass.uncertainty for mass in some), default=1.0) / (1 - found.conflict) + 1e-9
    assert 0 <= found.mass.expected <= 1 + 1e-12


@given(masses)
def test_nothing_adds_nothing(mass: Mass) -> None:
    assert close(dempster([mass, NOTHING]), Combined(mass, 0.0))


def test_masses_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        dempster([Mass(1, 0, 0), Mass(0, 1, 0)])
    with pytest.raises(ValueError, match="uncertainty is 0"):
        EvidenceBins(2, {}, uncertainty=0)


@pytest.mark.parametrize(
    ("classes", "cosine", "loss"),
    [
        (5, 1, 1.6094), (5, 0.9, 1.6902), (5, 0.5, 2.0275), (5, 0, 2.4743), (5, -1, 3.4196),
        (2, 1, 0.6931), (2, 0.9, 0.7444), (2, 0.5, 0.9741), (2, 0, 1.3133), (2, -1, 2.1269),
    ],
)  # fmt: skip
def test_cosine_loss_gives_the_worked_values(classes: int, cosine: float, loss: float) -> None:
    assert cosine_loss([cosine], classes) == pytest.approx(loss, abs=6e-5)
    assert cosine_loss([cosine, cosine], classes) == pytest.approx(cosine_loss([cosine], classes))


def prob(label: int, value: float) -> Feature:
    return Feature.of("prob", label, value)


def near(label: int, value: float) -> Feature:
    return Feature.of("cosine", label, value)


def test_bins_count_how_often_a_feature_was_right_about_its_class() -> None:
    texts = [[prob(0, 0.91), near(1, 1.6)], [prob(0, 0.88)], [prob(0, 0.9)], [prob(1, 0.9)]]
    bins = EvidenceBins.fit(texts, [0, 0, 1, 1], classes=2)
    assert bins.mass(prob(0, 0.93)) == pytest.approx((0.7 * 2 / 3, 0.7 / 3, 0.3))
    assert bins.mass(prob(0, 0.93), about=1) == pytest.approx((0.7 / 3, 0.7 * 2 / 3, 0.3))
    assert bins.mass(near(1, 1.62)) == pytest.approx((0, 0.7, 0.3))
    assert bins.mass(prob(0, 0.8)) is None  # never seen: says nothing
    assert bins.about([prob(0, 0.8)], 0) is None
    assert close(bins.about([prob(1, 0.9), near(1, 1.6), prob(0, 0.9)], 1), dempster([of_share(1), of_share(0)]))


def test_a_prediction_of_another_class_speaks_against_this_one() -> None:
    texts = [[prob(0, 0.9), near(0, 1.0)]] * 3 + [[prob(1, 0.9), near(0, 2.0)]] * 4
    bins = EvidenceBins.fit(texts, [0, 0, 1, 1, 1, 1, 0], classes=2)
    found = bins.whether([prob(1, 0.9), near(0, 1.0)], 0)
    assert close(found, dempster([of_share(1 / 4), of_share(2 / 3)]))
    for_own = [prob(0, 0.9), near(0, 1.0)]
    assert bins.whether(for_own, 0) == bins.about(for_own, 0)


def test_texts_are_ranked_by_the_evidence_for_their_own_prediction_and_once() -> None:
    labelled = [[prob(0, 0.9), near(0, 1.0)], [prob(0, 0.9), near(1, 3.0)], [prob(1, 0.6), near(1, 1.0)]]
    bins = EvidenceBins.fit(labelled, [0, 0, 1], classes=2)
    strong = Predicted(0, 0.9, (prob(0, 0.9), near(0, 1.0), near(1, 3.0)))
    # Its strongest evidence is for class 1, and it is predicted to be of class 0, for which it has none.
    other = Predicted(0, 0.6, (prob(0, 0.6), near(0, 2.0), near(1, 1.0)))
    single = Predicted(0, 0.9, (prob(0, 0.9), near(0, 2.0), near(1, 2.0)))
    surer = Predicted(0, 0.93, single.features)
    found = rank([other, single, strong, surer], bins, keep=0.9)
    assert found.order == (2, 3, 1)
    assert found.kept == int(0.9 * (1 + 1 + 2 + 1) / 2)
    assert found.chosen == (2, 3)


@given(st.permutations(range(6)))
def test_ranking_does_not_depend_on_the_order_of_the_file(order: list[int]) -> None:
    values = list(itertools.product((0, 1), (0.91, 0.92, 0.93)))
    texts = [Predicted(label, value, (prob(label, value),)) for label, value in values]
    bins = EvidenceBins.fit([[prob(0, 0.9)], [prob(1, 0.9)], [prob(1, 0.9)]], [0, 1, 0], classes=2)
    expected = [texts[index] for index in rank(texts, bins).order]
    moved = [texts[index] for index in order]
    assert [moved[index] for index in rank(moved, bins).order] == expected


def test_confidence_keeps_what_the_model_is_sure_of() -> None:
    assert confident([Predicted(0, 0.95, ()), Predicted(1, 0.5, ()), Predicted(1, 0.9, ())]) == (0, 2)


def test_features_are_how_sure_the_model_is_and_how_near_labelled_texts_are() -> None:
    hidden = np.array([[1.0, 0], [2, 0], [0, 1], [0, 3]])
    near = Neighbours.draw(hidden, [0, 0, 1, 1], classes=2, seed=0)
    texts = near.predicted(np.array([[0.96, 0.04], [0.3, 0.7]]), np.array([[5.0, 0], [1, 1]]))
    same, across = cosine_loss([1.0], 2), cosine_loss([0.0], 2)
    assert texts[0] == Predicted(
        0, 0.96, (prob(0, 0.96), Feature.of("cosine", 0, same), Feature.of("cosine", 1, across))
    )
    assert texts[1].label == 1
    assert texts[1].features[1].bin == texts[1].features[2].bin == round(cosine_loss([2**-0.5], 2), 1)


def test_no_labelled_text_is_compared_with_itself() -> None:
    hidden = np.array([[1.0, 0], [0, 1.0], [0, 1.0], [1.0, 1.0]])
    near = Neighbours.draw(hidden, [0, 0, 1, 2], classes=3, seed=0)
    losses = near.losses(hidden, own=[0, 1, 2, 3])
    assert losses[0][0] == pytest.approx(cosine_loss([0.0], 3))  # to the other text of its class alone
    assert losses[2][1] is None  # the only text of its class
    assert losses[3][1] == pytest.approx(cosine_loss([2**-0.5], 3))
    with pytest.raises(ValueError, match="class 1 has no labelled text"):
        Neighbours.draw(hidden, [0, 0, 2, 2], classes=3, seed=0)


def test_at_most_five_neighbours_of_a_class_are_looked_at() -> None:
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(30, 4))
    near = Neighbours.draw(hidden, [0] * 20 + [1] * 10, classes=2, seed=1)
    assert [len(chosen) for chosen in near.members] == [6, 6]
    text = rng.normal(size=(1, 4))
    cosines = unit(hidden)[list(near.members[0][:5])] @ unit(text)[0]
    assert near.losses(text, own=[None])[0][0] == pytest.approx(cosine_loss(cosines.tolist(), 2))
