"""Comparison of outputs and results, and the encoding that results travel in."""

from __future__ import annotations

import json
import math
import time
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.code.compare import Leeway, close, layout_matters, same_output, same_value
from rewards.code.plain import MAX_DEPTH, NotPlain, decode, encode, has_nan


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("5", "5", True),
        ("5\n", "5", True),
        ("5  \n\n", "5\n", True),
        ("\n5", "5", True),
        ("1 2\r\n3\r\n", "1 2\n3\n", True),
        ("1\n2\n3", "1 2 3", True),
        ("1 2", "1 2 3", False),
        ("1 2 3 4", "1 2 3", False),
        ("", "", True),
        ("\n", "", True),
        ("", "5", False),
        ("5.0", "5", False),
        ("05", "5", False),
        ("+5", "5", False),
        ("YES", "Yes", False),
        ("5\u00a0", "5", False),
        ("5\x1f", "5", False),
        ("*\n **", "*\n**", True),
        ("*\n**", "*\n **", False),
        ("*\n **  \n", "*\n **", True),
        ("a b", "a  b", False),
        ("a  b\n\n", "a  b", True),
        ("\n *", " *", False),
    ],
)
def test_outputs(found: str, expected: str, same: bool) -> None:
    verdict, reason = same_output(found.encode(), expected.encode())
    assert verdict is same
    assert bool(reason) is not same


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("0.3333333", "0.333333333", True),
        ("0.33333", "0.333333333", False),
        ("1000000.5", "1000001.0", True),
        ("1000000.9", "1000001", True),
        ("1000000.4", "1000001", False),
        ("1000002", "1000001", False),
        ("1000002.0", "1000001", False),
        ("12345679", "12345678", False),
        ("123456789012345678901234567891.0", "123456789012345678901234567890", False),
        ("1e9999", "5", False),
        ("1000001", "1000000.5", True),
        ("1000002.1", "1000001", False),
        ("2", "2.0000001", True),
        ("1e0", "1.0", True),
        (".5", "0.5", True),
        ("-0.0", "0", True),
        ("nan", "1.0", False),
        ("nan", "nan", True),
        ("inf", "1e999", False),
        ("1e999", "1e998", False),
        ("1_0", "10", False),
        ("0xa", "10", False),
        ("1.0x", "1.0", False),
        ("YES 1.0000001", "YES 1", True),
        ("yes 1.0000001", "YES 1", False),
        ("１", "1", False),
    ],
)
def test_outputs_with_a_tolerance(found: str, expected: str, same: bool) -> None:
    assert same_output(found.encode(), expected.encode(), Leeway(1e-6))[0] is same


def test_a_reason_is_short_and_printable() -> None:
    reason = same_output(b"\x1b[31m\xff" + b"x" * 10_000, b"y" * 10_000)[1]
    assert len(reason) < 400
    assert reason.isprintable()


def test_layout_counts_where_the_expected_output_has_one() -> None:
    assert layout_matters(b"a\n b")
    assert layout_matters(b"a  b")
    assert not layout_matters(b"a b \n\n c".replace(b" c", b"c"))
    assert not layout_matters(b"a b  \nc\n\n")


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        (5, 5, True),
        (5.0, 5, False),
        (True, 1, False),
        (1, True, False),
        (True, True, True),
        ("5", 5, False),
        (None, None, True),
        (0, None, False),
        (False, None, False),
        ([1, [2]], [1, [2]], True),
        ((1, (2,)), [1, [2]], True),
        ([1], [1, 2], False),
        ([], [], True),
        ({}, [], False),
        ({"a": 1}, {"a": 1}, True),
        ({"a": True}, {"a": 1}, False),
        ({1: 1}, {"1": 1}, False),
        (2, 2.0, True),
        (2.0, 2.0, True),
        (2.0000001, 2.0, False),
        (True, 1.0, False),
        (10**400, 2.0, False),
        (float("nan"), 2.0, False),
        (float("inf"), 2.0, False),
        ({1, 2}, [1, 2], False),
        ("ab", ["a", "b"], False),
        (b"a", "a", False),
    ],
)
def test_results(found: Any, expected: Any, same: bool) -> None:
    assert same_value(encode(found), expected) is same


