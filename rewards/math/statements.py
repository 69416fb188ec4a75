"""Words and separators around values: bounds, labels, and which of several values belong together."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rewards.math.tree import NOBODY, Listing, Node, Num, Op, Relation, Sym, Text, Unit
from rewards.math.words import VALUE_WORDS, words

_APPROXIMATELY = frozenset({"approximately", "about", "approx", "approx.", "roughly", "around", "circa", "≈"})
QUANTIFIERS = frozenset({"every", "all", "any", "for all", "for every", "for any", "for each", "each"})
"""Words that may stand before an inequality which says for what something holds."""
BOUNDS = {
    "at least": ">=", "no less than": ">=", "not less than": ">=", "at most": "<=", "no more than": "<=",
    "not more than": "<=", "up to": "<=", "more than": ">", "greater than": ">", "over": ">", "above": ">",
    "less than": "<", "fewer than": "<", "under": "<", "below": "<", "minimum of": ">=", "maximum of": "<=",
    "greater than or equal to": ">=", "less than or equal to": "<=",
}  # fmt: skip
"""Words before a number that make it a bound."""
_WIDER = {"more": ">=", "greater": ">=", "larger": ">=", "higher": ">=", "above": ">=", "over": ">=", "less": "<=",
          "fewer": "<=", "smaller": "<=", "lower": "<=", "below": "<="}  # fmt: skip
_NO_LABEL = VALUE_WORDS | words("answer result correct reference final solution grader")
LABEL = re.compile(
    rf"(?!(?:.* )?(?:{'|'.join(re.escape(word) for word in sorted(_NO_LABEL))})\b)[a-z]+(?: [a-z]+){{0,2}} ?:"
)
"""Up to three words and a colon, which say what the value after them is: ``total:``."""


def is_approximate(text: str) -> bool:
    """Return whether words only say that a value is rounded."""
    return text in _APPROXIMATELY


def more_or_less(node: Node, text: str) -> Node | None:
    """Return the bound in "5 or more"; ``None`` for other words after an "or"."""
    first = text.lower().split(" ")[0]
    if first not in _WIDER or not isinstance(node, Num | Op | Unit | Sym):
        return None
    return Relation((NOBODY, node), (_WIDER[first],))


def grouped(items: Sequence[Node], labels: Sequence[str]) -> Node:
    """Several answers, in groups where the separators or the names say so: ``x=1, y=2; x=3, y=4``."""
    for label in (";", "or"):
        groups = _split(items, labels, label)
        alike = label == ";" or all(_names(group) == _names(groups[0]) != () for group in groups)
        if alike and len(groups) > 1 and any(len(group) > 1 for group in groups):
            return Listing(tuple(Listing(tuple(group)) if len(group) > 1 else group[0] for group in groups))
    names = _names(items)
    period = len(dict.fromkeys(names))
    if 1 < period < len(names) and names == names[:period] * (len(names) // period):
        return Listing(tuple(Listing(tuple(items[at : at + period])) for at in range(0, len(items), period)))
    joints = set(labels)
    return Listing(tuple(items), joints.pop() if len(joints) == 1 and joints <= {"and", "or"} else ",")


def _split(items: Sequence[Node], labels: Sequence[str], label: str) -> list[list[Node]]:
    groups: list[list[Node]] = [[items[0]]]
    for item, before in zip(items[1:], labels, strict=True):
        if before == label:
            groups.append([item])
        else:
            groups[-1].append(item)
    return groups


def _names(items: Sequence[Node]) -> tuple[str, ...]:
    """Return the names of equations that each give a value; empty when one gives none."""
    found = []
    for item in items:
        if not (isinstance(item, Relation) and item.signs == ("=",) and isinstance(item.sides[0], Sym | Text)):
            return ()
        name = item.sides[0]
        found.append(name.name if isinstance(name, Sym) else name.words)
    return tuple(found)
