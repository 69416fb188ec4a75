"""``k15 eval`` on models: in the loop and offline are one; what cannot work is refused before the first token."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import pytest
from eval_kit import write_model
from run_kit import tiny

from recipes.commands.cli import main
from recipes.commands.eval import slug
from recipes.commands.eval_models import LocalModel, engine_config
from recipes.commands.eval_options import Options
from recipes.commands.serve import Serving, command_of
from recipes.run.session import run
from rl.config import RunConfig
from rl.config_io import load
from rollout.config import EngineConfig
from rollout.engines.actor import build_engine
from rollout.models import moba
from rollout.models.attention import BlockAttentionConfig
from tests.tiny_models import tiny_llama

ROWS = [{"id": f"q{i}", "problem": f"{i} + 2?", "answer": str(i + 2), "level": 1} for i in range(3)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "math500.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def drawn(path: Path) -> list[tuple[str, int, list[int], str, str, str]]:
    return [(r["problem"], r["sample"], r["token_ids"], r["response"], r["stop"], r["verdict"]) for r in rows(path)]


def test_in_loop_is_offline_token_for_token(tmp_path: Path) -> None:
    """Greedy and sampled: the run's own evaluation, and ``k15 eval`` of the checkpoint that it exported."""
    folder, out = tmp_path / "run", tmp_path / "out"
    assert run(tiny(iterations=2, eval={"every": 0, "samples": 2}), folder) == 0
    command = ["eval", "heldout", "--model", str(folder)]
    assert main([*command, "--out", str(out / "greedy"), "--n", "1", "--temperature", "0"]) == 0
    assert main([*command, "--out", str(out / "sampled")]) == 0
    for name, loop in (("greedy", "after-greedy"), ("sampled", "after")):
        ours = drawn(out / name / "samples.parquet")
        assert ours == drawn(folder / "eval" / f"{loop}.parquet")
        assert sum(len(tokens) for _, _, tokens, *_ in ours) > 20
    result = json.loads((out / "sampled" / "results.json").read_text())["benchmarks"][0]
    summary = json.loads((folder / "summary.json").read_text())["accuracy_after"]
    assert result["score"]["mean"] == summary["mean"]
    assert result["score"]["ci95"] == summary["ci95"]


