"""The page of a pretraining, from invented records."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser_kit import PROBE, body_of, drawn, needs_browser, noted
from safetensors.numpy import save_file

from evals.report.page import render
from evals.report.run.data import ReportError
from recipes.commands.cli import main
from recipes.pretrain.report import page_script, payload, read_course, write_report
from recipes.pretrain.report.figures import POINTS, Course, positions, sections
from recipes.pretrain.report.stages import read_of, stages
from recipes.pretrain.results import Result, parameters_of, write_result
from rl.config_io import dump
from rl.learner.config import ExpertsConfig, LearnerConfig, ModelConfig, OptimizerConfig, ScratchModel
from rl.pretraining import HeldOut
from rl.pretraining_config import MoonlightSchedule, PretrainConfig
from rl.text.config import FactsText, PythonText

HOSTILE = "</script><script>document.title='pwned'</script>\x1b[31m\u202e<img src=x onerror=document.title='pwned'>"
CONFIG = PretrainConfig(
    recipe="small",
    model=ModelConfig(
        base=ScratchModel(
            layers=2, width=32, heads=2, kv_heads=2, mlp_width=64, context=17, experts=ExpertsConfig(width=16, latent=8)
        )
    ),
    text={"prose": PythonText(), "facts": FactsText()},
    schedule=MoonlightSchedule(steps=20, batch=2, mixture={"prose": 3, "facts": 1}, best={"facts": 1}),
    learner=LearnerConfig(optimizer=OptimizerConfig(kind="muon"), qk_clip=50.0),
)


def row(step: int, **more: float) -> dict[str, float]:
    return {
        "iteration": step,
        "loss": 5.0 - 0.1 * step,
        "lr": 1e-3,
        "tokens": 34,
        "seconds": 0.5,
        "stage": 0,
        "grad_norm": 1.0,
        "skipped": 0.0,
        "update_rms/muon": 0.2,
        "experts/overload": 1.5,
        "nonfinite": 0,
        "attention/largest_logit": 60.0,
        "attention/clipped_heads": 3.0,
        **more,
    }


def measured(name: str, loss: float) -> dict[str, float]:
    return {f"heldout/{name}/{what}": loss + 0.1 * place for place, what in enumerate(("loss", "bits", "trailing"))}


def records(folder: Path, steps: int = 20, name: str = "prose") -> Path:
    """A pretraining's folder after so many steps, measured before every tenth."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row(step, **(measured(name, 5.5 - 0.1 * step) if step % 10 == 0 else {})) for step in range(steps)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (folder / "pretraining.yaml").write_text(dump(CONFIG))
    (folder / "run.json").write_text(json.dumps({"started": "then", "git_revision": "abc", "versions": {"k15": "1"}}))
    return folder


def finished(folder: Path) -> Path:
    records(folder)
    held_out = {name: HeldOut(1.5, 2.2, (2.0, 1.4, 1.3)) for name in CONFIG.text}
    write_result(folder, Result(held_out, 680, 1234, 9.0, "model"))
    return folder


def of(folder: Path) -> dict[str, list[dict[str, object]]]:
    """The series of every chart, by its title."""
    data = payload(read_course(folder))
    return {panel["title"]: panel["series"] for section in data["sections"] for panel in section["panels"]}


def test_losses_are_told_over_the_tokens_that_were_read(tmp_path: Path) -> None:
    panels = of(finished(tmp_path))
    faint, smoothed, prose, facts = panels["Training and held-out loss"]
    assert faint["x"] == smoothed["x"] == [34 * step for step in range(1, 21)]
    assert faint["y"] == [5.0 - 0.1 * step for step in range(20)]
    assert (prose["x"], prose["y"]) == (
        (0, 340, 680),
        (5.5, 4.5, 1.5),
    )  # measured before steps 0 and 10, and at the end
    assert facts["y"] == (None, None, 1.5)
    assert panels["Trailing loss"][0]["y"] == (5.7, 4.7, 1.3)
    assert panels["Attention logits"][2]["y"] == [50.0] * 20  # the bound
    assert set(panels) >= {"Learning rate", "Gradient norm", "Update size", "Overload of experts", "Throughput"}


def test_positions_are_the_middles_of_the_stretches(tmp_path: Path) -> None:
    panel = positions(read_course(finished(tmp_path)))
    assert panel is not None
    # 16 of the 17 tokens are predicted, 2 to 17: in stretches of 6, 5 and 5.
    assert panel.series[0].x == [4, 10, 15]
    assert panel.series[0].y == (2.0, 1.4, 1.3)


def test_texts_have_first_and_last_loss_and_what_was_read(tmp_path: Path) -> None:
    prose, facts = payload(read_course(finished(tmp_path)))["texts"]
    assert {key: prose[key] for key in ("first", "loss", "bits", "trailing")} == {
        "first": 5.5,
        "loss": 1.5,
        "bits": 2.2,
        "trailing": 1.3,
    }
    assert facts["first"] is None
    rows = sum(stage["tokens"] for stage in stages(CONFIG))
    assert prose["read"] + facts["read"] == rows
    assert read_of(CONFIG, 0) == {"prose": 0, "facts": 0}
    assert read_of(CONFIG, 1) == {"prose": 34, "facts": 0}  # two sequences, three to one


