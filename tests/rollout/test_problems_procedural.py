"""The procedural problem sources: determinism, disjoint splits, demonstrations that verify, hostile responses."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.arithmetic import verify_arithmetic
from rewards.countdown import ExpressionError, evaluate, verify_countdown
from rewards.exact import verify_exact
from rewards.score import Score
from rollout.problems import arithmetic, countdown
from rollout.problems.arithmetic import Arithmetic
from rollout.problems.countdown import Countdown
from rollout.problems.source import Split
from rollout.problems.sums import Sums
from rollout.types import Problem

ARITHMETIC = [
    Arithmetic(),
    Arithmetic(steps=(1, 1), digits=1),
    Arithmetic(steps=(1, 25), digits=1),
    Arithmetic(steps=(3, 5), digits=2, products=0.5),
    Arithmetic(steps=(2, 8), digits=3, products=0.3, seed=7),
    Arithmetic(steps=(4, 4), digits=12),
    Arithmetic(careful=1.0, mixed=0.0, jumps=0.0, checks=1.0),
    Arithmetic(careful=1.0, mixed=0.0, jumps=0.0, thorough=1.0),
    Arithmetic(careful=0.0, mixed=1.0, jumps=0.0, slips=0.5, checks=0.5),
    Arithmetic(careful=0.0, mixed=0.0, jumps=0.0, slips=1.0),
    Arithmetic(careful=0.0, mixed=0.0, jumps=1.0),
]
COUNTDOWN = [
    Countdown(),
    Countdown(numbers=(2, 2)),
    Countdown(numbers=(3, 3), largest=9, target=(1, 999)),
    Countdown(numbers=(4, 4), largest=100, target=(100, 999), tries=4),
    Countdown(numbers=(5, 5), tries=5, seed=3),
]
SOURCES = [*ARITHMETIC, *COUNTDOWN]
SPLITS: tuple[Split, ...] = ("train", "heldout")


def verify(response: str, problem: Problem) -> Score:
    return {"arithmetic": verify_arithmetic, "countdown": verify_countdown}[problem.verifier](response, problem.answer)


def words(tokens: tuple[str, ...], text: str) -> list[str]:
    """Longest-match tokens; the text itself must come back."""
    pattern = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
    return re.findall(pattern, text)


@pytest.mark.parametrize("source", SOURCES, ids=repr)
def test_problems_are_deterministic(source: Arithmetic | Countdown) -> None:
    again = type(source)(**vars(source))
    for split in SPLITS:
        for index in (0, 1, 17, 10**12):
            problem = source.problem(index, split)
            assert again.problem(index, split) == problem
            assert again.demonstration(problem, random.Random(index)) == source.demonstration(
                problem, random.Random(index)
            )


@pytest.mark.parametrize("source", SOURCES, ids=repr)
def test_demonstrations_verify_and_stay_in_the_vocabulary(source: Arithmetic | Countdown) -> None:
    tokens = arithmetic.TOKENS if isinstance(source, Arithmetic) else countdown.TOKENS
    for split in SPLITS:
        for index in range(60):
            problem = source.problem(index, split)
            response = source.demonstration(problem, random.Random(index))
            assert verify(response, problem).correct, (problem, response)
            for text in (problem.prompt, response):
                assert "".join(words(tokens, text)) == text


@given(
    seed=st.integers(0, 2**40),
    index=st.integers(0, 2**40),
    other=st.integers(0, 2**40),
    source=st.sampled_from(SOURCES),
)
@settings(max_examples=200, deadline=None)
def test_split_is_a_function_of_the_text_alone(
    seed: int, index: int, other: int, source: Arithmetic | Countdown
) -> None:
    """Held-out and training texts are told apart by the same hash, so no seed can make them overlap."""
    values = {**vars(source), "seed": seed}
    for split in SPLITS:
        problem = type(source)(**values).problem(index, split)
        if isinstance(source, Arithmetic):
            assert arithmetic.split_of(problem.prompt) == split
        else:
            target, _, numbers = problem.answer.partition(" from ")
            shuffled = [int(number) for number in numbers.split()]
            random.Random(other).shuffle(shuffled)
            assert countdown.split_of(tuple(shuffled), int(target)) == split


@pytest.mark.parametrize("source", [Arithmetic(steps=(1, 1), digits=1), Countdown(numbers=(2, 2), largest=9)], ids=repr)
def test_small_difficulties_do_not_overlap(source: Arithmetic | Countdown) -> None:
    """So few texts that both splits are drawn over and over: any leak would show."""
    ids = {split: {source.problem(index, split).id for index in range(300)} for split in SPLITS}
    assert all(ids.values())
    assert not ids["train"] & ids["heldout"]


def test_held_out_share() -> None:
    source = Arithmetic()
    rng = random.Random(0)
    texts = [arithmetic.render(source._draw(rng)[0]) for _ in range(4000)]
    share = sum(arithmetic.split_of(text) == "heldout" for text in texts) / len(texts)
    assert 0.10 < share < 0.15


@given(
    source=st.sampled_from(ARITHMETIC),
    index=st.integers(0, 10**6),
    split=st.sampled_from(SPLITS),
    seed=st.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_every_written_step_is_true(source: Arithmetic, index: int, split: Split, seed: int) -> None:
    """The answer is the value of the terms, and the only false equations are slips that the text corrects."""
    problem = source.problem(index, split)
    terms = arithmetic.parse(problem.prompt)
    total = 0
    for sign, text in terms:
        total = arithmetic.apply(total, sign, arithmetic.value_of(text))
        assert source.low <= total <= source.top
    assert str(total) == problem.answer
    assert arithmetic.render(terms) == problem.prompt
    response = source.demonstration(problem, random.Random(seed))
    false = 0
    for left, right in re.findall(r"(?<![ 0-9*+-])([0-9*+-]+)=([0-9]+)", response):  # columns, checks, products
        false += _sum(left) != int(right)
    for taken, right in re.findall(r"((?:\n[a-z] [^\n=:,]+)+)=([0-9]+)(?=[\n<])", response):  # straight down
        false += _total(taken) != int(right)
    for taken, right in re.findall(r"((?:\n[a-z]+ |, )[+-][^\n:]+): [^>]+ -> ([0-9]+)", response):  # in columns
        assert _total(taken) == int(right)
    assert false == response.count("\nwait, ") == response.count(" not ")


def _sum(expression: str) -> int:
    terms = re.findall(r"([+-]?)([0-9]+(?:\*[0-9]+)?)", expression)
    return sum(int((sign or "+") + "1") * arithmetic.value_of(value) for sign, value in terms)


def _total(lines: str) -> int:
    """Value of ``b -45 from 58``, or of several such lines of which only the last one names the total."""
    taken, total = re.split(" to | from ", re.sub(r"=[0-9]+", "", lines))
    return int(total) + sum(_sum(term) for term in re.findall(r"[+-][0-9*]+", taken))


@pytest.mark.parametrize("source", ARITHMETIC, ids=repr)
def test_a_line_begins_as_the_problem_writes_it(source: Arithmetic) -> None:
    """Label, sign and value stand in the response as in the prompt: to read the problem is to copy."""
    for index in range(60):
        problem = source.problem(index, "train")
        response = source.demonstration(problem, random.Random(index))
        given = set(problem.prompt.splitlines()[1:])
        lines = [line for line in response.replace("</think>", "\n").splitlines() if re.match("[a-z] ", line)]
        for line in lines:
            term = re.match(r"[a-z] [+-][0-9*]+", line)
            assert term, (problem, response)
            assert term.group() in given, (problem, response)


def test_demonstrations_show_the_four_behaviours() -> None:
    """Planning, evaluation, reflection and exploration [k1.5 section 2.2] all occur in the default mixture."""
    source = Arithmetic()
    text = "".join(source.demonstration(source.problem(i, "train"), random.Random(i)) for i in range(300))
    assert all(mark in text for mark in ("\nplan: ", "\ncheck ", " ok", " not ", "\nwait, ", "\nor "))
    source_2 = Countdown()
    text = "".join(source_2.demonstration(source_2.problem(i, "train"), random.Random(i)) for i in range(50))
    assert all(mark in text for mark in ("\nplan: ", "\ntry ", " no, back to", "\ncheck ", " ok"))


HOSTILE = [
    "",
    "42",
    "Answer: 42",
    "</think>",
    "</think>42",
    "</think>\nAnswer: 42 or 43",
    "</think>\nAnswer: 42\nAnswer: 43",
    "</think>\nAnswer: 42\nAnswer: 42",
    "</think>\nAnswer: 042",
    "</think>\nAnswer: +42",
    "</think>\nAnswer: 42.0",
    "</think>\nAnswer: 4 2",
    "</think>\nAnswer: -42",
    "</think>\nAnswer: \u0664\u0662",
    "</think>\nAnswer: \uff14\uff12",
    "</think>\nAnswer: 42\u200b",
    "</think>\nAnswer: 42\x00",
    "</think>\nAnswer: 42</think>\nAnswer: 41",
    "</think>\nAnswer: 42</think>",
    "</THINK>\nAnswer: 42",
    "</think>\nanswer: 42",
    "</think>\nAnswer: " + "9" * 1_000_000,
    "</think>" * 100_000 + "\nAnswer: " + "(" * 100_000,
    "</think>\nAnswer: 6**7",
    "</think>\nAnswer: __import__('os')",
    "\ud800</think>\nAnswer: 4\ud800",
]


@pytest.mark.parametrize("response", HOSTILE, ids=lambda text: ascii(text)[:40])
def test_hostile_responses_are_wrong_with_a_reason(response: str) -> None:
    for score in (verify_arithmetic(response, "42"), verify_countdown(response, "42 from 6 7")):
        assert score.reward == 0.0
        assert score.reason


def test_right_answers() -> None:
    assert verify_arithmetic("<think>x</think>\nAnswer: 41 no</think>\nAnswer: 42\n", "42") == Score.right("42")
    assert verify_arithmetic("</think>Answer: -7", "-7").correct
    assert verify_arithmetic("</think>Answer: 0", "0").correct
    assert verify_countdown("</think>Answer: 7 * 6", "42 from 6 7").correct
    assert verify_countdown("</think>Answer: 8/(3-8/3)", "24 from 3 3 8 8").correct  # through rationals


@pytest.mark.parametrize("answer", ["", "x", "4.2", "042", "\u0664\u0662"])
def test_a_bad_reference_is_ungradable(answer: str) -> None:
    assert not verify_arithmetic("</think>\nAnswer: 42", answer).gradable
    assert not verify_countdown("</think>\nAnswer: 42", answer).gradable


@pytest.mark.parametrize(
    "expression",
    [
        *("7*7", "6*7*1", "67", "6*7/(7-7)", "6 7", "6*(7", "6*7)", "-6*7", "6--7", "6//7", "6**7", "()", "6*7+", "42"),
        *("6*7 7", "(" * 17 + "6*7" + ")" * 17, "+".join(["6"] * 100)),
    ],
)
def test_countdown_refuses(expression: str) -> None:
    score = verify_countdown(f"</think>\nAnswer: {expression}", "42 from 6 7")
    assert score.reward == 0.0
    assert score.reason


@given(st.text(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_text_is_judged(text: str) -> None:
    for response in (text, f"</think>{text}", f"</think>\nAnswer: {text}"):
        assert verify_arithmetic(response, "42").gradable
        assert verify_countdown(response, "42 from 6 7").gradable


@given(st.text("0123456789+-*/() ", max_size=40))
@settings(max_examples=500, deadline=None)
def test_parser_agrees_with_python_on_what_it_accepts(text: str) -> None:
    """Whatever the parser accepts is an ordinary expression with that exact value."""
    try:
        value, numbers = evaluate(text)
    except ExpressionError:
        return
    exact = re.sub(r"[0-9]+", lambda match: f"Fraction({int(match.group())})", text.strip(" "))
    assert eval(exact, {"Fraction": Fraction}) == value  # the test's own oracle; the product never evaluates text
    assert numbers == [int(number) for number in re.findall("[0-9]+", text)]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Arithmetic(steps=(0, 2)), "steps must"),
        (lambda: Arithmetic(steps=(3, 2)), "steps must"),
        (lambda: Arithmetic(steps=(1, 26)), "steps must"),
        (lambda: Arithmetic(digits=0), "digits must"),
        (lambda: Arithmetic(careful=0.9, mixed=0.2), "shares"),
        (lambda: Countdown(numbers=(1, 3)), "numbers must"),
        (lambda: Countdown(numbers=(3, 6)), "numbers must"),
        (lambda: Countdown(largest=1), "largest must"),
        (lambda: Countdown(tries=2), "tries must"),
        (lambda: Countdown(target=(9, 3)), "target must"),
        (lambda: Countdown(target=(10_000, 20_000), numbers=(2, 2), largest=9).problem(0, "train"), "no train problem"),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make()


def test_an_unsolvable_countdown_has_no_demonstration() -> None:
    problem = Problem.ask(id="x", prompt="Numbers 1 1\nTarget 9", answer="9 from 1 1", verifier="countdown")
    with pytest.raises(ValueError, match="no solution"):
        Countdown().demonstration(problem, random.Random(0))


def test_sums_are_what_they_say_and_their_splits_are_apart() -> None:
    source = Sums(terms=(2, 4), digits=(1, 5))
    seen: dict[str, set[str]] = {}
    for split in SPLITS:
        for index in range(200):
            problem = source.problem(index, split)
            text = problem.prompt.removeprefix("Compute ")
            assert problem.answer == str(eval(text))
            assert verify_exact(problem.answer, problem.answer).correct
            seen.setdefault(split, set()).add(text)
            said = source.demonstration(problem, random.Random(index))
            turns = [said] if isinstance(said, str) else [message.content for message in said]
            assert turns[-1] == problem.answer
            assert "".join(turns).strip("".join(source.alphabet)) == ""
    assert not seen["train"] & seen["heldout"]
    with pytest.raises(ValueError, match="digits must satisfy"):
        Sums(digits=(3, 20))
