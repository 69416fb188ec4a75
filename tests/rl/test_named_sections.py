"""Sections by names, as the texts of a pretraining are: what is said of a wrong key."""

from __future__ import annotations

import pytest

from rl.config_help import describe
from rl.config_io import ConfigError, load
from rl.pretraining_config import PretrainConfig

WRONG = [
    ({}, ("text.prose.part", "code"), "text is given whole: --text '{name: {kind: files, ...}}'"),
    ({}, ("text.part", "code"), "text is given whole"),
    ({"text": {"p": {"kind": "files", "pth": "x"}}}, None, "unknown key 'text.p.pth'; did you mean 'text.p.path'?"),
    ({"text": {"p": {"kind": "files", "path": "x", "part": "code"}}}, None, "'text.p.part' does not go with"),
    ({"text": {"p": {"kind": "file"}}}, None, "text.p.kind: 'file' is none of 'files', 'hub'"),
    ({"text": {"p": {"kind": "files"}}}, None, "text.p.path: a value is required"),
    ({"text": {"p": 3}}, None, "text.p: input should be"),
]


@pytest.mark.parametrize(("file", "pair", "words"), WRONG, ids=[words[:30] for _, _, words in WRONG])
def test_the_name_is_told(file: dict[str, object], pair: tuple[str, str] | None, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(PretrainConfig(), file, [pair] if pair else [])
    assert any(words in line for line in error.value.lines)


def test_texts_given_whole_replace_the_recipes() -> None:
    config = load(PretrainConfig(), {}, [("text", "{mine: {kind: files, path: corpus}}")])
    assert list(config.text) == ["mine"]


def test_help_lists_what_is_chosen_and_every_kind_by_name() -> None:
    text = describe(PretrainConfig())
    assert "text: as chosen\n  prose: {kind: python, part: prose" in text
    for key in ("--text.NAME.path", "--text.NAME.packages", "--text.NAME.source.steps"):
        assert key in text
    assert "--text.path" not in text
