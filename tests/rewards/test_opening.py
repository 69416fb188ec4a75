"""Where the final answer of a response begins, as its grader finds it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.opening import closed, opening
from rewards.reference import Reference
from rewards.verify import get_verifier


def cue(text: str, verifier: str, extracted: str) -> tuple[str, str]:
    """The cue and what follows it."""
    found = opening(text, verifier, extracted)
    assert found is not None
    return "|".join(text[start:end] for start, end in found.cue), text[found.answer :]


@pytest.mark.parametrize(
    ("verifier", "text", "extracted", "cued", "rest"),
    [
        ("math", r"So \boxed{5}, no: \boxed{ 7}.", "7", r"\boxed{", "7}."),
        (
            "math",
            r"<think>\boxed{1}</think>\boxed{2} Put it into \boxed{}.",
            "2",
            r"<think>|</think>|\boxed{",
            "2} P",
        ),
        ("math", r"\boxed{3} or \boxed{5}", "3, 5", r"\boxed{", r"3} or"),
        ("gsm8k", "1 + 1 = 2\n#### 2", "2", "####", "2"),
        ("gsm8k", r"It is \boxed{2}", "2", r"\boxed{", "2}"),
        ("gsm8k", "First 3.\nThe answer is 12 apples", "12", "The answer is ", "12 apples"),
        ("arithmetic", "<think>a 4 4</think>\nAnswer: 4", "4", "<think>|</think>|\nAnswer: ", "4"),
        ("arithmetic", "a 4</think>\nAnswer: 4", "4", "</think>|\nAnswer: ", "4"),
        ("countdown", "<think></think>\nAnswer: 2*(3+4)", "2*(3+4)", "<think>|</think>|\nAnswer: ", "2*(3+4)"),
        ("exact", "<think>yes?</think>\n\nyes", "yes", "<think>|</think>|\n\n", "yes"),
        ("exact", "Let me see.\nIt is: yes", "yes", "It is: ", "yes"),
    ],
)
def test_the_answer_begins_where_its_grader_reads_it(
    verifier: str, text: str, extracted: str, cued: str, rest: str
) -> None:
    said, left = cue(text, verifier, extracted)
    assert said == cued
    assert left.startswith(rest)


@pytest.mark.parametrize(
    ("verifier", "text", "extracted"),
    [
        ("math", "<think>It is 4", "4"),  # thinking that never ends
        ("math", r"\boxed{4", ""),
        ("exact", "</think>", ""),
        ("exact", "yes", "no"),  # what a grader made of it, and not the text
    ],
)
def test_without_an_answer_there_is_no_place(verifier: str, text: str, extracted: str) -> None:
    assert opening(text, verifier, extracted) is None


@given(st.integers(0, 999), st.text("ab \n{}\\", max_size=20))
def test_what_is_cued_and_answered_anew_gets_the_same_verdict(number: int, chatter: str) -> None:
    """The cue and the answer alone are a response that its grader reads as it read the whole."""
    for verifier, text in (
        ("arithmetic", f"<think>{chatter}</think>\nAnswer: {number}"),
        ("math", f"{chatter}\n\nSo \\boxed{{{number}}}"),
        ("gsm8k", f"{chatter}\n#### {number}"),
    ):
        judge = get_verifier(verifier)
        score = judge(text, Reference(str(number), "", {}))
        assert score.correct
        said, rest = cue(text, verifier, score.extracted)
        again = judge(
            f"{said.replace('|', '')} {rest}" if verifier == "gsm8k" else said.replace("|", "") + rest,
            Reference(str(number), "", {}),
        )
        assert again.correct


def test_an_answer_ends_with_its_box_or_line() -> None:
    assert closed(r"\frac{1}{2}} and \boxed{3}", "brace") == r"\frac{1}{2}}"
    assert closed(r"\{1\}} x", "brace") == r"\{1\}}"
    assert closed("1", "brace") == "1"
    assert closed(" 72\nQuestion: 5", "line") == " 72"
    assert closed("\n72\n5", "line") == "\n72"
    assert closed("72\n5", "") == "72\n5"
