"""What statements say about right outputs, in the words that they use."""

from __future__ import annotations

import time

import pytest

from rewards.code.compare import Leeway, Order, same_output, same_value
from rewards.code.plain import encode
from rewards.code.stated import leeway, stated_order, stated_tolerance, stated_words

ACCEPTED = "Your answer is accepted if its absolute or relative error does not exceed {}."


@pytest.mark.parametrize(
    ("statement", "tolerance"),
    [
        ("considered correct if the absolute or relative error from the true value does not exceed 10^{-6}.", 1e-6),
        ("Answers with an absolute or relative error of at most 10^{-9} from the true answer", 1e-9),
        ("accepted if the relative or absolute error does not exceed $10^{-6}$. Formally", 1e-6),
        ("Your answer is considered correct if its absolute or relative error doesn't exceed 10^{-4}. Namely", 1e-4),
        ("if the absolute or relative error does not exceed 10^−6", 1e-6),
        ("Answers within 10^-5 of the actual answer will be accepted.", 1e-5),
        ("its error is at most 1e-7", 1e-7),
        ("Answers within 10-5 of the actual answer will be accepted.", 1e-5),
        ("Answers within 10 - 5 of the actual answers are accepted.", 1e-5),
        ("Any answer with a calculation error less than 10-5 will be accepted.", 1e-5),
        ("Solutions within 10-5 from the actual answer are considered accepted.", 1e-5),
        ("The answer is correct if the error is not more than 10 - 6.", 1e-6),
        ("Print the answer with an absolute or relative error of at most 10 - 6.", 1e-6),
        ("Print the answer with a relative error of 0.000001 or less.", 1e-6),
        ("Output the answer. Errors of up to 0.0001 are allowed.", 1e-4),
        ("An answer that differs from the jury's by no more than 10⁻⁶ is accepted.", 1e-6),
        ("Your output is judged right if it is within 1e-6 of ours.", 1e-6),
        ("Print the answer with a precision of at least 10^{-6}.", 1e-6),
        ("The result must be given with accuracy 1E-4.", 1e-4),
        ("Results are compared with a tolerance of 10**-6.", 1e-6),
        ("An absolute or relative error of at most 2 \\cdot 10^{-7} is accepted.", 2e-7),
        (
            "The answer is right if the absolute or relative error is small. Formally, let $a$ be yours and $b$ the "
            "jury's. It is accepted when $\\frac{|a-b|}{\\max(1,|b|)} \\le 10^{-6}$.",
            1e-6,
        ),
        ("The answer must be correct\nwith an absolute\nerror below $10^{-3}$.", 1e-3),
        *((ACCEPTED.format(number), 1e-6) for number in ("10^(-6)", "10<sup>-6</sup>", "\\(10^{-6}\\)", "10^{ - 6}")),
        ("Print the sum. 1 <= a <= 10^5", None),
        ("find the largest error. The value is at most 10^9", None),
        ("-10^9 <= x <= 10^9", None),
        ("A bit is flipped by error with probability 10^{-3}. Print the number of words.", None),
        ("The probability of an error is at most 10^{-3}. Print the number of copies.", None),
        ("The error rate is at most 10^{-3}. Print the number of copies.", None),
        ("Each sensor has an error of 0.01 metres.", None),
        ("Two stars are twins when they are within 0.01 of each other.", None),
        ("Print all numbers within 10-20.", None),
        ("Print the error code. The input is at most 0.5 seconds long, 1e-3 kg.", None),
        ("Every step has a precision loss. Print the number of steps, at most 10-15.", None),
        ("Print the answer modulo 998244353.", None),
    ],
)
def test_tolerance_only_where_it_is_stated(statement: str, tolerance: float | None) -> None:
    assert stated_tolerance(statement) == (None if tolerance is None else pytest.approx(tolerance))


