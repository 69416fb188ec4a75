"""Several answers, sets, tuples and systems: which item is which."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rewards.math.forms import has_dots, named_value, system, unnamed
from rewards.math.tree import Listing, Node, Relation, Seq, SetOf
from rewards.math.verdict import SAME, Verdict, differs

Compare = Callable[[Node, Node], Verdict]


class Collections:
    """Compares collections, with ``compare`` for their items.

    ``strict``: each item has exactly one partner, also in sets; under a tolerance several items may be close to one.
    """

    def __init__(self, compare: Compare, strict: bool) -> None:
        self.compare = compare
        self.strict = strict

    def collections(self, gold: Node, found: Node) -> Verdict:
        """Several answers, or a set: in any order; an assignment of values to names, name by name."""
        assigned = self.systems(gold, found)
        if assigned is not None:
            return assigned
        if not isinstance(gold, Listing | SetOf):
            one = "several answers where one is asked" if isinstance(found, Listing) else "a set where none is asked"
            return differs(one)
        if isinstance(found, Relation) and isinstance(gold, SetOf):
            named = named_value(found)
            found = named[1] if named else found
        if isinstance(found, Listing | SetOf):
            items = found.items
        elif len(gold.items) == 1 and isinstance(gold, SetOf):
            items = (found,)
        else:
            return differs("one answer where several are asked")
        if has_dots(gold.items) or has_dots(items):
            return self.ordered(gold.items, items)
        # "x = 1, 2": the name counts for all that follow it.
        expected, actual = unnamed(gold.items), unnamed(items)
        if isinstance(gold, SetOf) and isinstance(found, SetOf) and not self.strict:
            return self.covering(expected, actual)
        return self.unordered(expected, actual)

    def systems(self, gold: Node, found: Node) -> Verdict | None:
        """``x = 1, y = 2`` and the like; ``None`` when neither side is an assignment."""
        one, other = system(gold), system(found)
        if one is None and other is None:
            return None
        if one is not None and other is not None:
            return self.assignments(one, other)
        values = tuple(value for _, value in one or other or ())
        if isinstance(gold, Listing) and one is None:
            return None  # 2, 3 and x = 2, y = 3: the reference has no names, and no order
        there = found if one is not None else gold
        if (isinstance(there, Seq) and there.opening == "(" and there.closing == ")") or (
            isinstance(there, Listing) and not any(isinstance(item, Relation | Listing) for item in there.items)
        ):
            items = there.items
        else:
            return differs("an assignment of values to names is asked" if one is not None else "another form")
        return self.ordered(values, items) if one is not None else self.ordered(items, values)

    def assignments(self, gold: Sequence[tuple[Node, Node]], found: Sequence[tuple[Node, Node]]) -> Verdict:
        """Return two assignments: the same names, with the same values."""
        by_name = dict(found)
        if len(gold) != len(found) or {name for name, _ in gold} != by_name.keys():
            return differs("other names")
        for name, value in gold:
            verdict = self.compare(value, by_name[name])
            if not verdict.same:
                return verdict
        return SAME

    def ordered(self, golds: Sequence[Node], founds: Sequence[Node]) -> Verdict:
        """Item by item."""
        if len(golds) != len(founds):
            return differs(f"{len(founds)} items where {len(golds)} are asked")
        for gold, found in zip(golds, founds, strict=True):
            verdict = self.compare(gold, found)
            if not verdict.same:
                return verdict
        return SAME

    def covering(self, golds: Sequence[Node], founds: Sequence[Node]) -> Verdict:
        """Return two sets: every item of one is one of the other; how often it is written does not count."""
        if len(founds) > 2 * len(golds) + 2:
            return differs("more items than the set has")
        missing = set(range(len(founds)))
        for gold in golds:
            same = [index for index, found in enumerate(founds) if self.compare(gold, found).same]
            if not same:
                return differs("another answer among several")
            missing -= set(same)
        return differs("another answer among several") if missing else SAME

    def unordered(self, golds: Sequence[Node], founds: Sequence[Node]) -> Verdict:
        """Return every item once, in any order: each finds a partner, if need be one that another item gives up
        for it.
        """
        if len(golds) != len(founds):
            return differs(f"{len(founds)} answers where {len(golds)} are asked")
        known: dict[tuple[int, int], Verdict] = {}
        partner: dict[int, int] = {}  # of each found item, the gold item

        def verdict(gold: int, found: int) -> Verdict:
            if (gold, found) not in known:
                known[gold, found] = self.compare(golds[gold], founds[found])
            return known[gold, found]

        def place(gold: int, tried: set[int]) -> bool:
            order = sorted(range(len(founds)), key=lambda found: found in partner)
            for found in order:
                if found in tried or not verdict(gold, found).same:
                    continue
                tried.add(found)
                if found not in partner or (self.strict and place(partner[found], tried)):
                    partner[found] = gold
                    return True
            return False

        for gold in range(len(golds)):
            if not place(gold, set()):
                reasons = [known[pair].reason for pair in known if pair[0] == gold]
                worked = next((reason for reason in reasons if reason.startswith("not worked out")), "")
                return differs(worked or "another answer among several")
        return SAME