def test_an_unfinished_one_has_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records(tmp_path / "run", steps=7)
    (tmp_path / "run" / "initial").mkdir()
    save_file({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}, tmp_path / "run/initial/m.safetensors")
    assert main(["report", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "report.html")
    data = payload(read_course(tmp_path / "run"))
    assert (data["steps"], data["planned"], data["finished"], data["parameters"]) == (7, 20, False, 17)
    assert data["positions"] is None
    assert data["texts"][0]["loss"] == 5.5


@pytest.mark.parametrize("what", ["nothing", "other version"])
def test_what_is_missing_is_left_out(tmp_path: Path, what: str) -> None:
    if what == "nothing":
        (tmp_path / "pretraining.yaml").write_text(dump(CONFIG))
    else:
        finished(tmp_path)
        (tmp_path / "run.json").unlink()
        (tmp_path / "pretraining.yaml").write_text(dump(CONFIG).replace("seed: 0", "seed: many"))
    write_report(tmp_path)
    data = payload(read_course(tmp_path))
    assert bool(data["sections"]) == (what != "nothing")
    assert bool(data["notes"]) == (what != "nothing")
    assert [text["name"] for text in data["texts"]] == ["prose", "facts"]


def test_broken_records_are_one_line(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ReportError, match=r"results\.json: not what k15 wrote"):
        write_report(tmp_path)


def test_lines_of_many_steps_are_thinned_and_keep_what_was_measured() -> None:
    rows = [row(step, **(measured("prose", 1.0) if step % 333 == 0 else {})) for step in range(10_000)]
    course = Course("long", {}, CONFIG, "", rows, None, None)
    shown = course.shown()
    assert POINTS <= len(shown) <= POINTS + 40
    assert {0, 332, 9656, 9999} <= set(shown)
    for section in sections(course):
        assert all(len(series.x) == len(series.y) <= POINTS + 40 for panel in section.panels for series in panel.series)


def test_parameters_are_counted_from_heads(tmp_path: Path) -> None:
    assert parameters_of(tmp_path) == 0
    save_file({"a": np.zeros((3, 4), np.float32)}, tmp_path / "1.safetensors")
    save_file({"b": np.zeros((), np.float32)}, tmp_path / "2.safetensors")
    assert parameters_of(tmp_path) == 13


def hostile(folder: Path) -> Path:
    """Whatever a file that was tampered with can bring: no configuration, names of texts, versions."""
    records(folder, name=HOSTILE)
    (folder / "pretraining.yaml").write_text(f"text: {json.dumps(HOSTILE)}\n")
    (folder / "run.json").write_text(json.dumps({"git_revision": HOSTILE, "versions": {HOSTILE: HOSTILE}}))
    write_result(folder, Result({HOSTILE: HeldOut(1.0, 1.0, (1.0,))}, 680, 1, 1.0, HOSTILE))
    return folder


def test_hostile_text_is_inert(tmp_path: Path) -> None:
    text = write_report(hostile(tmp_path / "run")).read_text("utf-8")
    assert text.count("<script") == 2
    assert "<img" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)
    assert "https://" not in text
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", page_script())


LOOK = """
setTimeout(() => {
  const charts = document.querySelectorAll(".panel svg");
  charts[0]?.dispatchEvent(new KeyboardEvent("keydown", { key: "End", bubbles: true }));
  document.body.dataset.places = JSON.stringify([...document.querySelectorAll(".at")].map((at) => at.textContent));
  document.body.dataset.wide = String(document.documentElement.scrollWidth > window.innerWidth);
}, 0);
"""


@needs_browser
@pytest.mark.parametrize("kind", ["finished", "hostile", "empty"])
def test_a_browser_draws_the_page(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "run"
    if kind == "empty":
        folder.mkdir()
        (folder / "pretraining.yaml").write_text(dump(CONFIG))
    else:
        {"finished": finished, "hostile": hostile}[kind](folder)
    page = tmp_path / "page.html"
    script = PROBE + page_script() + LOOK
    page.write_text(render("t", payload(read_course(folder)), script, "texts"), "utf-8")
    document = drawn(page, tmp_path / "profile")
    found, body = noted(document), body_of(document)
    assert found["wide"] == "false"
    assert "pwned</title>" not in document
    if kind == "finished":
        places = json.loads(found["places"])
        assert places.count("680 tokens") == len(places) - 1  # all but the chart over positions
        for words in ("Loss by position", "Overload of experts", "stage 3", "20 steps, finished", "facts 100 %"):
            assert words in body, words
    elif kind == "hostile":
        assert "<img" not in body
        assert "Left out of this report" in body
    else:
        assert "No step is done yet" in body
