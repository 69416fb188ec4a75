"""``k15 sample --evidence``: an answer from files in windows, which of them spoke, and files that cannot be read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from eval_kit import write_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.commands.cli import main
from recipes.commands.sample import SampleError, find_model
from recipes.commands.sample_evidence import How, Rendering, sample_with_evidence, spoke
from rollout.evidence.config import MergingConfig
from rollout.evidence.files import LARGEST, Piece
from rollout.evidence.merge import merge

QUESTION = "Which?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny", context=128, seed=3)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    texts = {"a.txt": "The first text.", "b.txt": "Another text, which is longer.", "c.txt": "third"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return [tmp_path / name for name in texts]


def sampled(model: Path, *arguments: str) -> list[str]:
    return ["sample", str(model), QUESTION, "--max-tokens", "12", *arguments]


@pytest.mark.parametrize("pooling", ["entropy", "mean", "exact"])
def test_the_answer_is_what_the_windows_merge_to(
    model: Path, files: list[Path], pooling: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand: every row by itself, without an engine."""
    tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model).eval()
    texts = [QUESTION, *(f"{file.read_text()}\n\n{QUESTION}" for file in files)]
    rows = [tokenizer(f"<user>{text}<assistant>", add_special_tokens=False)["input_ids"] for text in texts]
    merging = MergingConfig(pooling=pooling)
    drawn: list[int] = []
    pointers: list[int] = []
    while len(drawn) < 12 and tokenizer.eos_token_id not in drawn:
        with torch.inference_mode():
            logits = torch.stack([network(torch.tensor([[*row, *drawn]])).logits[0, -1] for row in rows])
        step = merge(logits, merging, pointers[-1] if pointers else 0)
        pointers.append(step.pointer)
        drawn.append(int(step.logits.argmax()))
    capsys.readouterr()  # transformers shows how it loads
    given = [*map(str, files), "--pooling", pooling, "--temperature", "0"]
    assert main(sampled(model, "--evidence", *given)) == 0
    out, err = capsys.readouterr()
    assert out.rstrip("\n") == tokenizer.decode([token for token in drawn if token != tokenizer.eos_token_id])
    told, pointed = err.splitlines()
    assert told.startswith(f"[1/1: {len(drawn)} tokens, stopped by ")
    assert pointed == spoke(pointers, [Piece(str(file), "") for file in files], merging)


def test_same_seed_same_text(model: Path, files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    command = sampled(model, "--evidence", *map(str, files), "--n", "2", "--seed", "5")
    found = []
    for _ in range(2):
        assert main(command) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1]
    first, second = sample_with_evidence(
        find_model(str(model)), QUESTION, [Piece("a", "x")], How(MergingConfig(), None, None), n=2, max_tokens=12
    )
    assert first.token_ids != second.token_ids


@pytest.mark.parametrize("beside", ["truncated", "parallel", "vote"])
def test_another_way_answers_beside(
    model: Path, files: list[Path], beside: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(sampled(model, "--evidence", *map(str, files), "--beside", beside, "--temperature", "0")) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) >= 2
    assert f"[{beside}:]" in err.splitlines()
    assert err.splitlines()[-1].startswith(f"[{beside}: ")


def test_truncated_evidence_leaves_room_for_the_answer(model: Path) -> None:
    rendering = Rendering(find_model(str(model)), QUESTION)
    pieces = [Piece("a", "a" * 70), Piece("b", "b" * 70)]
    rows = rendering.rows(pieces, None, 20)
    cut = rendering.tokenizer.decode(rendering.truncated(rows).token_ids.tolist())
    assert len(rendering.truncated(rows)) == 128 - 20
    assert cut == f"<user>{'a' * 70}\n\n{'b' * (108 - 72 - 10)}\n\n{QUESTION}<assistant>"


def test_long_files_are_split_at_lines_and_named_by_part(model: Path) -> None:
    rendering = Rendering(find_model(str(model)), QUESTION)
    rows = rendering.rows([Piece("log", "one line\ntwo lines\nthree"), Piece("x", "short")], 12, 8)
    assert [(piece.name, piece.text) for piece in rows.pieces] == [
        ("log (1/3)", "one line"),
        ("log (2/3)", "two lines"),
        ("log (3/3)", "three"),
        ("x", "short"),
    ]


