"""The templates of reward models: what is put in, and what is refused."""

from __future__ import annotations

import pytest

from rewards.models.template import check, fill


@pytest.mark.parametrize(
    "template",
    ["{response}", '{"verdict": "correct"} {response}', r"\boxed{x} {answer} {response}", "{} {0} {a b} {response}"],
)
def test_other_braces_stay(template: str) -> None:
    check(template)
    assert fill(template, "q", "r", "{question}") == template.replace("{response}", "{question}")


@pytest.mark.parametrize(
    ("word", "meant"), [("respons", "response"), ("Question", "question"), ("refrence", "reference")]
)
def test_a_misspelt_field_is_refused(word: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"\{{{word}\}}, which stands for nothing: did you mean \{{{meant}\}}"):
        check(f"{{response}} {{{word}}}")


def test_without_the_response_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has no \{response\}"):
        check("{question} {reference}")
