"""Token efficiency: which variants are on the Pareto front, and what the numbers do and do not say. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from recipes.shorten.results import TITLES, Variant

CUT = 0.40
"""A method counts as a good cut when it saves this share of the tokens ..."""
LOSS = 0.02
"""... and loses at most this much accuracy."""
PAPER_ORDER = ("rl", "dpo", "merge_rejection", "merge")
"""Token efficiency as k1.5 ranks it, best first [A.13]."""


def pareto(variants: Sequence[Variant]) -> frozenset[str]:
    """Names on the front: no other variant is at least as accurate and at most as long, and one of both strictly."""
    return frozenset(one.name for one in variants if not any(dominates(other, one) for other in variants))


def dominates(one: Variant, other: Variant) -> bool:
    """Whether ``one`` leaves no reason to use ``other``, by the point estimates."""
    better = one.accuracy.mean >= other.accuracy.mean and one.tokens.mean <= other.tokens.mean
    return better and (one.accuracy.mean > other.accuracy.mean or one.tokens.mean < other.tokens.mean)


def efficiency(variant: Variant) -> float:
    """Accuracy per 100 tokens, in percentage points; 0 for a model that says nothing."""
    return 1e4 * variant.accuracy.mean / variant.tokens.mean if variant.tokens.mean else 0.0


def table(variants: Sequence[Variant]) -> str:
    """For the terminal."""
    front = pareto(variants)
    lines = [
        f"{'':<20}{'accuracy':>9}  {'95 % interval':<15}{'tokens':>8}{'median':>8}{'cut':>7}  "
        f"{'accuracy against long':<24}{'cap hit':>8}{'ungradable':>12}  front"
    ]
    for one in variants:
        interval = f"[{100 * one.accuracy.low:.1f}, {100 * one.accuracy.high:.1f}]"
        cut, against = "", ""
        if one.change is not None:
            cut = f"{-100 * one.change.tokens:.0f} %"
            against = f"{100 * one.change.accuracy:+.1f} [{100 * one.change.low:+.1f}, {100 * one.change.high:+.1f}]"
        lines.append(
            f"{TITLES[one.name]:<20}{100 * one.accuracy.mean:>7.1f} %  {interval:<15}{one.tokens.mean:>8.1f}"
            f"{one.median_tokens:>8.0f}{cut:>7}  {against:<24}{100 * one.truncated:>6.1f} %"
            f"{100 * one.ungradable:>10.1f} %  {'yes' if one.name in front else '-'}"
        )
    return "\n".join(lines)


def verdict(variants: Sequence[Variant]) -> list[str]:
    """What the comparison shows, in plain sentences."""
    made = [one for one in variants if one.change is not None and one.name != "short"]
    if not made:
        return ["nothing to compare: only the long model was judged"]
    return [_cuts(made), _ranking(made), _front(variants)]


def _cuts(made: Sequence[Variant]) -> str:
    good = [one for one in made if one.change and one.change.tokens <= -CUT and one.change.accuracy >= -LOSS]
    goal = f"{100 * CUT:.0f} % of the tokens at {100 * LOSS:.0f} points of accuracy or less"
    if not good:
        return f"no method saves {goal}"
    return f"{_and([TITLES[one.name] for one in good])} save{'s' if len(good) == 1 else ''} {goal}"


def _ranking(made: Sequence[Variant]) -> str:
    """The order by accuracy per token, and how far it is the paper's."""
    order = sorted(made, key=efficiency, reverse=True)
    found = "accuracy per token: " + " > ".join(f"{TITLES[one.name]} ({efficiency(one):.0f})" for one in order)
    ranked = [one for one in order if one.name in PAPER_ORDER]
    claimed = [name for name in PAPER_ORDER if name in {one.name for one in ranked}]
    if len(claimed) < 2:
        return found
    paper = " > ".join(TITLES[name] for name in claimed)
    if [one.name for one in ranked] == claimed:
        return f"{found}; k1.5 ranks them so, too ({paper})"
    undecided = [f"{TITLES[one.name]} and {TITLES[two.name]}" for one, two in pairwise(ranked) if _overlap(one, two)]
    note = f"; undecided, since both intervals overlap: {_and(undecided)}" if undecided else ""
    return f"{found}; k1.5's order is another: {paper}{note}"


def _overlap(one: Variant, two: Variant) -> bool:
    return all(a.low <= b.high and b.low <= a.high for a, b in ((one.accuracy, two.accuracy), (one.tokens, two.tokens)))


def _front(variants: Sequence[Variant]) -> str:
    front = pareto(variants)
    names = [TITLES[one.name] for one in sorted(variants, key=lambda v: v.tokens.mean) if one.name in front]
    return f"on the Pareto front, from short to long: {', '.join(names)}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