def test_results_with_a_tolerance() -> None:
    loose = Leeway(1e-5)
    assert same_value([0.333333], [0.3333333], loose)
    assert not same_value([0.3333], [0.3333333], loose)
    assert not same_value(encode(float("nan")), 1.0, loose)
    assert not same_value(5.000001, 5, loose)  # an int is exact, whatever the tolerance
    assert not close(math.inf, math.inf, 1.0)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
hashables = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=8,
)
plain_values = st.recursive(
    hashables | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(hashables, inner, max_size=3) | st.sets(hashables, max_size=3)
    ),
    max_leaves=12,
)


def types_of(value: Any) -> Any:
    if isinstance(value, dict):
        return dict, [(types_of(key), types_of(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [types_of(item) for item in value]
    return type(value)


@settings(deadline=None, max_examples=50)
@given(plain_values)
def test_plain_data_comes_back_with_its_types(value: Any) -> None:
    back = decode(json.loads(json.dumps(encode(value))))
    assert back == value
    assert types_of(back) == types_of(value)


def test_large_and_infinite_numbers_come_back() -> None:
    for value in (7**900, -(2**2000), 2**2001, 10**5000, math.inf, -math.inf):
        assert decode(json.loads(json.dumps(encode(value)))) == value


@settings(deadline=None)
@given(json_values)
def test_every_json_value_equals_itself(value: Any) -> None:
    assert same_value(json.loads(json.dumps(encode(value))), value)


@settings(deadline=None)
@given(json_values)
def test_hostile_encodings_are_values_or_refused(data: Any) -> None:
    try:
        value = decode(data)
    except NotPlain:
        return
    assert isinstance(has_nan(value), bool)


class Liar:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Int(int):
    pass


@pytest.mark.parametrize(
    "value", [Liar(), Int(3), [Int(3)], {Int(1): 2}, Point(1, 2), object, len, iter([1]), (1).__add__]
)
def test_what_has_behaviour_is_not_plain(value: Any) -> None:
    with pytest.raises(NotPlain, match="not plain data"):
        encode(value)


def test_containers_of_the_standard_library_become_builtin_ones() -> None:
    given_values = [Counter("aab"), OrderedDict(a=1), defaultdict(int, a=1), deque([1, 2])]
    assert [decode(encode(value)) for value in given_values] == [{"a": 2, "b": 1}, {"a": 1}, {"a": 1}, [1, 2]]


def test_depth_and_size_are_bounded_at_both_ends() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NotPlain, match="contains itself"):
        encode(value)
    shared: Any = 1
    for _ in range(40):
        shared = [shared, shared]
    start = time.process_time()
    with pytest.raises(NotPlain):
        encode(shared)
    assert time.process_time() - start < 10
    deep: Any = 1
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(NotPlain, match="too deep"):
        decode(deep)


@pytest.mark.parametrize(
    "data",
    [
        *({"ref": 0}, {"builtin": "eval"}, {"int": 1}, {"int": "x"}, {"float": "1"}, {"set": [[1]]}, {"dict": [[1]]}),
        *({"dict": 1}, {"dict": [[[1], 2]]}, {"bytes": "x"}, {"complex": [1]}, {"complex": ["a", 1]}),
        *({"a": 1, "b": 2}, {}, {"tuple": "ab"}),
    ],
)
def test_what_is_no_encoding_is_refused(data: Any) -> None:
    with pytest.raises(NotPlain):
        decode(data)


def test_nan_is_found() -> None:
    nan = float("nan")
    for value in (nan, [nan], {"a": (1, {nan})}, {nan: 1}, complex(1, nan)):
        assert has_nan(value)
    assert not has_nan([1.0, "nan", math.inf, {1: 2}])
