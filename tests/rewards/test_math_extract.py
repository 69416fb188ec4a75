"""Where in a response the answer is read: after the thinking, in the last box, in the last number."""

from __future__ import annotations

import pytest

from rewards.math.extract import final_box
from rewards.math.last_number import final_number
from rewards.response import after_thinking


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("answer", "answer"),
        ("<think>a</think>b", "b"),
        ("a</think>b", "b"),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("<think>a", ""),
        ("<think>a</think>b<think>c", ""),
        ('<THINK mode="x">a</THINK >b', "b"),
        ("<thinking>a</thinking>b", "b"),
        ("\u25c1think\u25b7a\u25c1/think\u25b7b", "b"),
        ("1 < think and 2 > 1", "1 < think and 2 > 1"),
        ("<thinker>a", "<thinker>a"),
    ],
)
def test_the_answer_stands_after_the_thinking(text: str, tail: str) -> None:
    assert after_thinking(text) == tail


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{\frac{1}{2}} or", r"\frac{1}{2}"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\boxed{1} \boxed{2", ""),
        (r"\boxed{1 \boxed{2}", "2"),
        (r"\boxed{1}, which I put in \boxed{", "1"),
        (r"\boxed{\boxed{3}}", "{3}"),
        (r"\fbox {4}", "4"),
        (r"} \boxed{5}", "5"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\boxed{\text{if } x > 0}", r"\text{if } x > 0"),
        (r"\boxed 6", ""),
        (r"\\boxed{7}", ""),  # a line break, then the word
        (r"\\\boxed{7}", "7"),
        (r"\boxed{1}, so y = 3 \cdot 2 and \boxed{2}", "2"),
        (r"\boxed{1} or \boxed{2}", "1, 2"),
        (r"\boxed{1}, \boxed{1}", "1"),
        (r"\boxed{2} no, \boxed{3}", "3"),
        (r"x = \boxed{3}. The final answer is \boxed{5}.", "5"),
        (r"\boxed{1} or 2.", "1, 2"),
        (r"$\boxed{1}$ or $\frac{1}{2}$ of it", r"1, \frac{1}{2}"),
        (r"\boxed{1.41} or approximately 1.4", "1.41"),
        (r"\boxed{1} or so", "1"),
        (r"$-\boxed{42}$", "-(42)"),
        (r"-$\boxed{42}$", "-(42)"),
        (r"$x = 6\cdot 7 = \boxed{42}.$", "42"),
        (r"is - \boxed{42}", "42"),
        (r"$5 - \boxed{42}$", "42"),
        (r"$x = - \boxed{42}$", "-(42)"),
        (r"$\pm\boxed{3}$", r"\pm (3)"),
        (r"$\boxed{42}\%$ of", r"42\%"),
        (r"$\boxed{42}\text{ cm}$", "42"),
        (r"$\boxed{2.2}$ million tons are used", "2.2"),
        (r"$3\times5!=\boxed{360}x^3$", "360"),
        (r"we get $2x = 10$, or $x = \boxed{5}$", "5"),
        (r"all $x$ except $\boxed{1}$", "1"),
        (r"$a+b \ge \boxed{4}$", "4"),
        (r"The answer is not \boxed{42}.", ""),
        (r"The answer is \boxed{41}, not \boxed{42}.", "41"),
        (r"\boxed{1}, since 2 is too large", "1"),
        (r"\boxed{B} or (C)", "B, C"),
    ],
)
def test_final_box(text: str, answer: str) -> None:
    assert final_box(text).answer == answer


@pytest.mark.parametrize(
    ("text", "answer", "marked"),
    [
        ("2+2=4\n#### 4", "4", True),
        ("#### $1,234.50", "$1,234.50", True),
        ("#### 3\nno: #### 4", "4", True),
        ("#### **4**\nbye", "4", True),
        ("A: 3\nA: 4", "4", False),
        ("Answer: 4 apples", "4 apples", False),
        ("He has 3 + 1 = 4 apples.", "4", False),
        ("10-5", "", False),
        ("it is -5", "-5", False),
        ("4 or 5", "", False),
        ("none", "", False),
    ],
)
def test_final_number(text: str, answer: str, marked: bool) -> None:
    found = final_number(text)
    assert (found.answer, found.marked) == (answer, marked)
