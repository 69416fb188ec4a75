"""Programs in responses."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.code.extract import MAX_CODE, Block, Extracted, blocks, extract, language_of
from rewards.code.languages import LANGUAGES

PYTHON = ("python",)
ALL = tuple(LANGUAGES)


def code_of(response: str, languages: tuple[str, ...] = PYTHON) -> str:
    found = extract(response, languages, "python")
    return found.code.strip() if isinstance(found, Extracted) else ""


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("```python\na\n```", "a"),
        ("```py\na\n```", "a"),
        ("``` Python3 title=x\na\n```", "a"),
        ("```{.python}\na\n```", "a"),
        ("```\na\n```", "a"),
        ("~~~python\na\n~~~", "a"),
        ("text\n```python\na\n```\ntext", "a"),
        ("```python\na\n```\nbetter:\n```python\nb\n```", "b"),
        ("```\na\n```\nbetter:\n```\nb\n```", "b"),
        ("```python\na\n```\nprints\n```\n5\n```", "a"),
        ("```python\na\n```\nprints\n```text\n5\n```", "a"),
        ("```python\na\n```\nrun\n```bash\npython a.py\n```", "a"),
        ("```text\na\n```\n", ""),
        ("```python\na", "a"),
        ("```python\na\n```\n```python\nb", "b"),
        ("```python\n\n```", ""),
        ("```python\na\n```\n```python\n   \n```", "a"),
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''"),
        ("~~~python\n```\n~~~", "```"),
        ("1. so:\n    ```python\n    if a:\n        b\n    ```", "if a:\n    b"),
        ("```python\r\na\r\n```\r\n", "a"),
        ("a = 1", ""),
        ("`a`", ""),
        ("```a```", ""),
        ("```python", ""),
        ("", ""),
        ("<think>\n```python\nthought\n```\n</think>\n```python\nsaid\n```", "said"),
        ("<think>\n```python\nthought\n```\n</think>\nnothing", ""),
        ("<think>\n```python\nthought\n```", ""),
    ],
)
def test_which_block_counts(response: str, code: str) -> None:
    assert code_of(response) == code


def test_language_comes_from_the_tag() -> None:
    assert extract("```c++\nint main;\n```", ALL, "python") == Extracted("int main;\n", "cpp")
    assert extract("```\nx\n```", ALL, "cpp") == Extracted("x\n", "cpp")
    assert extract("```cpp\nx\n```", PYTHON, "python") == "no block of code in python, only cpp"
    assert extract("```python\nx\n```\n```cpp\ny\n```", PYTHON, "python") == Extracted("x\n", "python")


@pytest.mark.parametrize(
    ("tag", "language"),
    [
        *((tag, "python") for tag in ("python3.11", "Python", "py3", "python:a.py", "a.py", "src/a.py", "pypy3.10")),
        *((tag, "python") for tag in ("{python}", "{.python", "python,linenos", "python=", "language-python")),
        *((tag, "cpp") for tag in ("c++17", "cpp20", "gnu++17", "main.cpp", "cpp:main.cpp", "c++")),
        *((tag, "c") for tag in ("c99", "c11", "main.c")),
        *((tag, "javascript") for tag in ("node.js", "es6", "js", "javascript:main.js")),
        *((tag, "") for tag in ("python2", "py2.7", "c#", "f#", "pycon", "typescript", "text", "3", "objective-c", "")),
    ],
)
def test_tags(tag: str, language: str) -> None:
    assert language_of(tag) == language


def test_a_shell_block_counts_only_alone() -> None:
    shown = "```python\nx\n```\nRun it:\n```bash\npython a.py\n```"
    assert extract(shown, ALL, "python") == Extracted("x\n", "python")
    assert extract("```bash\nread n\n```", ALL, "python") == Extracted("read n\n", "bash")


def test_a_byte_order_mark_before_the_fence() -> None:
    assert code_of("\ufeff```python\na\n```") == "a"


def test_reasons() -> None:
    assert extract("<think>```python\na\n```", PYTHON, "python") == "no answer after the thinking"
    assert extract("it is 4", PYTHON, "python") == "no block of code in python"
    assert extract("```python\n" + "x" * MAX_CODE + "\n```", PYTHON, "python") == (
        f"the program is longer than {MAX_CODE} characters"
    )


def test_blocks_know_whether_they_were_closed() -> None:
    assert blocks("```a\nb\n```\n```\nc") == [Block("a", "b\n", True), Block("", "c\n", False)]


@pytest.mark.parametrize(
    "text", ["```\n" * 200_000, "`" * 1_000_000, " " * 1_000_000 + "```", "``` \n`````\n" * 100_000]
)
def test_floods_are_read_in_linear_time(text: str) -> None:
    start = time.process_time()
    extract(text, ALL, "python")
    assert time.process_time() - start < 2


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["```", "````", "~~~", "python", "\n", " ", "x", "<think>", "</think>", "\0", "\u2028"]))
)
def test_any_text_is_read(parts: list[str]) -> None:
    found = extract("".join(parts), ALL, "python")
    assert isinstance(found, Extracted) or found


@settings(deadline=None)
@given(st.text(alphabet="ab \n\t#'\"\\{}", min_size=1).filter(str.strip))
def test_what_stands_in_a_block_comes_out(code: str) -> None:
    found = extract(f"Here:\n```python\n{code}\n```\nDone.", PYTHON, "python")
    assert isinstance(found, Extracted)
    assert found.code == code + "\n"
