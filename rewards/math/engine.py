"""Comparison of values: by exact arithmetic in the calling process, or by evaluation in a grading process."""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

from rewards.math import exact
from rewards.math.exact import Beyond, TooLarge
from rewards.math.forms import canonical
from rewards.math.tree import Expr


class Undecided(Exception):
    """Exact arithmetic cannot tell; a grading process has to."""


class Engine(Protocol):
    """Questions about values. The reference comes first: it alone says where they are asked."""

    reason: str
    """Why the last answer that was no was no, beyond "another value"."""

    def equal(self, gold: Expr, found: Expr, tolerance: Fraction | None) -> bool:
        """Return whether both have the same value, up to a tolerance if one is given, wherever ``gold`` has one."""
        ...

    def proportion(self, gold: Expr, found: Expr) -> int:
        """Return the sign of the constant that ``found / gold`` is; 0 when it is none."""
        ...

    def vanishes(self, node: Expr, domain: Expr) -> bool:
        """Return whether an expression is 0 wherever ``domain`` has a value."""
        ...

    def order(self, one: Expr, other: Expr) -> int:
        """-1, 0 or 1: how two constants compare. Raises ``Beyond`` when they do not."""
        ...


class Exact:
    """Without any risk in time or memory; raises ``Undecided`` where roots and the like come in."""

    reason = ""

    def equal(self, gold: Expr, found: Expr, tolerance: Fraction | None) -> bool:
        """See ``Engine``."""
        if gold == found:
            return True
        try:
            if tolerance is not None:
                return abs(exact.rational(gold) - exact.rational(found)) <= tolerance
            return exact.identical(gold, found)
        except (Beyond, TooLarge) as error:
            raise Undecided from error

    def proportion(self, gold: Expr, found: Expr) -> int:
        """See ``Engine``."""
        try:
            return exact.proportion(gold, found)
        except (Beyond, TooLarge) as error:
            raise Undecided from error

    def vanishes(self, node: Expr, domain: Expr) -> bool:  # noqa: ARG002 rational functions have values nearly everywhere
        """See ``Engine``."""
        try:
            return exact.is_zero(node)
        except (Beyond, TooLarge) as error:
            raise Undecided from error

    def order(self, one: Expr, other: Expr) -> int:
        """See ``Engine``."""
        try:
            left, right = exact.rational(one), exact.rational(other)
        except (Beyond, TooLarge) as error:
            raise Undecided from error
        return (left > right) - (left < right)


class Numeric:
    """Compares by exact arithmetic where it can, else by evaluation; for grading processes."""

    def __init__(self) -> None:
        self.exact = Exact()
        self.reason = ""

    def equal(self, gold: Expr, found: Expr, tolerance: Fraction | None) -> bool:
        """See ``Engine``. A reference without a value is equal to what is written alike."""
        from rewards.math import equality

        try:
            return self.exact.equal(gold, found, tolerance)
        except Undecided:
            pass
        try:
            return equality.identical(gold, found, tolerance)
        except equality.NoReference:
            self.reason = "written otherwise than a reference that has no value"
            return canonical(gold) == canonical(found)
        except (Beyond, TooLarge) as error:
            self.reason = f"cannot be worked out: {error}"
            return False

    def proportion(self, gold: Expr, found: Expr) -> int:
        """See ``Engine``."""
        from rewards.math import equality

        try:
            return self.exact.proportion(gold, found)
        except Undecided:
            pass
        try:
            return equality.proportion(gold, found)
        except (equality.NoReference, Beyond, TooLarge) as error:
            self.reason = f"cannot be worked out: {error}"
            return 0

    def vanishes(self, node: Expr, domain: Expr) -> bool:
        """See ``Engine``."""
        from rewards.math import equality

        try:
            return self.exact.vanishes(node, domain)
        except Undecided:
            pass
        try:
            return equality.vanishes(node, domain)
        except equality.NoReference as error:
            self.reason = f"cannot be worked out: {error}"
            return False

    def order(self, one: Expr, other: Expr) -> int:
        """See ``Engine``."""
        from rewards.math import equality

        try:
            return self.exact.order(one, other)
        except Undecided:
            pass
        try:
            return equality.order(one, other)
        except equality.NoReference as error:
            raise Beyond(str(error)) from error
