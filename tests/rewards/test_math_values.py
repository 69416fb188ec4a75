"""Values with their errors, points of comparison, and sets of real numbers: the parts below the maths grader."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mpmath import mp

from rewards.math import equality, exact
from rewards.math.clean import clean
from rewards.math.exact import Beyond, TooLarge
from rewards.math.grade import grade
from rewards.math.intervals import real_set
from rewards.math.numeric import EXACT, Uncertain, at, magnitude
from rewards.math.points import points
from rewards.math.readings import read
from rewards.math.tree import Expr, Num, Op, Sym
from rewards.math.units import conversion, meaning
from rewards.math.words import number_of

NUMBERS = st.builds(lambda upper, lower: Num(Fraction(upper, lower)), st.integers(0, 200), st.integers(1, 12))
CONSTANTS = st.sampled_from([Sym("pi"), Sym("e"), Sym("i"), Num(Fraction(1, 10**20)), Num(Fraction(10**20))])
UNARY = ["neg", "abs", "sin", "cos", "tan", "arctan", "arcsin", "sinh", "tanh", "fact"]


def deeper(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    return st.one_of(
        st.builds(lambda args: Op("add", tuple(args)), st.lists(inner, min_size=2, max_size=4)),
        st.builds(lambda args: Op("mul", tuple(args)), st.lists(inner, min_size=2, max_size=4)),
        st.builds(lambda one, other: Op("div", (one, other)), inner, inner),
        st.builds(lambda one, other: Op("pow", (one, other)), inner, st.one_of(NUMBERS, inner)),
        st.builds(lambda one, degree: Op("root", (one, Num(Fraction(degree)))), inner, st.integers(2, 5)),
        st.builds(lambda one, base: Op("log", (one, base)), inner, st.sampled_from([Sym("e"), Sym("ten")])),
        st.builds(lambda name, one: Op(name, (one,)), st.sampled_from(UNARY), inner),
    )  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(st.recursive(st.one_of(NUMBERS, CONSTANTS), deeper, max_leaves=8))
@example(Op("sin", (Op("mul", (Sym("i"), Op("pow", (Num(Fraction(17)), Num(Fraction(46)))))),)))
@example(Op("sin", (Op("div", (Op("div", (Num(Fraction(1)), Sym("pi"))), Num(Fraction(1, 10**80)))),)))
@example(Op("tanh", (Op("log", (Op("add", (Sym("i"), Num(Fraction(1, 10**20)))), Sym("e"))),)))
@example(Op("arctan", (Op("div", (Sym("pi"), Op("div", (Sym("i"), Num(Fraction(1, 10**20)))))),)))
def test_the_true_value_lies_within_the_error(node: Expr) -> None:
    try:
        (rough, error), _ = at(node, {}, 150)
        (fine, finer), _ = at(node, {}, 1500)
    except (Beyond, TooLarge, Uncertain):
        return
    with mp.workprec(1600):
        gap = abs(rough - fine)
        assert gap == 0 or magnitude(gap) <= max(error, finer) + 1, (node, error, magnitude(gap))


def one(text: str) -> Expr:
    node = read(clean(text))[0]
    assert isinstance(node, Num | Sym | Op)
    return node


@pytest.mark.parametrize(
    "reference",
    [r"\sqrt{(x-7)(8-x)}", r"\arccos(x-40)", r"\arcsin(100x)", r"\ln(5-x)+\ln(x-4)", r"\sqrt{1-p^2}\sqrt{q}",
     r"\sqrt{-x}", r"\ln(\ln x)", r"\sqrt{\sin x}", r"\frac{1-\sqrt{1-4x}}{2x}", r"\sqrt{x^2-10000}"],
)  # fmt: skip
def test_points_lie_in_the_domain_of_the_reference(reference: str) -> None:
    node = one(reference)
    found = points(node)
    assert len(found) >= 3
    assert all(not mp.im(equality.steady(node, point, 300)[0]) for point in found)


def test_a_reference_without_a_value_has_no_points() -> None:
    assert points(one(r"\frac{1}{x-x}")) == ()
    with pytest.raises(equality.NoReference):
        equality.identical(one(r"\frac{1}{x-x}"), one("x"))


def test_natural_points_are_the_choice_of_the_reference() -> None:
    natural, real = one("(-1)^n n"), one("n^2")
    assert all(value.denominator == 1 for point in points(natural) for value in point.values())
    assert all(value.denominator > 1 for point in points(real) for value in point.values())


def test_no_exponent_vanishes_modulo_the_primes() -> None:
    first, second, third = exact.primes()
    period = (first - 1) * (second - 1) * (third - 1)
    with pytest.raises(TooLarge):
        exact.identical(one(f"x^{{{period + 1}}}"), one("x"))
    assert not exact.identical(one(f"{1 + first * second * third}x"), one("2x"))
    assert exact.identical(one("(x+1)^2"), one("x^2+2x+1"))


@pytest.mark.parametrize(
    ("gold", "found", "sign"), [("x+y-1", "2x+2y-2", 1), ("x+y-1", "1-x-y", -1), ("x+y-1", "x+y", 0), ("x", "x^2", 0)]
)
def test_proportions(gold: str, found: str, sign: int) -> None:
    assert exact.proportion(one(gold), one(found)) == sign
    assert equality.proportion(one(gold), one(found)) == sign


@pytest.mark.parametrize(
    ("text", "count"),
    [(r"[0,1]\cup[1,2]", 1), (r"[0,1)\cup(1,2]", 2), (r"x\ne3", 2), (r"x<2\text{ and }x>5", 0),
     (r"x>2\text{ and }x<5", 1), (r"\mathbb{R}\setminus\{0,1\}", 3), (r"\mathbb{R}", 1), (r"(1,0)", 0),
     (r"[1,3]\cap[2,4]", 1), (r"x<2\text{ or }x>5", 2)],
)  # fmt: skip
def test_sets_are_intervals(text: str, count: int) -> None:
    def order(one: Expr, other: Expr) -> int:
        return equality.order(one, other)

    found = real_set(read(clean(text))[0], order)
    assert found is not None
    assert len(found) == count


@pytest.mark.parametrize(
    ("words", "expected"),
    [("millions", (Fraction(10**6), "")), ("dozen eggs", (Fraction(12), "egg")), ("thirds", (Fraction(1, 3), "")),
     ("m/s^2", (Fraction(1), "m*s^-2")), ("square inches", (Fraction(1), "in^2")), ("apples", (Fraction(1), "apple")),
     ("percent of a half", None), ("perhaps", None), ("x", None), ("squared", None), ("or six", None)],
)  # fmt: skip
def test_words_beside_a_value(words: str, expected: tuple[Fraction, str] | None) -> None:
    assert meaning(words) == expected


def test_units_convert_by_their_dimensions() -> None:
    assert conversion("m/s", "km/h") == Fraction(5, 18)
    assert conversion("J", "N*m") == 1
    assert conversion("cm", "") == conversion("", "cm") == 1
    assert conversion("m", "s") is conversion("degC", "degF") is conversion("m", "apple") is None


def test_number_words() -> None:
    named = {"six": 6, "twenty-one": 21, "three hundred and five": 305, "two thousand": 2000}
    assert {text: number_of(text) for text in named} == named
    assert number_of("twenty thirty") is number_of("apples") is number_of("") is None


def test_an_error_of_zero_is_exact() -> None:
    assert at(one(r"2^{10}+1"), {}, 200)[0] == (1025, EXACT)


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        (r"(-5,-2] \cup (-1,3]", r"(-1,3]\cup(-5,-2]", True),
        (r"(-5,-2] \cup (-1,3]", r"(-5,-2] \cup (-1,3)", False),
        (r"(-\infty, 0] \cup (\tfrac12, \tfrac32]", r"(-\infty,0]\cup(0.5,1.5]", True),
        ("]1,2]", "(1,2]", True),
        (r"]1,2[ \cup ]3,4[", r"(1,2)\cup(3,4)", True),
        (r"]1,2[ \cup ]3,4[", r"[1,2]\cup(3,4)", False),
    ],
)
def test_half_open_intervals_are_no_brackets_turned_outwards(gold: str, answer: str, same: bool) -> None:
    """``] \\cup (-1,3]`` between two half-open ones looks like an interval of its own."""
    assert grade(gold, rf"\boxed{{{answer}}}").verdict == ("correct" if same else "wrong")


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        (r"\lfloor x\rfloor", r"x", "wrong"),
        (r"\lfloor x\rfloor", r"\lceil x\rceil", "wrong"),
        (r"x-\lfloor x\rfloor", r"0", "wrong"),
        (r"\lfloor 2x\rfloor", r"2\lfloor x\rfloor", "wrong"),
        (r"\lfloor x\rfloor+\lfloor y\rfloor", r"x+y", "wrong"),
        (r"f(x)=x-\lfloor x\rfloor", r"f(x)=0", "wrong"),
        (r"\lfloor n/2\rfloor", r"\frac{2n-1+(-1)^n}{4}", "correct"),
        (r"\lfloor n/2\rfloor", r"n/2", "wrong"),
        (r"\lfloor x+1\rfloor", r"\lfloor x\rfloor+1", "correct"),
        (r"-\lfloor -x\rfloor", r"\lceil x\rceil", "correct"),
    ],
)
def test_rounding_makes_a_real_variable_no_natural_number(gold: str, answer: str, verdict: str) -> None:
    assert grade(gold, rf"\boxed{{{answer}}}").verdict == verdict
