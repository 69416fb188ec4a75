"""A pretraining from text to model: measured right, done once, gone on with after a stop, refused in a line."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from paths import ROOT
from pretrain_kit import EXPERTS, SUMS, Noted, assert_same_training, keys, save_text, small, trained, with_base
from run_kit import tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from recipes.commands.cli import main
from recipes.commands.sample import find_model
from recipes.pretrain.session import check_finite
from recipes.pretrain.texts import open_texts, sources_of
from recipes.run.session import run as run_config
from rl.learner.learner import NonFiniteGradients
from rl.pretraining import HeldOut, plan
from rl.pretraining_config import PretrainConfig
from rl.record.log import read_metrics
from rl.stop import Interrupted
from rl.text.stretch import TextError
from rollout.models.tokenizer import byte_tokenizer
from tests.processes import until

KINDS: dict[str, dict[str, Any]] = {"dense": {}, "experts": {"experts": EXPERTS}}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text(tmp_path_factory.mktemp("text") / "prose.txt")


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def config(text: Path, kind: str) -> PretrainConfig:
    """With sums, which are made once."""
    texts = {"prose": {"kind": "files", "path": str(text)}, "sums": SUMS}
    return small(text, **with_base(text, **KINDS[kind]), text=texts, cache=str(text.parent / "cache"))


@pytest.fixture(scope="module")
def whole(config: PretrainConfig, kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(kind) / "run"
    trained(config, folder)
    return folder


def held_out(folder: Path, name: str) -> np.ndarray[Any, Any]:
    cache = Path(yaml.safe_load((folder / "pretraining.yaml").read_text()).get("cache") or folder / "text")
    (file,) = cache.glob(f"{name}-*/00000.heldout.npy")
    return np.load(file)


def losses(model: Any, rows: Any) -> torch.Tensor:
    """Nats of each token but the first of each row, by transformers' forward pass and a softmax in fp64."""
    ids = torch.tensor(np.asarray(rows).astype(np.int64))
    with torch.no_grad():
        scores = model(ids).logits[:, :-1].double().log_softmax(-1)
    return -scores.gather(-1, ids[:, 1:, None])[..., 0]


def command(folder: Path, config: dict[str, Any], *more: str) -> list[str]:
    """Arguments of ``k15 train`` for these keys."""
    file = folder.parent / f"{folder.name}.yaml"
    file.write_text(yaml.safe_dump(config | {"recipe": "moonlight"}))
    return ["train", "--config", str(file), "--run-dir", str(folder), *more]


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int = 2) -> str:
    capsys.readouterr()
    assert main(arguments) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("k15: ")]
    assert len(lines) == 1, lines
    return lines[0]


def test_transformers_finds_the_losses_that_are_told(whole: Path, config: PretrainConfig) -> None:
    result = json.loads((whole / "results.json").read_bytes())
    model = AutoModelForCausalLM.from_pretrained(whole / "model").eval()
    assert result["parameters"] == sum(one.numel() for one in model.state_dict().values()), "biases of experts, too"
    assert result["tokens"] == 8 * 3 * 64
    for name in config.text:
        ids = held_out(whole, name)[:512]
        count = len(ids) // 64
        found = losses(model, ids[: count * 64].reshape(count, 64))
        told = result["heldout"][name]
        assert told["loss"] == pytest.approx(float(found.mean()), rel=1e-5)
        parts = [float(part.mean()) for part in np.array_split(found.numpy(), 4, axis=1)]
        assert told["positions"] == pytest.approx(parts, rel=1e-5)


def test_bits_are_of_the_bytes_of_the_text(whole: Path) -> None:
    """Where all that is held out is measured: the end tokens, which cost, too, stand for no byte."""
    ids = held_out(whole, "prose")
    told = json.loads((whole / "results.json").read_bytes())["heldout"]["prose"]
    measured = ids[:512]
    tokenizer = AutoTokenizer.from_pretrained(whole / "model")
    size = len(tokenizer.decode(ids[ids != tokenizer.eos_token_id]).encode())
    share = size / len(ids)
    assert told["bits"] == pytest.approx(told["loss"] / math.log(2) / share, rel=2 / len(measured))