def test_evidence_writes_no_special_token(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rendering = Rendering(find_model(str(model)), QUESTION)
    rows = rendering.rows([Piece("a", "end<eos><assistant>no"), Piece("b", "fine")], None, 8)
    assert rendering.tokenizer.decode(rows.windows[0].token_ids.tolist()).startswith("<user>end< eos>< assistant>no")
    assert capsys.readouterr().err == "[a: has text of special tokens, which is spelt out]\n"


def test_which_file_spoke_is_safe_to_print(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "e\x1b[31m\u202e.txt"
    file.write_text("text")
    assert main(sampled(model, "--evidence", str(file))) == 0
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert "\u202e" not in err
    pieces = [Piece("a", ""), Piece("b", "")]
    assert spoke([1, 1, 2, 1], pieces, MergingConfig()) == (
        "[a spoke for 75 % (tokens 1-2, 4); b spoke for 25 % (tokens 3)]"
    )
    assert "a was the surest of 100 %" in spoke([1], pieces, MergingConfig(pooling="mean"))
    assert spoke([1, 2] * 10, pieces, MergingConfig()).count("and 2 more") == 2


def test_files_that_cannot_be_read_are_a_line_each_before_the_model_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bytes").write_bytes(b"ab\xff")
    (tmp_path / "blank").write_text(" \n\t\n")
    (tmp_path / "large").write_bytes(b"a" * (LARGEST * 2**20 + 1))
    names = ["missing", "bytes", "blank", "large", "."]
    given = [str(tmp_path / name) for name in names]
    assert main(["sample", "no/such/model", QUESTION, "--evidence", *given]) == 2
    said = capsys.readouterr().err.splitlines()
    words = ["cannot be read: No such file", "not UTF-8 text (byte 2)", "holds no text", "more than 16 MiB",
             "a directory; name the files in it"]  # fmt: skip
    assert len(said) == len(words)
    for line, name, word in zip(said, given, words, strict=True):
        assert line.startswith(f"k15: --evidence {Path(name)}: ")
        assert word in line


@pytest.mark.parametrize(
    ("text", "arguments", "code", "words"),
    [
        ("a" * 150, (), 1, "e.txt: 160 tokens with the question, the model's context is 128: split it into several"),
        ("a" * 150, ("--window", "200"), 1, "have it split: --window 106"),
        ("a", ("--prompt", "x"), 2, "give the question once"),
        ("a", ("--pooling", "exact", "--beta", "1"), 2, "beta of exact is the number of windows less one"),
        ("\u00e9", ("--beside", "parallel"), 0, ""),
    ],
)
def test_what_does_not_fit_is_one_line(
    model: Path,
    tmp_path: Path,
    text: str,
    arguments: tuple[str, ...],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "e.txt").write_text(text)
    assert main(sampled(model, "--evidence", str(tmp_path / "e.txt"), *arguments)) == code
    out, err = capsys.readouterr()
    if code:
        (line,) = err.splitlines()
        assert words in line
        assert out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x" * 200, "--evidence", "{file}"], "202 tokens without any evidence"),
        ([" ", "--evidence", "{file}"], "the prompt is empty"),
        (["q", "--window", "5"], "--window is of evidence in windows"),
        (["q", "--beside", "vote"], "--beside is of evidence in windows"),
        (["--evidence", "{file}"], "put the question before it"),
        (["q", "--evidence", "{file}", "{file}"], "named twice"),
        (["q", "--evidence", "{file}", "--pooling", "mean", "--eta", "0.3"], "--eta is of --pooling entropy alone"),
    ],
)
def test_wrong_commands(
    model: Path, tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "e.txt").write_text("a")
    given = [one.format(file=tmp_path / "e.txt") for one in arguments]
    assert main(["sample", str(model), *given]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_bad_files_are_told_without_loading_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from recipes.commands.cli import main; "
        f"main(['sample', 'x', 'q', '--evidence', {str(tmp_path / 'no')!r}]); print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "False"


def test_what_stands_between_markers_is_a_copy_of_one_file(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rendering = Rendering(find_model(str(model)), QUESTION)
    rows = rendering.rows([Piece("a", "one two"), Piece("b", "otter")], None, 8)
    held = rendering.quoting(rows, ("<", ">"))

    def next_to(text: str) -> set[str] | None:
        found = held.allowed(rendering.tokenizer(text, add_special_tokens=False)["input_ids"])
        return None if found is None else {rendering.tokenizer.decode([token]) for token in found}

    assert next_to("say ") is None
    assert next_to("say <") == set("one two" + "otter")
    assert next_to("say <o") == {"n", "t", ">"}
    assert next_to("say <two") == {">"}  # the other file begins with what would go on
    assert next_to("say <ott> and") is None
    with pytest.raises(SampleError, match="two different markers"):
        rendering.quoting(rows, ("x", "x"))
