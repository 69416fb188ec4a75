"""Every architecture of docs/models.md: two iterations with parity, resume, export, reload, or refused at the start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.zoo import CONTEXT, config_of, judge
from benchmarks.zoo_models import MODELS, PAGE, WINDOW, Model, page, save
from recipes.run.probe import beyond_windows
from recipes.run.session import run
from rl.config import RunConfig
from rollout.engines import hf as hf_engine
from rollout.models.tokenizer import build_tokenizer
from rollout.problems.build import build_generator
from rollout.problems.config import ArithmeticSource
from tests.needs import needs_vllm

torch.set_num_threads(1)
BY_NAME = {model.name: model for model in MODELS}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_with_the_hf_engine(model: Model) -> None:
    verdict, detail = judge(model, "hf")
    assert verdict == model.verdict("hf"), detail


@pytest.mark.slow
@needs_vllm
def test_with_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one with most in it: windows beside full layers, two rotary bases, tied; ``benchmarks.zoo`` has all."""
    name = "Gemma 3"
    for key in ("VLLM_ENABLE_V1_MULTIPROCESSING", "OMP_NUM_THREADS"):  # set by the engine, for its process
        monkeypatch.setenv(key, os.environ.get(key, "1"))
    verdict, detail = judge(BY_NAME[name], "vllm")
    assert verdict == BY_NAME[name].verdict("vllm"), detail


def test_the_page_is_made_of_the_same_list() -> None:
    assert PAGE.read_text() == page(), "python -m benchmarks.zoo --page"


SOURCE = {"kind": "arithmetic", "steps": [2, 2]}


def pretrained(name: str, folder: Path, **changes: Any) -> RunConfig:
    """A short run with a warm-up on that model, its prompts and responses longer than the window."""
    generator = build_generator(ArithmeticSource.model_validate(SOURCE))
    save(BY_NAME[name], folder, build_tokenizer(list(generator.alphabet), CONTEXT))
    return RunConfig.model_validate(
        {
            **config_of(folder, "hf").model_dump(),
            "iterations": 1,
            "problems": {"train": SOURCE, "heldout": SOURCE, "heldout_size": 2},
            "warmup": {"examples": 12, "batch_tokens": 256},
            "eval": {"every": 0, "samples": 1, "greedy": False},
            "checkpoint": {"every": 1},
            "log": {"live": False},
            "ray": {"in_process": True},
            **changes,
        }
    )


def test_a_run_on_a_windowed_model_ends_and_resumes(tmp_path: Path) -> None:
    config = pretrained("Mistral", tmp_path / "model")
    assert run(config, tmp_path / "run") == 0
    assert run(config.model_copy(update={"iterations": 2}), tmp_path / "run") == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"model", "summary.json", "report.html"}


def test_an_engine_that_computes_something_else_stops_the_run_before_the_warm_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers' sdpa leaves soft-capping out without a word."""
    monkeypatch.setattr(hf_engine, "own_attention", lambda config: None)
    assert run(pretrained("Gemma 2", tmp_path / "model"), tmp_path / "run") == 1
    assert "disagree" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("warmup*"))


def test_the_probe_before_the_warm_up_goes_beyond_every_window(tmp_path: Path) -> None:
    config = pretrained("Mistral", tmp_path / "model")
    assert WINDOW < beyond_windows(config) <= CONTEXT
    wide = config.model_copy(update={"engine": config.engine.model_copy(update={"max_model_len": WINDOW})})
    assert beyond_windows(wide) == 0