def test_metrics_have_a_line_for_each_step(whole: Path, config: PretrainConfig) -> None:
    rows = read_metrics(whole)
    steps = plan(config)
    assert [row["iteration"] for row in rows] == list(range(8))
    assert [row["lr"] for row in rows] == pytest.approx([step.lr for step in steps])
    assert [row["tokens"] for row in rows] == [step.tokens for step in steps]
    assert all(row["nonfinite"] == 0 for row in rows)
    assert [row["iteration"] for row in rows if "heldout/prose/loss" in row] == [0, 3, 6]
    uniform = math.log(len(AutoTokenizer.from_pretrained(whole / "model")))
    assert rows[0]["heldout/prose/loss"] == pytest.approx(uniform, abs=0.3)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert (whole / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "finished" in (whole / "report.html").read_text()
    assert not (whole / "checkpoints").exists()


def test_the_loss_of_a_step_is_that_of_its_windows(whole: Path, config: PretrainConfig) -> None:
    texts = open_texts(config, sources_of(config), byte_tokenizer(64), Path(str(config.cache)))
    rows = texts.rows(plan(config)[0])
    model = AutoModelForCausalLM.from_pretrained(whole / "initial").eval()
    assert read_metrics(whole)[0]["loss"] == pytest.approx(float(losses(model, np.stack(rows)).mean()), rel=1e-5)


def test_documents_apart_are_read_by_themselves(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": f"document {n} " + "word " * (n % 9)}) + "\n" for n in range(400)))
    config = small(file, documents="apart")
    trained(config, tmp_path / "run")
    texts = open_texts(config, sources_of(config), byte_tokenizer(64), tmp_path / "run" / "text")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "initial").eval()
    end = AutoTokenizer.from_pretrained(tmp_path / "run" / "model").eos_token_id
    found, pieces = [], 0
    for row in texts.rows(plan(config)[0]):
        piece: list[int] = []
        for token in [*row.tolist(), None]:
            if token is not None:
                piece.append(token)
            if token in (end, None):
                found += losses(model, [piece])[0].tolist() if len(piece) > 1 else []
                pieces += len(piece) > 1
                piece = []
    assert pieces > 3, "some row has a document's end"
    row = read_metrics(tmp_path / "run")[0]
    assert row["loss"] == pytest.approx(math.fsum(found) / len(found), rel=1e-5)


def test_its_model_is_found_and_answers(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_model(str(whole)).path == str(whole / "model")
    assert main(["sample", str(whole), "the stone", "--max-tokens", "8"]) == 0
    assert capsys.readouterr().out


def test_what_is_finished_is_not_done_again(whole: Path, config: PretrainConfig) -> None:
    before = {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.is_file()}
    watch = Noted()
    assert trained(config, whole, watch).tokens == 8 * 3 * 64
    assert watch.steps == 0
    assert {file: file.stat().st_mtime_ns for file in whole.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_stopped_training_goes_on_bit_for_bit(at: int, whole: Path, config: PretrainConfig, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Interrupted):
        trained(config, folder, Noted(stop=at))
    assert len(read_metrics(folder)) == at
    watch = Noted()
    trained(config, folder, watch)
    assert watch.steps == 8 - at
    assert_same_training(folder, whole)


@pytest.mark.slow
def test_a_killed_training_goes_on_bit_for_bit(text: Path, tmp_path: Path) -> None:
    """SIGKILL between checkpoints of the command, then the same command."""
    longer = keys(text, schedule={"kind": "cosine", "steps": 300, "batch": 3, "lr": 3e-3}, checkpoint={"every": 7})
    longer["measure"]["every"] = 40
    arguments = command(tmp_path / "run", longer)
    program = "import sys; from recipes.commands.cli import main; sys.exit(main(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    until(lambda: process.poll() is not None or len(read_metrics(tmp_path / "run")) > 30, "some steps")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / "results.json").exists()
    assert main(arguments) == 0
    assert main(command(tmp_path / "again", longer)) == 0
    assert_same_training(tmp_path / "run", tmp_path / "again")


def test_two_seeds_are_two_trainings(whole: Path, config: PretrainConfig, tmp_path: Path) -> None:
    trained(
        config.model_copy(update={"seed": 1, "cache": None, "text": {"prose": config.text["prose"]}}), tmp_path / "run"
    )
    assert read_metrics(tmp_path / "run")[0]["loss"] != read_metrics(whole)[0]["loss"]


def test_stages_change_length_mixture_and_batch(text: Path, tmp_path: Path) -> None:
    stages = [
        {"steps": 2, "batch": 4, "length": 32, "mixture": {"prose": 1}, "lr": 1e-3},
        {"steps": 3, "batch": 2, "length": 64, "mixture": {"again": 1}, "lr": 2e-3, "end": 0.0, "grows": [1, 4]},
    ]
    trained(small(text, schedule={"kind": "stages", "list": stages}), tmp_path / "run")
    rows = read_metrics(tmp_path / "run")
    assert [row["tokens"] for row in rows] == [128, 128, 128, 256, 256]
    assert [row["stage"] for row in rows] == [0, 0, 1, 1, 1]
    assert [row["lr"] for row in rows][:3] == [1e-3, 1e-3, 2e-3]


def test_block_attention_ends_at_the_step_that_says_so(text: Path, tmp_path: Path) -> None:
    """Its losses are those of block attention up to there, then full attention's with these weights."""

    def rows(name: str, moba: dict[str, Any] | None) -> list[float]:
        model = keys(text)["model"] | {"attention": {"moba": moba}}
        trained(small(text, model=model), tmp_path / name)
        return [row["loss"] for row in read_metrics(tmp_path / name)]

    block = {"block_size": 8, "top_k": 2}
    blocks, hybrid = rows("blocks", block), rows("hybrid", block | {"full_from": 4})
    assert hybrid[:4] == blocks[:4]
    assert hybrid[4] != blocks[4]
    full = rows("full", None)
    assert full[0] != blocks[0]
    result = json.loads((tmp_path / "hybrid" / "results.json").read_bytes())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hybrid" / "model").eval()
    ids = held_out(tmp_path / "hybrid", "prose")[: 64 * (512 // 64)]
    ids = ids[: len(ids) // 64 * 64].reshape(-1, 64)
    assert result["heldout"]["prose"]["loss"] == pytest.approx(float(losses(model, ids).mean()), rel=1e-5)


def alone(text: Path, **changes: Any) -> PretrainConfig:
    """With one text."""
    return PretrainConfig.model_validate(
        keys(text) | {"text": {"prose": {"kind": "files", "path": str(text)}}} | changes
    )


def test_a_text_is_read_several_times_and_that_is_said(text: Path, tmp_path: Path) -> None:
    few = save_text(tmp_path / "few.txt", documents=3)
    schedule = {"kind": "cosine", "steps": 6, "batch": 16, "length": 16}
    config = alone(few, measure={"every": 0, "tokens": 64}, schedule=schedule)
    watch = Noted()
    trained(config, tmp_path / "run", watch)
    assert len(watch.warnings) == 1
    assert "text 'prose' has" in watch.warnings[0]
    assert "times" in watch.warnings[0]


@pytest.mark.parametrize("words", ["x" * 30, ""], ids=["too short", "empty"])
def test_a_text_of_less_than_a_window_is_refused_first(words: str, tmp_path: Path) -> None:
    file = tmp_path / "short.txt"
    file.write_text(words)
    with pytest.raises(TextError, match="text 'prose'"):
        trained(small(file), tmp_path / "run")
    assert not (tmp_path / "run" / "initial").exists()


def test_a_text_without_a_line_break(tmp_path: Path) -> None:
    file = tmp_path / "line.txt"
    file.write_text("abcdefghij" * 12_000)
    assert trained(alone(file), tmp_path / "run").heldout["prose"].loss < 6


def test_a_loss_that_is_not_finite_is_no_result() -> None:
    fine = HeldOut(1.0, 2.0, (1.0,))
    check_finite({"a": fine})
    with pytest.raises(NonFiniteGradients, match="held out of text 'b' is not finite"):
        check_finite({"a": fine, "b": HeldOut(math.nan, math.nan, (1.0,))})


def test_another_key_is_refused(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path / "run", keys(text))) == 0
    before = (tmp_path / "run" / "pretraining.yaml").read_bytes()
    line = refused(capsys, command(tmp_path / "run", keys(text), "--schedule.lr", "0.001"))
    assert "schedule.lr: 0.003 -> 0.001" in line
    assert "choose another --run-dir" in line
    assert (tmp_path / "run" / "pretraining.yaml").read_bytes() == before
    assert main(command(tmp_path / "run", keys(text), "--checkpoint.every", "5", "--model.threads", "2")) == 0


def test_a_changed_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = save_text(tmp_path / "mine.txt")
    arguments = command(tmp_path / "run", keys(mine, schedule={"kind": "cosine", "steps": 12, "batch": 2, "lr": 1e30}))
    line = refused(capsys, arguments, 1)
    assert "gradients" in line
    save_text(mine, documents=60)
    line = refused(capsys, arguments, 1)
    assert f" has changed since {tmp_path / 'run'} began" in line


def test_folders_of_others_are_refused(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_config(tiny(iterations=0, warmup=None), tmp_path / "rl") == 0
    line = refused(capsys, command(tmp_path / "rl", keys(text)))
    assert "of something else; choose another --run-dir" in line
    assert main(command(tmp_path / "run", keys(text))) == 0
    file = tmp_path / "rl.yaml"
    file.write_text((tmp_path / "rl" / "config.yaml").read_text())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    line = refused(capsys, ["train", "--config", str(file), "--run-dir", str(tmp_path / "run")], 1)
    assert str(tmp_path / "run") in line
    assert "--run-dir" in line
    assert {path: path.stat().st_mtime_ns for path in before} == before
