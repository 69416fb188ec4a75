r"""What the maths grader accepts and refuses: spellings, attacks, extraction, tolerance, generated values."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.gsm8k import verify_gsm8k
from rewards.math.clean import is_list_of_numbers
from rewards.math.grade import grade
from rewards.math.verify import verify_math
from rewards.math.words import words
from tests.equal_math import pairs
from tests.hostile_math import ATTACKS, Attack

WORST_S = 1.2
"""No item may take longer."""


def boxed(answer: str) -> str:
    return f"<think>Let me see.</think>The answer is $\\boxed{{{answer}}}$."


@pytest.fixture(scope="module", autouse=True)
def started() -> None:
    """The pool's start is nobody's item."""
    assert grade(r"\sqrt{8}", boxed(r"2\sqrt{2}")).correct


@pytest.mark.parametrize(("gold", "answer"), pairs())
def test_every_spelling_of_an_answer_is_right(gold: str, answer: str) -> None:
    score = grade(gold, boxed(answer))
    assert score.verdict == "correct", score


@pytest.mark.parametrize("kind", sorted({attack.kind for attack in ATTACKS}))
def test_no_attack_earns_a_reward_or_a_mask(kind: str) -> None:
    """Wrong, not ungradable: a policy must not be able to mask a wrong answer."""
    for attack in [attack for attack in ATTACKS if attack.kind == kind]:
        began = time.process_time()  # the grading process has a limit of its own
        score = grade(attack.gold, attack.response, rule=attack.rule)
        took = time.process_time() - began
        assert score.verdict == "wrong", (attack.gold, attack.response[-200:], score)
        assert score.reason
        assert "\n" not in score.reason
        assert len(score.reason) < 200
        assert took < WORST_S, (took, attack.response[:100])


N = 1_000_000
LONG = [
    "<" + " " * N, "<think" + " " * N, "<think a" + " " * N, "<" * N, "\\boxed" + " " * N, "\\boxed{1}" + " " * N,
    "\\boxed{1}" + "\n" * N, "\\boxed{1}" + "-" * N, "(" * N + "\\boxed{1}",
    "1," * (N // 2) + "\\boxed{1}", "\\boxed{1} or" + " " * N,
    "#### " + " " * N, "A:" + "*" * N, "\n" * N, "1 " * (N // 2), "1," * (N // 2), "." * N, "-" * N, "$" * N + "1",
    "\\" * N + "\\boxed{1}", "\\boxed{1}\\" * (N // 11), "a" * N, "\\boxed{" + " " * 900 + "1}",
    "\\boxed{" + "\\text{" * 150 + "1" + "}" * 151, "\\boxed{" + "1\\pm 1," * 100 + "1}", "\\boxed{" + "|" * 900 + "}",
    "\\boxed{" + "{" * 40 + "\\pm 1" + "}" * 41, "\\boxed{" + "[1," * 39 + "\\pm1" + "]" * 39 + "}",
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(LONG)))
def test_reading_takes_linear_time(number: int) -> None:
    for gold, rule in (("42", "boxed"), ("1,2,3", "boxed"), ("42", "gsm8k")):
        began = time.process_time()
        assert grade(gold, LONG[number], rule=rule).verdict == "wrong"
        assert time.process_time() - began < 2 * WORST_S


def test_the_answer_after_an_attack_still_grades() -> None:
    for attack in (Attack("tower", r"\sqrt{42}", boxed("9^{9^{9^9}}")), Attack("flood", "1", "{" * 1_000_000)):
        assert grade(attack.gold, attack.response).verdict == "wrong"
        assert grade(r"\sqrt{12}", boxed(r"2\sqrt{3}")).correct


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("The answer is 42.", "no \\boxed{} answer"),
        ("<think>\\boxed{42}", "no \\boxed{} answer"),
        ("\\boxed{ }", "empty \\boxed{}"),
        ("\\boxed{" + "4" * 2000 + "}", "longer than 1000 characters"),
        ("\\boxed{41, 42}", "several answers where one is asked"),
        ("\\boxed{41 + 1 = 42}", "a relation where a value is asked"),
        ("\\boxed{x = 40 + 2 = 42}", "a chain of equations"),
        ("\\boxed{\\sum_{k=1}^6 2k}", "not worked out: a sum sign is left standing"),
        ("\\boxed{40 + 2}", "not worked out: the reference is a plain number"),
        ("\\boxed{4\u200b2}", "invisible or control characters"),
        ("\\boxed{41}", "another value"),
        ("\\boxed{42} or 43", "several answers where one is asked"),
    ],
)
def test_wrong_says_why(response: str, reason: str) -> None:
    score = grade("42", response)
    assert score.verdict == "wrong"
    assert reason in score.reason


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        ("#### $1,234.50", "1234.5", True),
        ("#### 18 dollars per day.", "18", True),
        ("#### 50%", "50", True),
        ("#### 1/2", "0.5", True),
        ("4.0", "4", True),
        ("#### 4", "some reasoning\n#### 4", True),
        ("A: 26", "26", True),
        ("it is 5", "-5", False),
        ("#### none, it is 4", "4", False),
        ("4 apples, not 5", "4", False),
    ],
)
def test_gsm8k(response: str, gold: str, right: bool) -> None:
    assert verify_gsm8k(response, gold).correct is right


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        (r"$\boxed{\frac{1}{2}}$ or $0.5$.", "correct"),
        (r"$\boxed{\frac{1}{2}}$, or equivalently $\boxed{0.5}$", "correct"),
        (r"$\boxed{\frac{1}{2}}$ or $0.6$.", "wrong"),
        (r"$\boxed{\frac{1}{2}}$ or $\boxed{0.6}$.", "wrong"),
        (r"$\boxed{\frac{1}{2}, 0.5}$", "wrong"),
    ],
)
def test_two_spellings_of_one_answer_are_one(response: str, verdict: str) -> None:
    assert grade("0.5", response).verdict == verdict


def test_format_part_says_whether_the_answer_was_marked() -> None:
    assert verify_gsm8k("#### 4", "4").parts == {"format": 1.0}
    assert verify_gsm8k("4", "4").parts == {"format": 0.0}
    assert verify_math(boxed("4"), "4").parts == {"format": 1.0}
    assert verify_math("4", "4").parts == {"format": 0.0}


@pytest.mark.parametrize("gold", ["", "  ", "$$", "4\u200b2"])
def test_a_reference_that_says_nothing_is_ungradable(gold: str) -> None:
    assert grade(gold, boxed("42")).verdict == "ungradable"


def test_a_reference_that_cannot_be_worked_out_still_has_its_own_spelling() -> None:
    """It can be read, so no answer to it is ungradable."""
    for gold, alike in (
        (r"9^{9^{9^9}}+\sqrt{2}", r"\sqrt{2}+9^{9^{9^9}}"),
        ("0^0", "0^{0}"),
        (r"\gcd(a,b)", r"\gcd(b,a)"),
    ):
        assert grade(gold, boxed(gold)).correct
        assert grade(gold, boxed(alike)).correct
        assert grade(gold, boxed("42")).verdict == "wrong"


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [("4.2", "correct"), ("4.3", "correct"), (r"4.1\%", "wrong"), ("4.31", "wrong"), (r"\frac{17}{4}", "correct"),
     (r"\sqrt{17.64}", "wrong"), ("2+2.2", "wrong"), ("-4.2", "wrong")],
)  # fmt: skip
def test_tolerance_holds_only_where_the_reference_has_one(answer: str, verdict: str) -> None:
    assert grade("4.2", boxed(answer), tolerance=Fraction("0.1")).verdict == verdict
    assert grade("4.2", boxed("4.21")).verdict == "wrong"


def test_tolerance_with_roots() -> None:
    assert grade(r"\sqrt{2}", boxed("1.41"), tolerance=Fraction("0.01")).correct
    assert not grade(r"\sqrt{2}", boxed("1.41"), tolerance=Fraction("0.001")).correct


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="unknown rule 'box'; there are: boxed, gsm8k, exact"):
        grade("1", "1", rule="box")
    with pytest.raises(ValueError, match="tolerance -1 is negative"):
        grade("1", "1", tolerance=Fraction(-1))


def test_bare_answers() -> None:
    assert grade("0.5", r"$\frac{1}{2}$", bare=True).correct
    assert grade("0.5", r"\boxed{\frac{1}{2}}", bare=True).correct
    assert not grade("0.5", "the answer is 0.5", bare=True).correct
    assert grade("Paris", "<think>hm</think> Paris\n", rule="exact").correct


@pytest.mark.parametrize(
    ("gold", "answer", "verdict"),
    [
        # Sets by description, whatever their variables are called.
        (r"\{x|x=3k,k\in \mathbb{Z}\}", r"\{x \mid x=3k, k \in \mathbb{Z}\}", "correct"),
        (r"\{x|x=3k,k\in \mathbb{Z}\}", r"\{x \mid x=2k, k \in \mathbb{Z}\}", "wrong"),
        (r"\{x|x=3k,k\in \mathbb{Z}\}", "3", "wrong"),
        (r"\{x|x=3k,k\in \mathbb{Z}\}", r"\{x \mid x=3k, k \in 9^{9^{9^9}}\}", "wrong"),
    ],
)
def test_sets_by_description(gold: str, answer: str, verdict: str) -> None:
    assert grade(gold, boxed(answer)).verdict == verdict


# Generated values: every spelling of a value is right, every other value is wrong.

integers = st.integers(-(10**12), 10**12)
fractions = st.builds(Fraction, st.integers(-(10**6), 10**6), st.integers(2, 10**4)).filter(lambda f: f.denominator > 1)


def spellings_of_integer(value: int) -> list[str]:
    sign = "-" if value < 0 else ""
    grouped = f"{sign}{abs(value):,}" if not is_list_of_numbers(f"{abs(value):,}") else str(value)
    named = [f"{value}.0", f"x = {value}", rf"{value}\text{{ cm}}", rf"\frac{{{3 * value}}}{{3}}"]
    return [str(value), *named, grouped, grouped.replace(",", r",\!"), grouped.replace(",", "{,}")]


def spellings_of_fraction(value: Fraction) -> list[str]:
    top, bottom, sign = abs(value.numerator), value.denominator, "-" if value < 0 else ""
    found = [
        rf"{sign}\frac{{{top}}}{{{bottom}}}",
        rf"\dfrac{{{sign}{2 * top}}}{{{2 * bottom}}}",
        f"{sign}{top}/{bottom}",
    ]
    if top > bottom:
        found.append(rf"{sign}{top // bottom}\frac{{{top % bottom}}}{{{bottom}}}")
    return found


@settings(deadline=None, max_examples=60)
@given(integers, st.integers(1, 10**6))
def test_integers(value: int, step: int) -> None:
    for spelling in spellings_of_integer(value):
        assert grade(str(value), boxed(spelling)).correct, spelling
        assert grade(spelling, boxed(str(value))).correct, spelling
        assert grade(str(value + step), boxed(spelling)).verdict == "wrong"
        assert grade(str(value - step), boxed(spelling)).verdict == "wrong"
        if value:
            assert grade(str(-value), boxed(spelling)).verdict == "wrong"
            assert grade(str(10 * value), boxed(spelling)).verdict == "wrong"


@settings(deadline=None, max_examples=60)
@given(fractions, fractions)
def test_fractions(value: Fraction, other: Fraction) -> None:
    gold = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    for spelling in spellings_of_fraction(value):
        assert grade(gold, boxed(spelling)).correct, spelling
        assert grade(spelling, boxed(gold)).correct, spelling
        for changed in {-value, value + 1, 1 / value, other} - {value}:
            assert grade(rf"\frac{{{changed.numerator}}}{{{changed.denominator}}}", boxed(spelling)).verdict == "wrong"
    decimal = f"{float(value):.12f}"
    if Fraction(decimal) != value:
        assert grade(gold, boxed(decimal)).verdict == "wrong"


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-99, 99), min_size=2, max_size=5, unique=True), st.randoms(use_true_random=False))
def test_collections(values: list[int], random: object) -> None:
    listed = ", ".join(map(str, values))
    turned = ", ".join(map(str, reversed(values)))
    assert grade(listed, boxed(turned)).correct
    assert grade(rf"\{{{listed}\}}", boxed(rf"\left\{{{turned}\right\}}")).correct
    assert grade(f"({listed})", boxed(rf"\left({listed}\right)")).correct
    assert not grade(f"({listed})", boxed(f"({turned})")).correct
    assert not grade(listed, boxed(", ".join(map(str, values[1:])))).correct
    assert not grade(listed, boxed(f"{listed}, 100")).correct
    assert not grade(str(values[0]), boxed(listed)).correct
    assert not grade(f"[{listed}]", boxed(f"({listed})")).correct


polynomials = st.lists(st.integers(-9, 9), min_size=2, max_size=5).filter(lambda c: any(c[1:]))


def polynomial(coefficients: list[int], scramble: bool = False) -> str:
    terms = [f"({c})x^{{{power}}}" for power, c in enumerate(coefficients)]
    return "+".join(reversed(terms) if scramble else terms)


@settings(deadline=None, max_examples=60)
@given(polynomials, polynomials, st.integers(-9, 9))
def test_polynomials(one: list[int], other: list[int], root: int) -> None:
    size = max(len(one), len(other))
    same = one + [0] * (size - len(one)) == other + [0] * (size - len(other))
    assert grade(polynomial(one), boxed(polynomial(one, scramble=True))).correct
    assert grade(polynomial(one), boxed(polynomial(other))).correct is same
    multiplied = [a - root * b for a, b in zip([0, *one], [*one, 0], strict=True)]
    assert grade(polynomial(multiplied), boxed(f"(x-({root}))({polynomial(one)})")).correct
    assert not grade(polynomial(multiplied), boxed(f"(x-({root + 1}))({polynomial(one)})")).correct


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(2, 50), st.integers(-20, 20))
def test_roots(factor: int, radicand: int, shift: int) -> None:
    gold = rf"{shift}+{factor}\sqrt{{{radicand}}}"
    whole = radicand**0.5 == int(radicand**0.5)
    if whole:
        return
    assert grade(gold, boxed(rf"\sqrt{{{factor * factor * radicand}}}+{shift}")).correct
    assert not grade(gold, boxed(rf"\sqrt{{{factor * factor * radicand + 1}}}+{shift}")).correct
    assert not grade(gold, boxed(rf"{shift}-{factor}\sqrt{{{radicand}}}")).correct
    assert not grade(gold, boxed(f"{shift + factor * radicand**0.5:.15f}")).correct


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet="\\boxed{}$1,. \n#<think>/^_-+=()[]|!%&'xe9", max_size=80))
def test_no_text_breaks_the_grader(text: str) -> None:
    for rule in ("boxed", "gsm8k", "exact"):
        assert grade("7", text, rule=rule).verdict != "ungradable"
    assert grade(r"\sqrt{7}", f"\\boxed{{{text}}}").verdict != "ungradable"
    assert grade("7", text, bare=True).verdict != "ungradable"


PIECES = words(
    r"\{ \} { } ( ) [ ] | \pm , ; = < \le x n 2 9 0 ^ _ ! \sqrt \frac \binom \sin \log \cup : 	ext{a} \% - +"
    r" \cdot e \pi"
)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(sorted(PIECES)), max_size=200))
def test_no_formula_breaks_or_delays_the_grader(pieces: list[str]) -> None:
    began = time.process_time()
    for gold in ("7", "1, 2", "x^2=n"):
        assert grade(gold, f"\\boxed{{{' '.join(pieces)}}}").verdict != "ungradable"
    assert time.process_time() - began < 3 * WORST_S


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=60))
def test_no_reference_breaks_the_grader(text: str) -> None:
    grade(text, boxed("7"))
