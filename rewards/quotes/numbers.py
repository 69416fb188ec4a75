"""Numbers of a response: which are given, which are computed, and which come from nowhere.

A number has *firm* support where it stands in the prompt in any written form, in an earlier line, or is what an
expression comes to. It has *weak* support where a reader would know it (units, the rest of a share, how many names are
listed) or finds it in one step. What weak support is worth depends on the place: in prose and in an equation that is
exactly true it counts, in one that is not true it does not: one of its numbers is wrong, and the firm ones are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rewards.quotes.equations import Equation, Expression, Holds, equations, expressions
from rewards.quotes.numerals import fractions
from rewards.quotes.pool import Key, Pool, listed
from rewards.quotes.tokens import Kind, Token, rounded

SMALL = 10
"""Numbers in words up to this one claim nothing: ``the two of them``."""
KNOWN = frozenset({"unit", "word", "rest", "share", "rounded", "terms", "whole", "part"})
"""Weak support of operands where nothing proves their equation."""
COUNTED = KNOWN | {"count"}
"""The same outside of equations."""
ANY = COUNTED | {"step"}
"""All weak support: of numbers in prose, in algebra, and in equations that are exactly true."""
_KINDS = {Holds.ROUNDED: KNOWN, Holds.NOT: frozenset[str]()}


@dataclass(frozen=True)
class Claim:
    """A number that a response uses."""

    token: Token
    by: str
    """What supports it; empty: nothing."""


@dataclass(frozen=True)
class Slip:
    """An equation that does not hold, from its first to its last number."""

    start: int
    end: int


def judge_numbers(
    prompt: str, lines: Sequence[Sequence[Token]], answers: frozenset[int] = frozenset()
) -> tuple[list[Claim], list[Slip]]:
    """Return the numbers of a response with what supports them, and its equations that do not hold.

    ``lines``: the tokens of its lines; ``answers``: the places of its answers (``rewards.quotes.lines``).
    """
    pool = Pool.of(prompt, frozenset(t.text.lower() for line in lines for t in line if t.kind is Kind.WORD))
    claims: list[Claim] = []
    slips: list[Slip] = []
    for line in lines:
        found = expressions(line)
        joined = equations(line, found)
        computing = [expression for expression in found if expression.computes]
        slips += [Slip(e.left.items[0].start, e.right.items[-1].end) for e in joined if e.holds is Holds.NOT]
        for expression in computing:
            pool.learn(expression)
        pool.count(listed(line))
        claims += _of_line(line, computing, joined, pool, answers)
        for value in [value for e in computing for value in e.values] + [a / b for a, b in fractions(line) if b]:
            pool.add(value, rounded(value), "computed")
    return claims, slips


def _of_line(
    line: Sequence[Token],
    computing: Sequence[Expression],
    joined: Sequence[Equation],
    pool: Pool,
    answers: frozenset[int],
) -> Iterator[Claim]:
    """Yield the claims of a line."""
    results, kinds = _results(computing, joined), _kinds(computing, joined)
    for token in line:
        if token.kind is not Kind.NUMBER or token.named:
            continue
        if token.spelled and token.value is not None and token.value <= SMALL:
            pool.say(token.value)
            continue
        by = pool.firmly(token) or ("computed" if token.key in results else "")
        by = by or pool.weakly(token.key, kinds.get(token.start, ANY))
        yield Claim(token, by or ("answer" if token.start in answers and token.start not in kinds else ""))
        pool.add(token.value, token.key, "earlier")


def _results(computing: Sequence[Expression], joined: Sequence[Equation]) -> set[Key]:
    """Return what a line computes: the values of its expressions, and the results of equations that hold, or that
    cannot be read since words stand for a number in them.
    """
    found: set[Key] = {rounded(value) for expression in computing for value in expression.values}
    for equation in joined:
        for side, other in ((equation.left, equation.right), (equation.right, equation.left)):
            fine = equation.holds in (Holds.EXACTLY, Holds.ROUNDED) or (equation.holds is Holds.UNKNOWN and other.lacks)
            if fine and side.is_one and other.computes:
                found |= {number.key for number in side.numbers}
    return found


def _kinds(computing: Sequence[Expression], joined: Sequence[Equation]) -> dict[int, frozenset[str]]:
    """Return which weak support counts for the numbers of expressions, by their place."""
    found: dict[int, frozenset[str]] = {}
    for expression in computing:
        found |= dict.fromkeys((n.start for n in expression.numbers), ANY if expression.algebra else COUNTED)
    for equation in joined:
        if equation.holds is Holds.EXACTLY:
            found |= dict.fromkeys((n.start for n in equation.numbers), ANY)
    for equation in joined:  # in a chain the worst counts
        if (counted := _KINDS.get(equation.holds)) is not None:
            for number in equation.numbers:
                found[number.start] = found.get(number.start, counted) & counted
    return found
