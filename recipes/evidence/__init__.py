"""The papers' findings, a module each: what is said, the arms that would show it here, and how they are judged.

Importing a finding loads no torch. ``FINDINGS`` has the order in which they are done.
"""

from __future__ import annotations

FINDINGS: dict[str, str] = {
    "muon": "recipes.evidence.muon",
}
"""Name -> module (``recipes.evidence.bench.finding.Finding``)."""
