"""The papers' findings, a module each: what is said, the arms that would show it here, and how they are judged.

Importing a finding loads no torch. ``FINDINGS`` has the order in which they are done.
"""

from __future__ import annotations

FINDINGS: dict[str, str] = {
    "negative": "recipes.evidence.negative",
    "longer": "recipes.evidence.longer",
    "curriculum": "recipes.evidence.curriculum",
    "prioritised": "recipes.evidence.prioritised",
    "length_reward": "recipes.evidence.length_reward",
    "reset": "recipes.evidence.reset",
    "baseline": "recipes.evidence.baseline",
    "partial": "recipes.evidence.partial",
    "long2short": "recipes.evidence.long2short",
    "objectives": "recipes.evidence.objectives",
    "muon": "recipes.evidence.muon",
    "decay": "recipes.evidence.decay",
    "rms": "recipes.evidence.rms",
    "matching": "recipes.evidence.matching",
    "entropy": "recipes.evidence.entropy",
    "sft": "recipes.evidence.sft",
    "muon_rl": "recipes.evidence.muon_rl",
    "moba": "recipes.evidence.moba",
    "blocks": "recipes.evidence.blocks",
    "layers": "recipes.evidence.layers",
    "hybrid": "recipes.evidence.hybrid",
    "trailing": "recipes.evidence.trailing",
    "positions": "recipes.evidence.positions",
    "extension": "recipes.evidence.extension",
}
"""Name -> module (``recipes.evidence.bench.finding.Finding``)."""