@pytest.mark.parametrize(
    ("statement", "order"),
    [
        ("Return all even numbers in any order.", Order.INNER),
        ("You may return the answer in any order.", Order.ITEMS),
        ("The answer can be returned in any order.", Order.ITEMS),
        ("The combinations may be returned in any order.", Order.ITEMS),
        ("Find all pairs. You can output them in arbitrary order.", Order.ITEMS),
        ("Return the result in any arbitrary order.", Order.ITEMS),
        ("Note that the integers in the lists may be returned in any order.", Order.INNER),
        ("Note that you can return the indices of the edges in any order.", Order.INNER),
        ("Return all pairs of numbers in any order.", Order.ITEMS),
        ("Notice that the order of the output and the order of the triplets does not matter.", Order.ITEMS),
        ("The answers may be in any order.", Order.ITEMS),
        ("The pairs can appear in any order. Return the original array.", Order.FIXED),
        ("You can perform the operations in any order. Return the array.", Order.FIXED),
        ("Return the largest number formed by joining the digits in any order.", Order.FIXED),
        ("Return the list of steps after visiting the nodes in any order.", Order.FIXED),
        ("Print YES if the tasks can be done in any order.", Order.FIXED),
        ("Return the minimum number of moves in any order.", Order.FIXED),
        ("Return a sorted list. The input comes in any order.", Order.FIXED),
        ("Return the numbers in increasing order.", Order.FIXED),
    ],
)
def test_order_only_where_it_is_left_open(statement: str, order: Order) -> None:
    assert stated_order(statement) is order


@pytest.mark.parametrize(
    ("found", "expected", "order", "same"),
    [
        ([4, 2], [2, 4], Order.ITEMS, True),
        ((4, 2), [2, 4], Order.INNER, True),
        ([4, 2], [2, 4], Order.FIXED, False),
        ([4, 4, 2], [2, 2, 4], Order.ITEMS, False),
        ([4, 2, 2], [2, 4], Order.ITEMS, False),
        ([4, 2.0], [2, 4], Order.ITEMS, False),
        ([True, 2], [1, 2], Order.ITEMS, False),
        (["b", "a"], ["a", "b"], Order.ITEMS, True),
        ([(3, 4), (1, 2)], [[1, 2], [3, 4]], Order.ITEMS, True),
        ([[2, 1], [3, 4]], [[1, 2], [3, 4]], Order.ITEMS, False),
        ([[2, 1], [3, 4]], [[1, 2], [3, 4]], Order.INNER, True),
        ([[3, 4], [1, 2]], [[1, 2], [3, 4]], Order.INNER, False),
        ([0.5, 2], [2.0, 0.5], Order.ITEMS, True),
        ({2, 4}, [2, 4], Order.ITEMS, False),
        ([10**700, 1], [1, 10**700], Order.ITEMS, True),
        ("ba", "ab", Order.ITEMS, False),
        ([], [], Order.ITEMS, True),
    ],
)
def test_results_in_any_order(found: object, expected: object, order: Order, same: bool) -> None:
    assert same_value(encode(found), expected, Leeway(order=order)) is same


@pytest.mark.parametrize(
    ("found", "expected", "order", "same"),
    [
        ("3 1 2", "1 2 3", Order.ITEMS, True),
        ("3\n2 1 3", "3\n1 2 3", Order.ITEMS, True),
        ("1\n3 2 3", "3\n1 2 3", Order.ITEMS, False),
        ("3 4\n1 2", "1 2\n3 4", Order.ITEMS, True),
        ("4 3\n1 2", "1 2\n3 4", Order.ITEMS, False),
        ("2\n3 4\n1 2", "2\n1 2\n3 4", Order.ITEMS, True),
        ("2\n7\n5", "2\n5\n7", Order.ITEMS, True),
        ("5\n2\n7", "2\n5\n7", Order.ITEMS, False),
        ("2 1\n3 4", "1 2\n3 4", Order.INNER, True),
        ("3 4\n1 2", "1 2\n3 4", Order.INNER, False),
        ("1 1 3", "1 2 3", Order.ITEMS, False),
        ("1 2", "1 2 3", Order.ITEMS, False),
        ("1 2 3 4", "1 2 3", Order.ITEMS, False),
        ("3 1 2", "1 2 3", Order.FIXED, False),
    ],
)
def test_outputs_in_any_order(found: str, expected: str, order: Order, same: bool) -> None:
    assert same_output(found.encode(), expected.encode(), Leeway(order=order))[0] is same