def test_a_checkpoint_on_a_benchmark(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "math500", "--model", str(model), "--data", str(data), "--engine", "hf", "--n", "2"]
    command += ["--max-tokens", "8", "--out", str(tmp_path)]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "<user>0 + 2?" in shown.out
    assert "<assistant>" in shown.out
    assert "math500" in shown.out
    result = json.loads((tmp_path / "results.json").read_text())["benchmarks"][0]
    assert result["first_prompt"].endswith("<assistant>")
    assert result["responses"] == 6
    assert result["speed"]["tokens"] == result["tokens"]["mean"] * 6
    assert 0 < result["speed"]["busy"] <= 1.01  # how near to 1 is the machine's load
    assert (tmp_path / "report.html").stat().st_size > 10_000
    first = drawn(tmp_path / "samples.parquet")
    assert main(command) == 0  # everything is on record
    assert drawn(tmp_path / "samples.parquet") == first
    assert json.loads((tmp_path / "results.json").read_text())["benchmarks"][0]["speed"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-tokens", "500"], "no room for --max-tokens 500 after the longest prompt, "),
        (["--n", "1", "--pass-k", "1,8"], "pass@8 needs at least 8 responses per problem, not 1: --n 8"),
        (["--thinking", "off"], "no switch for thinking"),
        (["--shots", "500"], "fewer than --shots 500"),
        (["--from", "2025"], "no dates"),
        (["--data", "/no/such"], "--data /no/such: no such file or directory"),
    ],
)
def test_what_cannot_work_is_one_line(
    model: Path, data: Path, tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--shots" in arguments:
        (data / "math_train.jsonl").write_text(json.dumps({"problem": "a", "answer": "b", "solution": "c"}) + "\n")
    where = [] if "--data" in arguments else ["--data", str(data)]
    command = ["eval", "math500", "--model", str(model), *where, "--engine", "hf", "--out", str(tmp_path)]
    assert main([*command, *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("k15: ")
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["math50", "--model", "x"], "did you mean 'math500'"),
        (["math500", "--model", "/no/such"], "/no/such: no such model directory"),
        (["math500"], "give either --model"),
        (["--model", "x"], "name the benchmarks once"),
        (["heldout", "--predictions", "x"], "needs exactly one benchmark"),
        (["heldout", "--model", "{model}"], "held-out problems of a run directory"),
        (["needle", "--model", "{model}"], "context of 512 tokens is too short for a needle test"),
        (["needle,needle", "--model", "x"], "named twice"),
    ],
)
def test_wrong_commands(
    model: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = [argument.format(model=model) for argument in arguments]
    assert main(["eval", *given, "--out", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err


def test_a_short_context_shortens_answers_and_says_so(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "math500", "--model", str(model), "--data", str(data), "--engine", "hf", "--out", str(tmp_path)]
    assert main([*command, "--n", "1", "--limit", "1"]) == 0
    assert "tokens per answer instead of 32768: the context is 512" in capsys.readouterr().err


def test_predictions_need_no_torch(data: Path, tmp_path: Path) -> None:
    lines = [{"id": "q0", "response": "\\boxed{2}"}, {"id": "q1", "response": "\\boxed{4}"}]
    lines += [{"id": "q0", "response": "\\boxed{5}"}]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code = (
        "import sys; from recipes.commands.cli import main\n"
        f"code = main(['eval', '--predictions', {str(tmp_path / 'answers.jsonl')!r}, '--bench', 'math500', '--data', "
        f"{str(data)!r}, '--out', {str(tmp_path / 'out')!r}])\n"
        "loaded = {'torch', 'vllm', 'ray', 'transformers'} & set(sys.modules)\n"
        "assert not loaded, loaded\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no prediction for 1 of 3 problems (first: 'q2'); the score is over the others" in done.stderr
    assert "score over 2 of 3 problems" in done.stdout
    result = json.loads((tmp_path / "out" / "results.json").read_text())["benchmarks"][0]
    assert [(p["id"], p["verdicts"]) for p in result["problems"]] == [("q0", ["correct", "wrong"]), ("q1", ["wrong"])]
    assert result["score"]["mean"] == 0.25


def test_the_list_teaches_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--list"]) == 0
    out = capsys.readouterr().out
    assert "aime2024  AIME 2024\n  aime2024.jsonl; n 8, temperature 0.6, top-p 0.95" in out
    assert "pass@1 averaged over 8 runs" in out


@pytest.mark.parametrize("trained_on", ["cpu", "cuda", None])
@pytest.mark.parametrize(("device", "dtype"), [("cpu", "float32"), ("cuda", "bfloat16")])
def test_engines_have_the_type_that_suits_their_device(
    device: Literal["cpu", "cuda"], dtype: str, trained_on: str | None
) -> None:
    """A run that was trained in float32 on a CPU is judged in bfloat16 on a GPU, and the other way round."""
    run = load(RunConfig(), overrides=[("device", trained_on), ("engine.dtype", "float16")]) if trained_on else None
    model = LocalModel("m", None, (1,), 4096, 32, "f", run)
    engine, _ = engine_config(model, Options(("math500",), device=device), 512)
    assert (engine.device, engine.dtype) == (device, "float16" if device == trained_on else dtype)
    engine, _ = engine_config(model, Options(("math500",), device=device, dtype="float16"), 512)
    assert engine.dtype == "float16"


def test_output_folders_have_harmless_names() -> None:
    assert slug("runs/mine/") == "runs-mine"
    assert slug("http://host:8000/v1") == "host-8000-v1"
    assert slug("../..") == "model"


def test_serve_is_vllms_server_with_the_models_context(model: Path) -> None:
    command = command_of(Serving("runs/mine", extra=("--api-key", "k")), str(model), 512, "cpu", block_attention=False)
    text = " ".join(command)
    assert "--model " + str(model) in text
    assert "--served-model-name mine" in text
    assert "--host 127.0.0.1 --port 8000" in text
    assert "--max-model-len 512" in text
    assert "--no-enable-chunked-prefill" in text
    assert text.endswith("--api-key k")
    assert "float32" not in " ".join(command_of(Serving("m"), "m", None, "cuda", block_attention=False))


def test_a_model_of_block_attention_is_judged_and_served_with_it(tmp_path: Path) -> None:
    """It would answer with full attention otherwise, and nothing would say so."""
    block = BlockAttentionConfig(block_size=32, top_k=2)
    policy = tiny_llama()
    moba.use(policy, block, otherwise="sdpa")
    policy.save_pretrained(tmp_path)
    engine = build_engine(str(tmp_path), EngineConfig(kind="hf"), 0)

    async def start() -> None:
        await engine.start()
        assert engine._model.config._attn_implementation == moba.NAME  # type: ignore[attr-defined]
        await engine.close()

    asyncio.run(start())
    assert engine.attention.moba == block  # type: ignore[attr-defined]
    cpu, gpu = (
        " ".join(command_of(Serving("m"), "m", None, device, block_attention=True)) for device in ("cpu", "cuda")
    )
    assert "--block-size 32" in cpu
    assert "--block-size 32 --attention-backend CUSTOM" in gpu


def test_an_output_that_cannot_be_is_refused_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for out in ("file", "file/below"):
        assert main(["eval", "math500", "--model", str(tmp_path), "--out", str(tmp_path / out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"k15: {tmp_path / out} cannot be written: {tmp_path / 'file'} is a file; choose another --out"
