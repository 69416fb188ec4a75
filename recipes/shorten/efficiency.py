"""Token efficiency: the Pareto front, and careful sentences on what the numbers show. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import hypot, inf

from recipes.shorten.results import TITLES, Variant
from rewards.stats import Estimate

CUT = 0.40
"""A method counts as a good cut when it saves this share of the tokens ..."""
LOSS = 0.02
"""... and loses at most this much accuracy."""
SLACK = 1e-9
"""Differences of rates carry rounding: a loss of exactly 2 points is within 2 points."""
PAPER_ORDER = ("rl", "dpo", "merge_rejection", "merge")
"""Token efficiency as k1.5 ranks it, best first [2501.12599 table 2]."""


def dominates(one: Variant, other: Variant) -> bool:
    """Return whether ``one`` is as good as ``other`` in both respects and better in one, by the point estimates."""
    better = one.accuracy.mean >= other.accuracy.mean and one.tokens.mean <= other.tokens.mean
    return better and (one.accuracy.mean > other.accuracy.mean or one.tokens.mean < other.tokens.mean)


def dominated_by(one: Variant, variants: Sequence[Variant]) -> tuple[str, ...]:
    """Return the names of the ``variants`` that dominate ``one``, in their order."""
    return tuple(other.name for other in variants if dominates(other, one))


def pareto(variants: Sequence[Variant]) -> frozenset[str]:
    """Return the names on the front: no other variant is at least as accurate and at most as long, and one of both
    strictly.
    """
    return frozenset(one.name for one in variants if not dominated_by(one, variants))


def ratio(top: Estimate, bottom: Estimate) -> Estimate:
    """Return ``top`` over ``bottom``, both >= 0, with a 95 % interval from theirs; 0 when ``bottom`` is 0.

    The two half-widths are added in quadrature, as if they were independent. Ours are of the same problems and mostly
    rise and fall together, so the interval is rather too wide than too narrow.
    """
    a, b, n = top.mean, bottom.mean, min(top.n, bottom.n)
    if b <= 0:
        return Estimate(0.0, 0.0, inf, n)
    low = a / b - hypot((a - top.low) / b, a / b - a / bottom.high)
    high = a / b + hypot((top.high - a) / b, a / bottom.low - a / b) if bottom.low > 0 else inf
    return Estimate(a / b, max(0.0, low), high, n)


def more(ahead: Estimate, behind: Estimate) -> bool:
    """Return whether ``ahead`` is larger at 95 %, the errors added in quadrature."""
    return ahead.mean - behind.mean > hypot(ahead.mean - ahead.low, behind.high - behind.mean)


def efficiency(variant: Variant) -> Estimate:
    """Return accuracy per token, as percentage points per 100 tokens; 0 for a model that says nothing.

    One number ranks, but it favours short and poor answers: the front says what is worth having.
    """
    found = ratio(variant.accuracy, variant.tokens)
    return Estimate(1e4 * found.mean, 1e4 * found.low, 1e4 * found.high, found.n)


def decided(one: Variant, other: Variant) -> bool:
    """Return whether the 95 % interval of the difference in accuracy per token leaves 0 out."""
    ahead, behind = sorted((efficiency(one), efficiency(other)), key=lambda e: e.mean, reverse=True)
    return more(ahead, behind)


def token_change(variant: Variant, long: Variant) -> Estimate:
    """Return mean response tokens over the long model's, minus 1, with its 95 % interval."""
    found = ratio(variant.tokens, long.tokens)
    return Estimate(found.mean - 1, found.low - 1, found.high - 1, found.n)


HEAD = (
    f"{'':<19}{'accuracy':>8}  {'95 %':<14}{'tokens':>7}{'median':>8}  {'tokens against long':<20}"
    f"  {'points against long':<20}{'cap hit':>8}{'ungradable':>12}  front"
)


def table(variants: Sequence[Variant]) -> str:
    """Return the table for the terminal; intervals are 95 %."""
    front = pareto(variants)
    long = next((one for one in variants if one.name == "long"), None)
    return "\n".join([HEAD, *(_row(one, long, one.name in front) for one in variants)])


def _row(one: Variant, long: Variant | None, on_front: bool) -> str:
    tokens = points = ""
    if one.change is not None:
        points = f"{_signed(one.change.accuracy)} [{_signed(one.change.low)}, {_signed(one.change.high)}]"
        if long is not None:
            change = token_change(one, long)
            tokens = f"{100 * change.mean:+.0f} % [{100 * change.low:+.0f}, {100 * change.high:+.0f}]"
    interval = f"[{100 * one.accuracy.low:.1f}, {100 * one.accuracy.high:.1f}]"
    return (
        f"{TITLES[one.name]:<19}{100 * one.accuracy.mean:>6.1f} %  {interval:<14}{one.tokens.mean:>7.1f}"
        f"{one.median_tokens:>8.1f}  {tokens:<20}  {points:<20}{100 * one.truncated:>6.1f} %"
        f"{100 * one.ungradable:>10.1f} %  {'yes' if on_front else '-'}"
    )


