"""Chaos: every part of a run is killed, frozen, slowed down and cut off in every phase, and nothing is lost.

``python -m tests.chaos`` plays the table of cases (``cases.py``), ``make chaos`` all of it. A case is a run to which
strikes happen, each at an exact moment (``strikes.py``). A ledger of what was on disk is taken at each, and when the
run has ended the audit (``audit.py``) looks for every token of it.
"""
