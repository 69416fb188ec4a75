"""A verifier's opinion: l + t/2 of the evidence for right, or none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rewards.models.evidence import EvidenceBins, Feature
from rewards.models.neighbours import Neighbours
from rewards.models.ranking import Predicted
from rollout.reward_models.evidence import NAME, Evidence, EvidenceError, abstentions, read_evidence, write_evidence
from rollout.reward_models.head import NOT_FINITE

SURE, SLIP = Feature("prob", 0, 0.9), Feature("prob", 1, 0.9)
NEAR, FAR = Feature("cosine", 0, 0.7), Feature("cosine", 0, 2.0)


def evidence(**changes: object) -> Evidence:
    labelled = [(SURE, NEAR)] * 8 + [(SURE, FAR)] * 2 + [(SLIP, FAR)] * 10
    bins = EvidenceBins.fit(labelled, [0] * 10 + [1] * 10, classes=2)
    near = Neighbours.draw(np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]]), [0, 0, 1, 1], 2, seed=0)
    return replace(Evidence(("right", "slip"), "ends", bins, near), **changes)


def test_the_reward_is_belief_and_half_of_what_is_uncertain() -> None:
    found = evidence()
    # Both features were always right about right: l = 1 - 0.3^2, t = 0.3^2.
    assert found.opinion(Predicted(0, 0.93, (SURE, NEAR))).right == pytest.approx(0.91 + 0.09 / 2)
    # A prediction of slip is evidence against right, and so is the distance: 2 of 12 with it were right.
    both = found.opinion(Predicted(1, 0.9, (SLIP, FAR)))
    belief, disbelief, t = 0.7 / 6 * 0.3, 0.7 * (0.7 * 5 / 6 + 0.3) + 0.3 * 0.7 * 5 / 6, 0.09
    assert both.right == pytest.approx((belief + t / 2) / (belief + disbelief + t))
    assert both.parts["conflict"] == pytest.approx(1 - belief - disbelief - t)
    assert (both.parts["outcome"], both.parts["probability"]) == (1.0, 0.9)


def test_one_feature_is_enough_and_none_is_too_little() -> None:
    one = evidence().opinion(Predicted(0, 0.5, (Feature("prob", 0, 0.5), NEAR)))
    assert one.right == pytest.approx(0.7 + 0.15)
    none = evidence().opinion(Predicted(0, 0.5, (Feature("prob", 0, 0.5), Feature("cosine", 0, 5.0))))
    assert none.right is None
    assert none.reason.startswith("uncertain")
    assert evidence(most_uncertain=0.2).opinion(Predicted(0, 0.5, (NEAR,))).right is None


def test_evidence_that_contradicts_itself_is_no_opinion() -> None:
    torn = Predicted(1, 0.9, (SLIP, NEAR))
    found, lenient = evidence().opinion(torn), evidence(most_conflict=0.5).opinion(torn)
    assert found.right is None
    assert found.parts["conflict"] == pytest.approx(0.49)
    assert lenient.right == pytest.approx(0.5)
    assert abstentions([found, lenient]) == {"its evidence contradicts itself": 1}


def test_rows_that_are_not_finite_have_no_opinion_and_others_keep_theirs() -> None:
    p = np.array([[0.9, 0.1], [np.nan, np.nan], [0.1, 0.9], [0.5, 0.5]])
    hidden = np.array([[1.0, 0], [1, 0], [0, 1], [np.inf, 0]])
    found = evidence().opinions(p, hidden)
    assert [one.reason == NOT_FINITE for one in found] == [False, True, False, True]
    alone = evidence().opinions(p[[0, 2]], hidden[[0, 2]])
    assert [found[0], found[2]] == alone


def test_written_evidence_is_read_back(tmp_path: Path) -> None:
    write_evidence(tmp_path, evidence(most_conflict=0.4))
    found = read_evidence(tmp_path)
    rng = np.random.default_rng(0)
    p, hidden = rng.dirichlet([1, 1], size=50), rng.normal(size=(50, 2))
    assert found.opinions(p, hidden) == evidence(most_conflict=0.4).opinions(p, hidden)
    (tmp_path / NAME).write_text(json.dumps({"classes": ["right"]}))
    with pytest.raises(EvidenceError, match="train it again"):
        read_evidence(tmp_path)