def _signed(share: float) -> str:
    """Return a difference of shares in percentage points, with its sign."""
    return f"{100 * share:+.1f}"


def verdict(variants: Sequence[Variant]) -> list[str]:
    """Return what the comparison shows, in plain sentences."""
    made = [one for one in variants if one.change is not None and one.name != "short"]
    long = next((one for one in variants if one.name == "long"), None)
    if long is None or not made:
        return ["There is nothing to compare: no method was judged beside the long model."]
    return [_cuts(made, long), *_ranking(made), *_paper(made), _front(variants)]


def _cuts(made: Sequence[Variant], long: Variant) -> str:
    """Return a sentence on the methods that save enough at a small loss, and whether the intervals agree."""
    goal = f"at least {100 * CUT:.0f} % of the tokens at a loss of at most {100 * LOSS:.0f} points of accuracy"
    pairs = [(one, one.change) for one in made if one.change is not None]
    good = [(v, c) for v, c in pairs if c.tokens <= SLACK - CUT and c.accuracy >= -LOSS - SLACK]
    if not good:
        return f"No method saves {goal}."
    named = [f"{TITLES[v.name]} ({100 * c.tokens:+.0f} % tokens, {_signed(c.accuracy)} points)" for v, c in good]
    worse = [
        f"{TITLES[v.name]} (down to {_signed(c.low)} points, {100 * token_change(v, long).high:+.0f} % tokens)"
        for v, c in good
        if c.low < -LOSS - SLACK or token_change(v, long).high > SLACK - CUT
    ]
    caution = f" The 95 % intervals do not exclude a worse trade for {_and(worse)}." if worse else ""
    return f"These save {goal}: {_and(named)}.{caution}"


def _ranking(made: Sequence[Variant]) -> list[str]:
    if len(made) < 2:
        return []
    order = _by_efficiency(made)
    named = ", ".join(f"{TITLES[one.name]} {efficiency(one).mean:.3g}" for one in order)
    return [f"Points of accuracy per 100 tokens, best first: {named}.{_undecided(order)}"]


def _paper(made: Sequence[Variant]) -> list[str]:
    """Return sentences on how far the order agrees with the paper's."""
    ranked = _by_efficiency([one for one in made if one.name in PAPER_ORDER])
    claimed = [name for name in PAPER_ORDER if name in {one.name for one in ranked}]
    if len(claimed) < 2:
        return []
    paper = f"k1.5 ranks {' > '.join(TITLES[name] for name in claimed)}"
    if [one.name for one in ranked] == claimed:
        return [f"{paper}; so do these numbers.{_undecided(ranked)}"]
    turned = [(b, a) for i, b in enumerate(ranked) for a in ranked[i + 1 :] if _rank(b) > _rank(a)]
    surely = [f"{TITLES[b.name]} over {TITLES[a.name]}" for b, a in turned if decided(b, a)]
    maybe = [f"{TITLES[b.name]} over {TITLES[a.name]}" for b, a in turned if not decided(b, a)]
    parts = [f"these numbers say {' > '.join(TITLES[one.name] for one in ranked)}"]
    parts += [f"turned round beyond the 95 % intervals: {', '.join(surely)}"] if surely else []
    parts += [f"turned round, but not decided: {', '.join(maybe)}"] if maybe else []
    return [f"{paper}; {'; '.join(parts)}."]


def _rank(variant: Variant) -> int:
    return PAPER_ORDER.index(variant.name)


def _by_efficiency(variants: Sequence[Variant]) -> list[Variant]:
    return sorted(variants, key=lambda one: efficiency(one).mean, reverse=True)


def _undecided(order: Sequence[Variant]) -> str:
    pairs = [f"{TITLES[one.name]} / {TITLES[two.name]}" for one, two in pairwise(order) if not decided(one, two)]
    return f" Not decided at 95 %: {_and(pairs)}." if pairs else ""


def _front(variants: Sequence[Variant]) -> str:
    """Return a sentence on the front, and for every other variant on the best one that dominates it."""
    by_length = sorted(variants, key=lambda one: one.tokens.mean)
    beaten: dict[str, list[str]] = {}
    for one in by_length:
        rivals = [other for other in variants if dominates(other, one)]
        if rivals:
            best = max(rivals, key=lambda other: (other.accuracy.mean, -other.tokens.mean))
            beaten.setdefault(TITLES[best.name], []).append(TITLES[one.name])
    front = pareto(variants)
    on = ", ".join(TITLES[one.name] for one in by_length if one.name in front)
    rest = [f" {best} is at least as accurate and as short as {_and(names)}." for best, names in beaten.items()]
    return f"On the Pareto front by the point estimates, from short to long: {on}.{''.join(rest)}"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