def test_lines_of_several_test_cases_stay_where_they_are() -> None:
    once = "Find the pairs. You can print the pairs in any order."
    assert leeway(once, printed=True).order is Order.ITEMS
    assert leeway(once + " The first line holds the number of test cases.", printed=True).order is Order.FIXED


CASES = "Print {}. You can output {} in any case (for example, yEs, yes and YES will be recognized)."


@pytest.mark.parametrize(
    ("statement", "found", "expected", "same"),
    [
        ("Print YES or NO in any case: is n even?", "yes", "YES", True),
        ("Print YES or NO in any case: is n even?", "no", "YES", False),
        (CASES.format("YES or NO", '"YES" and "NO"'), "yEs", "YES", True),
        (CASES.format("the word after YES", '"YES" and "NO"'), "yes\nABC", "YES\nabc", False),
        ("Print Alice or Bob. You can output each letter in any case (upper or lower).", "ALICE", "Alice", True),
        ("Print MAYBE. You can print the answer in any register.", "maybe", "MAYBE", True),
        ("The judge is case-insensitive; if the answer is Fennec, FENNEC is accepted.", "FENNEC", "Fennec", True),
        ("Print Yes or No. The output is not case sensitive.", "YES", "Yes", True),
        ("Print YES or NO.", "yes", "YES", False),
        ("Print NO if it is not removed in any case.", "no", "NO", False),
        ("Names are compared case-insensitively. Print the name as it is given.", "ANN", "Ann", False),
        ("Print YES or NO in any case, then the text.", "YES\nab", "YES\nAB", False),
    ],
)
def test_letter_case_only_where_it_is_left_open(statement: str, found: str, expected: str, same: bool) -> None:
    assert same_output(found.encode(), expected.encode(), leeway(statement, printed=True))[0] is same


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("1.3333333333333333", "1.333333333", True),
        ("1.333333", "1.333333333", True),
        ("1.33333", "1.333333333", False),
        ("1.3333344", "1.333333333", False),
        ("-0.6666666666666666", "-0.666666667", True),
        ("0.6666666666666666", "-0.666666667", False),
        ("2.000000000", "2.0", True),
        ("2", "2.0", True),
        ("2.04", "2.0", False),
        ("12.504", "12.50", False),
        ("3.14159", "3.14", False),
        ("5.0", "5", False),
        ("1.3333333333e0", "1.333333333", False),
        ("nan", "1.333333333", False),
        ("9" * 500 + ".0", "9.0", False),
    ],
)
def test_a_rounded_number_may_be_rounded_elsewhere(found: str, expected: str, same: bool) -> None:
    assert same_output(found.encode(), expected.encode())[0] is same


def test_floats_of_another_order_of_operations() -> None:
    assert same_value(0.1 + 0.2, 0.3)
    assert same_value([1e300 * (1 + 1e-15)], [1e300])
    assert not same_value(0.3 + 1e-9, 0.3)
    assert not same_value(1e-12, 0.0)
    assert not same_value(encode(float("inf")), 1e308)


@pytest.mark.parametrize("text", ["error within " * 50_000, "print " * 100_000, "10^{-" * 100_000, "a. B" * 100_000])
def test_long_statements_are_read_in_linear_time(text: str) -> None:
    start = time.process_time()
    for reader in (stated_tolerance, stated_order, stated_words):
        reader(text)
    assert time.process_time() - start < 20
