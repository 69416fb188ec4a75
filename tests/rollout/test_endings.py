"""What ends a response is said in one place: for demonstrations, sampling, decoding and export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eval_kit import CHARACTERS

from rollout.models.endings import declare_end, declared_end, end_tokens
from rollout.models.prompts import PromptError, Transcript
from rollout.models.templates import turn_end
from rollout.models.tokenizer import build_tokenizer

TURNS = (
    "{% for m in messages %}<user>{{ m['content'] }}%s{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer_of(end_of_turn: str) -> Any:
    """Its EOS is ``<eos>``; ``<pad>`` stands for another token with which a template may end turns."""
    tokenizer = build_tokenizer(CHARACTERS, 64)
    tokenizer.chat_template = TURNS.replace("%s", end_of_turn)
    return tokenizer


def model(folder: Path, config: Any = None, generation: Any = None, **more: Any) -> str:
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", **more, **({} if config is None else {"eos_token_id": config})})
    )
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return str(folder)


@pytest.mark.parametrize(
    ("end_of_turn", "first"),
    [
        ("<eos>", "<eos>"),
        ("<pad>\\n", "<pad>"),  # ChatML: <|im_end|> and a line break, whatever the EOS is
        (" <pad>", "<pad>"),
        ("\\n", "<eos>"),  # an ordinary token ends nothing
        ("", "<eos>"),
        ("\\n\\nUser: ", "<eos>"),
    ],
)
def test_demonstrations_teach_what_the_template_ends_turns_with(end_of_turn: str, first: str) -> None:
    tokenizer = tokenizer_of(end_of_turn.replace("\\n", "\n"))
    end = end_tokens(tokenizer)
    assert tokenizer.convert_ids_to_tokens(end[0]) == first
    assert set(end) == {tokenizer.convert_tokens_to_ids(first), tokenizer.eos_token_id}
    reader = Transcript(tokenizer, end)
    said = tokenizer("7", add_special_tokens=False)["input_ids"]
    assert {reader.decode([*said, token]) for token in end} == {"7"}
    assert reader.decode([*said, end[0], end[0]]) == f"7{first}"  # one end, not all that look like one


@pytest.mark.parametrize(
    ("config", "generation", "declared"),
    [
        (5, {"eos_token_id": [6, 7], "do_sample": True}, [6, 7]),  # the generation config has the say
        ([5, 6], None, [5, 6]),
        (5, {"do_sample": False, "temperature": 0.6}, [5]),  # it contradicts itself and names no end
        (None, None, []),  # not Llama's default of 2
        (None, {"eos_token_id": 9}, [9]),
    ],
)
def test_a_models_files_are_read_as_they_stand(
    config: Any, generation: Any, declared: list[int], tmp_path: Path
) -> None:
    path = model(tmp_path, config, generation)
    assert declared_end(path) == declared
    tokenizer = tokenizer_of("<pad>")
    own = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    assert end_tokens(tokenizer, path) == tuple(dict.fromkeys((*own, *declared)))


def test_a_text_models_end_inside_of_another_models_configuration(tmp_path: Path) -> None:
    assert declared_end(model(tmp_path, text_config={"eos_token_id": [3, 4]})) == [3, 4]
    assert declared_end(model(tmp_path, 8, text_config={"eos_token_id": [3, 4]})) == [8]


def test_without_any_end_the_tokenizer_is_named() -> None:
    tokenizer = tokenizer_of("")
    tokenizer.eos_token = None
    tokenizer.name_or_path = "some/model"
    assert turn_end(tokenizer) is None
    with pytest.raises(PromptError, match=r"tokenizer 'some/model' has no EOS token"):
        end_tokens(tokenizer)


def test_an_export_names_every_end_and_keeps_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "generation_config.json"
    declare_end(tmp_path, (4, 1))
    assert json.loads(file.read_text()) == {"eos_token_id": [4, 1]}
    invalid = '{"do_sample": false, "temperature": 0.6,\n "eos_token_id": [1, 4, 9]}'
    file.write_text(invalid)
    declare_end(tmp_path, (4, 1))
    assert file.read_text() == invalid  # it names them already
    declare_end(tmp_path, (5,))
    assert json.loads(file.read_text()) == {"do_sample": False, "temperature": 0.6, "eos_token_id": 5}
