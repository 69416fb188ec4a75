"""Sources of documents: the same ones in the same order, from any number on."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from rl.text.carried import documents as carried
from rl.text.config import FactsText, HubText, ProblemsText, PythonText, TextSource
from rl.text.documents import Documents, Split, Stretch, TextError, open_source
from rl.text.facts import KEYS, LETTERS, VALUES, Language
from rollout.problems.build import build_generator
from rollout.problems.config import SumsSource


def some(source: Documents, start: int, count: int, split: Split = "train") -> list[list[Stretch]]:
    return [list(document) for document in islice(source.read(start, split), count)]


@pytest.mark.parametrize(
    "config",
    [FactsText(length=50), ProblemsText(), ProblemsText(source=SumsSource()), PythonText(packages=("filelock",))],
    ids=["facts", "arithmetic", "sums", "python"],
)
def test_documents_are_the_same_from_any_number_on(config: TextSource) -> None:
    source = open_source(config, None, seed=3)
    first = some(source, 0, 5)
    assert len(first) == 5
    assert some(source, 3, 2) == first[3:]
    assert open_source(config, None, seed=3).identity == source.identity
    if source.endless:
        assert not {str(one) for one in some(source, 0, 50)} & {str(one) for one in some(source, 0, 50, "heldout")}


def test_sources_that_differ_have_other_identities() -> None:
    configs: list[TextSource] = [FactsText(), FactsText(seed=1), ProblemsText(), PythonText(), PythonText(part="code")]
    configs.append(PythonText(packages=("filelock",)))
    identities = [open_source(config, None, 0).identity for config in configs]
    identities.append(open_source(ProblemsText(), None, 1).identity)
    assert len(set(identities)) == len(identities)


def test_a_problem_is_asked_and_its_demonstration_answers() -> None:
    config = ProblemsText(source=SumsSource())
    ((one,),) = some(open_source(config, None, 0), 4, 1)
    problem = build_generator(config.source).problem(4, "train")
    assert one.asked == problem.messages
    assert one.ends
    assert problem.answer in one.text
    assert one.text == "".join(turn.content for turn in one.turns)
    assert one.bytes == len(problem.prompt.encode()) + len(one.text.encode())


def test_a_package_that_is_not_there_is_told_before_anything_is_read() -> None:
    with pytest.raises(TextError, match=r"package 'no_such_package' is not installed.*\(text of kind python\)$"):
        open_source(PythonText(packages=("no_such_package",)), None, 0)


def test_prose_is_documentation_and_code_is_the_rest() -> None:
    prose, code = ("".join(carried("filelock", part)) for part in ("prose", "code"))
    assert "def acquire" in code
    assert "def acquire" not in prose
    assert "lock" in prose


def test_code_keeps_every_line_that_is_not_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "formfed"
    package.mkdir()
    body = "\n".join(f"number_{n} = {n}  # a line that has to stay" for n in range(9))
    (package / "__init__.py").write_text(
        f'"""One\ntwo."""\n\x0c\n{body}\nraw = "\\d"\n\ndef f():\n    """Gone."""\n    return 1\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    (text,) = carried("formfed", "code")
    assert "Gone" not in text
    assert "two" not in text
    assert text.count("has to stay") == 9
    assert "return 1" in text
    assert 'raw = "\\d"' in text


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [{"text": f"row {n}", "body": n} for n in range(6)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_a_data_set_is_streamed_from_any_row_on(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source = open_source(HubText(path=str(data_set)), None, 0)
    assert [one.text for (one,) in some(source, 0, 9)] == [f"row {n}" for n in range(6)]
    assert [one.text for (one,) in some(source, 4, 9)] == ["row 4", "row 5"]
    with pytest.raises(TextError, match=r"row 0: field 'body' is int, not text; set the source's field$"):
        some(open_source(HubText(path=str(data_set), field="body"), None, 0), 0, 1)
    with pytest.raises(TextError, match=r"^data set '.*' \(split nothing\) cannot be read: .*") as caught:
        some(open_source(HubText(path=str(data_set), split="nothing"), None, 0), 0, 1)
    assert "\n" not in str(caught.value)
    with pytest.raises(TextError, match=r"^data set '.*gone' \(split train\) cannot be read: .*"):
        some(open_source(HubText(path=str(tmp_path / "gone")), None, 0), 0, 1)


def test_a_recalled_value_is_the_one_that_its_distance_points_to() -> None:
    drawn = Language(words=1.0).draw(2000, np.random.default_rng(5))
    assert len(drawn.text) == len(drawn.distance) == 2000
    assert set(drawn.text) <= set(LETTERS + KEYS + VALUES)
    last: dict[str, int] = {}
    for at, letter in enumerate(drawn.text):
        if letter not in VALUES:
            assert drawn.distance[at] == 0
            continue
        key = drawn.text[at - 1]
        assert drawn.distance[at] == at - last.get(key, at)
        if key in last:
            assert drawn.text[last[key]] == letter
        last[key] = at
    assert (drawn.distance > 200).sum() > 20
