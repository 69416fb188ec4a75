"""A judge's verdict: what is read, what is not, and what several of them come to."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.models.verdict import read_verdict
from rewards.models.votes import voted
from rewards.reference import Reference
from rewards.verify import get_verifier

RIGHT, WRONG = '{"verdict": "correct"}', '{"verdict": "wrong"}'

READ = [
    (RIGHT, True),
    (WRONG, False),
    (f"  \n{RIGHT}\r\n\t ", True),
    ('{\n  "verdict" :\t"wrong"\n}', False),
    (f"12 * 3 is 36, and it says 35.\n{WRONG}", False),
    (f"<think>It says {RIGHT}, which is bait.</think>{WRONG}", False),
    (f"<think>{WRONG}</think>\n\nIt holds.\n\n{RIGHT}", True),
    (f"The sets {{1, 2}} and {{2, 1}} are equal.\n{RIGHT}", True),
    (f"First thought:\n{RIGHT}\nand after a second look, still:\n{RIGHT}", True),
    (f'It contains {{"verdict": "Wrong"}}.\n{RIGHT}', True),
]

UNREAD = [
    "",
    "correct",
    "The response is correct.",
    "{}",
    "}",
    '{"verdict": "Correct"}',
    '{"verdict": "CORRECT"}',
    '{"Verdict": "correct"}',
    '{"verdict": "right"}',
    '{"verdict": "correct "}',
    '{"verdict": "c\u043errect"}',  # a Cyrillic o
    '{"verdict": true}',
    '{"verdict": null}',
    '{"verdict": NaN}',
    '{"verdict": 1}',
    '{"verdict": ["correct"]}',
    '{"verdict": {"verdict": "correct"}}',
    '{"verdict": "correct", "verdict": "correct"}',
    '{"verdict": "correct", "verdict": "wrong"}',
    '{"verdict": "correct", "confidence": 0.9}',
    '{"reason": "fine", "verdict": "correct"}',
    "{'verdict': 'correct'}",
    '{verdict: "correct"}',
    '{"verdict": "correct",}',
    '{"verdict": "correct"',
    f"{RIGHT}.",
    f"{RIGHT} or so",
    f"{RIGHT}\u200b",  # what is not JSON's white space is text
    f"{RIGHT}\u00a0",
    f"```json\n{RIGHT}\n```",
    f"Verdict: {RIGHT}",
    f"{RIGHT}{RIGHT}",
    f"{RIGHT}\n{WRONG}",
    f"{WRONG}\n\nNo:\n{RIGHT}",
    f"[\n{RIGHT}\n]",
    f"[\n{RIGHT}",
    f'{{"a":\n{RIGHT}',
    f'{{"a":\n{RIGHT}}}',
    f"<think>{RIGHT}",
    f"<think>{RIGHT}</think>",
    f"</think>{RIGHT}<think>",
    f"<think>no</think>{RIGHT}<think>but",
    '{"verdict": "correct"' + " " * 300 + "}",
]


@pytest.mark.parametrize(("text", "right"), READ)
def test_a_verdict_at_the_end_is_read(text: str, right: bool) -> None:
    assert read_verdict(text).right is right
    assert not read_verdict(text).reason


@pytest.mark.parametrize("text", UNREAD)
def test_anything_else_is_no_verdict_and_has_a_reason(text: str) -> None:
    assert read_verdict(text).right is None
    assert read_verdict(text).reason


@given(st.text() | st.from_regex(r'[{}\["verdict:\n corwng,\]]{0,60}', fullmatch=True))
def test_whatever_is_read_is_spelled_at_the_very_end(text: str) -> None:
    right = read_verdict(text).right
    if right is None:
        return
    last = text.rstrip(" \t\r\n")
    last = last[last.rindex("{") :]
    assert json.loads(last) == {"verdict": "correct" if right else "wrong"}
    assert last.count('"') == 4


@given(st.text(alphabet=st.characters(exclude_characters="<>{}[]\u25c1\u25b7")), st.booleans())
def test_reasoning_above_never_changes_the_verdict(reasoning: str, right: bool) -> None:
    verdict = RIGHT if right else WRONG
    assert read_verdict(f"{reasoning}.\n{verdict}").right is right


@given(st.text(min_size=1).filter(lambda tail: tail.strip(" \t\r\n")), st.booleans())
def test_anything_behind_it_makes_it_unread(tail: str, right: bool) -> None:
    end = tail.rstrip(" \t\r\n")
    found = read_verdict((RIGHT if right else WRONG) + tail).right
    assert found is None or end.endswith(('"correct"}', '"wrong"}'))


HOSTILE = [
    "{" * 1_000_000,
    "}" * 1_000_000,
    '{"verdict":' * 100_000 + "}",
    f"{RIGHT}," * 50_000 + RIGHT,
    " " * 1_000_000 + "}",
    ("{" + "a" * 199) * 5_000 + "}",
    "<think>" * 150_000 + RIGHT,
    '"' + " " * 1_000_000 + f":\n{RIGHT}",
    "\n" * 1_000_000 + RIGHT,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_megabyte_is_read_in_the_time_of_a_megabyte(text: str) -> None:
    def cost(text: str) -> float:
        began = time.process_time()
        read_verdict(text)
        return time.process_time() - began

    assert cost(text) < 5  # quadratic would be minutes


def test_the_verifier_calls_an_unread_verdict_wrong_and_only_a_bad_reference_ungradable() -> None:
    verify = get_verifier("verdict")
    assert verify(RIGHT, Reference("correct")).correct
    assert verify(WRONG, Reference("wrong")).correct
    assert verify(WRONG, Reference("correct")).verdict == "wrong"
    assert verify("no idea", Reference("correct")).verdict == "wrong"
    assert verify(RIGHT, Reference("right")).verdict == "ungradable"


def test_votes_leave_out_what_was_not_read() -> None:
    assert voted([True, True, False], "majority") == 1
    assert voted([False, None, None], "majority") == 0
    assert voted([True, False, None], "majority") is None
    assert voted([True, True, False, None], "mean") == pytest.approx(2 / 3)
    assert voted([True, False], "mean") == 0.5
    assert voted([None, None], "majority") is None
    assert voted([], "mean") is None


@given(st.lists(st.none() | st.booleans()))
def test_a_majority_is_the_side_that_the_mean_is_on(verdicts: list[bool | None]) -> None:
    mean, majority = voted(verdicts, "mean"), voted(verdicts, "majority")
    if mean is None or mean == 0.5:
        assert majority is None
    else:
        assert majority == float(mean > 0.5)
