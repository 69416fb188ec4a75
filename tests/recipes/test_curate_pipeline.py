"""``k15 curate`` as a whole, on hand-made rows: every row has a fate, and what is done once is not done again."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from curate_kit import Model

from recipes.commands.cli import main
from recipes.curate import order as order_module
from recipes.curate import pipeline
from recipes.curate.asking import Asker
from rl.stop import Interrupted
from rollout.problems.config import JsonlSource
from rollout.problems.jsonl import load_jsonl

THINGS = (
    "apples",
    "boats",
    "candles",
    "drums",
    "eggs",
    "forks",
    "guitars",
    "hats",
    "islands",
    "jars",
    "kites",
    "lamps",
)
PLACES = ("on the market", "in the garden", "behind the old school", "near the river", "at the harbour", "in a chest")
ORDERS = (
    "{who} counts {a} {thing} {place}. After {b} more arrive, how many {thing} are there?",
    "There were {a} {thing} {place}, and {who} took {b} of them away. How many {thing} stayed?",
    "Each of {a} boxes {place} holds {b} {thing}. How many {thing} does {who} find in all the boxes together?",
    "{who} shares {a} {thing} {place} among {b} friends; what is the remainder of that division?",
)
NAMES = ("Amira", "Bo", "Chen", "Dora", "Emeka", "Fay", "Goran", "Hana")


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    found: dict[str, dict[str, Any]] = {}
    while len(found) < count:
        kind, a, b = rng.randrange(4), rng.randrange(20, 99), rng.randrange(2, 19)
        what = {"who": rng.choice(NAMES), "thing": rng.choice(THINGS), "place": rng.choice(PLACES)}
        text = ORDERS[kind].format(a=a, b=b, **what)
        answer = (a + b, a - b, a * b, a % b)[kind]
        found[text] = {"id": f"r{seed}-{len(found)}", "problem": text, "answer": str(answer)}
    return list(found.values())


OTHERS: list[dict[str, Any]] = [
    {"id": "proof", "problem": "Prove that the sum of two odd numbers is even.", "answer": "0"},
    {"id": "bare", "problem": "How many corners has a cube?"},
    {"id": "choice", "problem": "Which is prime?\n(A) 4 (B) 9 (C) 11 (D) 15", "answer": "C"},
]


def write(path: Path, found: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Two sources, of which the second repeats rows of the first, and an evaluation set that has some of both."""
    folder = tmp_path_factory.mktemp("sources")
    first, second = rows(40, 1), rows(30, 2)
    again = {**first[3], "problem": first[3]["problem"].upper()}
    other = {**first[4], "answer": "7777"}
    held = [{**first[5], "id": "e0"}, {**second[6], "id": "e1"}]
    return (
        write(folder / "first.jsonl", [*first, *OTHERS]),
        write(folder / "second.jsonl", [*second, again, other]),
        write(folder / "held.jsonl", held),
    )


def curate(out: Path, *arguments: Any) -> int:
    return main(["curate", *map(str, arguments), "--out", str(out), "--encoder.kind", "static", "--workers", "1"])


def fates(out: Path) -> dict[str, dict[str, Any]]:
    lines = (out / "fates.jsonl").read_text().splitlines()
    return {row["place"]: row for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory, sources: tuple[Path, Path, Path]) -> Path:
    out = tmp_path_factory.mktemp("out")
    first, second, held = sources
    assert curate(out, first, second, "--against", held) == 0
    return out


def test_every_row_has_a_fate(curated: Path, sources: tuple[Path, Path, Path]) -> None:
    found = fates(curated)
    assert len(found) == 40 + len(OTHERS) + 30 + 2
    told = {row["id"]: (row["fate"], row.get("reason")) for row in found.values()}
    assert told["proof"] == ("formats", "proof")
    assert told["choice"] == ("formats", "multiple_choice")
    assert told["bare"] == ("read", "no problem or answer")
    assert told["second/r1-3"] == ("duplicates", "duplicate")
    assert told["r1-4"] == told["second/r1-4"] == ("duplicates", "answers disagree")
    assert told["r1-5"] == told["r2-6"] == ("contamination", "same")
    kept = [row["id"] for row in found.values() if row["fate"] == "kept"]
    set_ = [json.loads(line) for line in (curated / "curated.jsonl").read_text().splitlines()]
    assert [row["id"] for row in set_] == kept
    summary = json.loads((curated / "summary.json").read_bytes())["results"]
    assert sum(sum(stage["reasons"].values()) for stage in summary["stages"]) == len(found) - len(kept)
    assert Counter(row["fate"] for row in found.values())["kept"] == summary["kept"]["rows"]


def test_pairs_are_told_by_the_ids_of_fates(curated: Path) -> None:
    told = {row["id"]: row for row in fates(curated).values()}
    pairs = [json.loads(line) for line in (curated / "contamination" / "matches.jsonl").read_text().splitlines()]
    confirmed = {(pair["id"], pair["kind"], pair["problem"]) for pair in pairs if pair["kind"] == "same"}
    dropped = {name: row for name, row in told.items() if row["fate"] == "contamination" and row["reason"] == "same"}
    assert dropped
    assert confirmed == {(name, "same", row["detail"].split(": ")[1]) for name, row in dropped.items()}


def test_the_set_is_one_that_training_takes(curated: Path) -> None:
    problems = load_jsonl(JsonlSource(path=str(curated / "curated.jsonl")))
    assert len(problems) > 40
    assert problems[0].extra["domain"]
    assert {"cluster", "template_size"} <= problems[0].extra.keys()


def test_the_same_command_again_does_nothing_again(
    curated: Path,
    sources: tuple[Path, Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = (curated / "curated.jsonl").read_bytes(), (curated / "fates.jsonl").read_bytes()

    def refuse(*_: Any) -> Any:
        raise AssertionError("a finished stage is done again")

    monkeypatch.setattr(pipeline.stages, "read", refuse)
    monkeypatch.setattr(pipeline, "STAGES", tuple(replace(stage, act=refuse) for stage in pipeline.STAGES))
    first, second, held = sources
    assert curate(curated, first, second, "--against", held) == 0
    assert ((curated / "curated.jsonl").read_bytes(), (curated / "fates.jsonl").read_bytes()) == before
    told = [line for line in capsys.readouterr().err.splitlines() if " ->" in line]
    assert len(told) == 6
    assert all(line.endswith("(done before)") for line in told)


def test_other_keys_make_only_what_they_change(
    curated: Path, tmp_path: Path, sources: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(curated, out)
    first, second, held = sources
    assert curate(out, first, second, "--against", held, "--coverage.size", 20) == 0
    told = capsys.readouterr().err
    assert told.count("made again") == 1
    assert "coverage: made again (coverage.size: None -> 20)" in told
    assert len((out / "curated.jsonl").read_text().splitlines()) == 20
    assert curate(out, first, second, "--against", held, "--formats", "null") == 0
    told = capsys.readouterr().err
    assert "duplicates: made again" in told
    assert "read: made again" not in told


KEYS = ("--guess.attempts", 2, "--difficulty.samples", 3, "--difficulty.max_tokens", 32)
ENGINE = ("--engine.kind", "hf", "--engine.max_model_len", 256)


def with_model(folder: Path, sources: tuple[Path, Path, Path], patch: pytest.MonkeyPatch) -> tuple[Model, list[Any]]:
    model = Model(folder / "model", lambda name, sample: r"\boxed{1}" if sample % 3 else r"\boxed{2}")
    patch.setattr(order_module, "Asker", partial(Asker, opener=model.open))
    first, second, held = sources
    return model, [first, second, "--against", held, "--model", model.path, *KEYS, *ENGINE]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, sources: tuple[Path, Path, Path]) -> tuple[Path, int]:
    """An undisturbed run with a model, and the number of its requests."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        model, arguments = with_model(folder, sources, patch)
        assert curate(folder / "out", *arguments) == 0
    return folder, len(model.keys)


@pytest.mark.parametrize("stage", ["read", *(stage.name for stage in pipeline.STAGES)])
def test_interrupted_in_any_stage_it_goes_on_to_the_same_set(
    stage: str,
    tmp_path: Path,
    sources: tuple[Path, Path, Path],
    whole: tuple[Path, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between what a stage has done and its being written; the model is asked nothing twice."""
    undisturbed, requests = whole
    shutil.copytree(undisturbed / "model", tmp_path / "model")
    model, arguments = with_model(tmp_path, sources, monkeypatch)
    out = tmp_path / "out"

    def cut(real: Any) -> Any:
        def act(*given: Any) -> Any:
            real(*given)
            raise Interrupted("SIGTERM")

        return act

    with monkeypatch.context() as patch:
        if stage == "read":
            patch.setattr(pipeline.stages, "read", cut(pipeline.stages.read))
        changed = (replace(one, act=cut(one.act)) if one.name == stage else one for one in pipeline.STAGES)
        patch.setattr(pipeline, "STAGES", tuple(changed))
        assert curate(out, *arguments) == 143
    assert not (out / "curated.jsonl").exists()
    assert curate(out, *arguments) == 0
    assert len(model.keys) == requests
    for name in ("curated.jsonl", "fates.jsonl"):
        assert (out / name).read_bytes() == (undisturbed / "out" / name).read_bytes()


def test_what_the_model_was_asked_counts_under_other_keys_of_other_stages(
    tmp_path: Path, sources: tuple[Path, Path, Path], whole: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole[0], tmp_path / "whole")
    model, arguments = with_model(tmp_path / "whole", sources, monkeypatch)
    out = tmp_path / "whole" / "out"
    assert curate(out, *arguments, "--read.max_chars", 9000) == 0
    assert not model.keys
    assert curate(out, *(33 if one == 32 else one for one in arguments)) == 0  # difficulty.max_tokens
    assert 0 < len(model.keys) < whole[1]  # guesses are not drawn again
    drawn = len(model.keys)
    assert curate(out, *arguments, "--seed", 1) == 0
    assert len(model.keys) > drawn


def test_a_prompt_that_did_not_fit_is_asked_once_the_context_is_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(tmp_path / "model", lambda name, sample: r"\boxed{1}", context=4096)
    monkeypatch.setattr(order_module, "Asker", partial(Asker, opener=model.open))
    long = {"id": "long", "problem": f"How many words has this list: {'word ' * 300}?", "answer": "300"}
    source = write(tmp_path / "rows.jsonl", [*rows(20, 4), long])
    keys = ["--difficulty.max_tokens", 32, "--difficulty.samples", 1, "--guess", "null", "--engine.kind", "hf"]
    monkeypatch.setattr("recipes.curate.asking.PROMPT_ROOM", 100)
    out, asked = tmp_path / "out", ["--model", model.path, *keys]
    assert curate(out, source, *asked, "--engine.max_model_len", 256) == 0
    assert fates(out)[f"{source}:21"]["reason"] == "unfitting"
    assert curate(out, source, *asked, "--engine.max_model_len", 4096) == 0
    assert fates(out)[f"{source}:21"]["fate"] == "kept"


def test_an_evaluation_set_that_is_the_training_set_leaves_nothing(
    tmp_path: Path, sources: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "all.jsonl", rows(20, 3))
    assert curate(tmp_path / "out", source) == 0
    assert curate(tmp_path / "out", source, "--against", source) == 1
    told = capsys.readouterr().err
    assert "curated.jsonl of an earlier command is removed" in told
    assert "no row is left: decontamination dropped the last 20 (20 same)" in told
    assert {row["fate"] for row in fates(tmp_path / "out").values()} == {"contamination"}
    assert (tmp_path / "out" / "report.html").exists()
    assert not (tmp_path / "out" / "curated.jsonl").exists()
    kinds = ("--contamination.drop", "[contains, renumbered]")
    assert curate(tmp_path / "out", source, "--against", source, *kinds) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_bytes())["results"]
    assert summary["contamination"]["sets"][0]["confirmed"]["same"] == 20, "shown, and kept"
    assert summary["kept"]["rows"] == 20


def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: Any, *more: Any) -> int:
    model = Model(tmp_path / "model", says)
    monkeypatch.setattr(order_module, "Asker", partial(Asker, opener=model.open))
    source = write(tmp_path / "rows.jsonl", rows(20, 4))
    keys = ("--difficulty.max_tokens", 32, "--engine.kind", "hf", "--engine.max_model_len", 256)
    return curate(tmp_path / "out", source, "--model", model.path, *keys, *more)


ANSWERS = {row["id"]: row["answer"] for row in rows(20, 4)}


def test_a_model_that_is_always_right_leaves_nothing_and_it_is_said_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    says = lambda name, sample: rf"\boxed{{{ANSWERS[name]}}}"  # noqa: E731
    assert asked(tmp_path, monkeypatch, says, "--guess", "null") == 1
    told = capsys.readouterr().err
    assert "the model is right too often" in told
    assert "no row is left: difficulty dropped the last" in told


def test_a_model_that_is_never_right_drops_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(tmp_path, monkeypatch, lambda name, sample: r"\boxed{-5}") == 0
    assert "the model is never right" in capsys.readouterr().err
    set_ = [json.loads(line) for line in (tmp_path / "out" / "curated.jsonl").read_text().splitlines()]
    assert {row["pass_rate"] for row in set_} == {0.0}
    assert {row["difficulty"] for row in set_} == {1.0}


def test_rates_are_with_the_problems_that_training_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says = lambda name, sample: rf"\boxed{{{ANSWERS[name] if sample < 5 else -5}}}"  # noqa: E731
    assert asked(tmp_path, monkeypatch, says, "--guess", "null", "--difficulty.samples", 10) == 0
    problems = load_jsonl(JsonlSource(path=str(tmp_path / "out" / "curated.jsonl")))
    assert {(problem.pass_rate, problem.difficulty) for problem in problems} == {(0.5, 0.5)}


def test_fewer_rows_than_dimensions_are_whitened_with_a_shrink_and_without_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "few.jsonl", rows(12, 5))
    assert curate(tmp_path / "out", source) == 0
    capsys.readouterr()
    assert curate(tmp_path / "other", source, "--whitening.shrink", 0) == 2
    told = capsys.readouterr().err
    assert "k15: embeddings (encoder, whitening): 12 vectors of 384 dimensions have a singular" in told.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "name sources"),
        (("missing.jsonl",), "no problem file 'missing.jsonl'"),
        (("organisation/problems",), "the data set of the hub: hub:organisation/problems"),
        (("FIRST", "FIRST"), "named twice"),
        (("FIRST", "--against", "math50"), "math500"),
        (("FIRST", "--verifier", "maths"), "did you mean 'math'"),
        (("FIRST", "--coverage.sise", "5"), "coverage.sise"),
        (("FIRST", "--warmup"), "--model"),
        (("FIRST", "--model", "./nowhere"), "./nowhere: no such model directory"),
        (("FIRST", "--columns", "{problem: question, answer: solution}"), "none of its 43 rows"),
        (("FIRST", "--columns", "problem=question"), "--columns 'problem=question': expected our fields and theirs"),
        (("FIRST", "--columns", "{problem: question"), "--columns '{problem: question'"),
        (("--config", "missing.yaml"), "missing.yaml: No such file"),
        (("FIRST", "--read.languages", "[english]"), "'english' is no language"),
        (("OUT/curated.jsonl",), "would write over it"),
        (("FIRST", "--against", "math500", "--contamination", "null"), "leaves out what looks for them"),
    ],
    ids=[
        *(
            "none",
            "missing",
            "hub",
            "twice",
            "benchmark",
            "verifier",
            "key",
            "warmup",
            "model",
            "columns",
            "equals",
            "yaml",
            "config",
        ),
        *("language", "itself", "against"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: tuple[str, ...],
    told: str,
    tmp_path: Path,
    sources: tuple[Path, Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if any("OUT" in one for one in arguments):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "curated.jsonl").write_text(json.dumps(rows(1, 9)[0]) + "\n")
    given = [one.replace("FIRST", str(sources[0])).replace("OUT", str(tmp_path / "out")) for one in arguments]
    assert curate(tmp_path / "out", *given) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("k15: ")]
    assert told in lines[-1]


def test_killed_between_two_results_of_reading_the_folder_is_still_its_own(
    tmp_path: Path, sources: tuple[Path, Path, Path]
) -> None:
    off = ("--duplicates", "null", "--coverage", "null")
    assert curate(tmp_path / "out", sources[0], *off) == 0
    (tmp_path / "out" / "read" / "stage.json").unlink()
    assert curate(tmp_path / "out", sources[0], *off) == 0


@pytest.mark.parametrize("name", ["curated.jsonl", "curated-math.jsonl", "fates.jsonl", "report.html", "rows/mine.txt"])
def test_files_of_others_are_not_written_over(
    name: str, tmp_path: Path, sources: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "out" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    assert curate(tmp_path / "out", sources[0]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"holds {name.partition('/')[0]}, which k15 curate has not written; choose another --out" in told
    assert theirs.read_text() == "mine"
    assert curate(theirs, sources[0]) == 2
    assert "a file; --out wants a directory" in capsys.readouterr().err


def test_sources_are_named_once(
    tmp_path: Path, sources: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "keys.yaml").write_text(f"sources: [{{path: {sources[1]}}}]\n")
    assert curate(tmp_path / "out", sources[0], "--config", tmp_path / "keys.yaml") == 2
    assert "sources: both in the command and in" in capsys.readouterr().err


def test_an_encoder_that_is_not_there_is_told_before_anything_is_read(
    tmp_path: Path, sources: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert curate(tmp_path / "out", sources[0], "--encoder.path", "./nowhere") == 2
    assert "./nowhere: no such model directory" in capsys.readouterr().err
    assert not (tmp_path / "out" / "rows").exists()


def test_stages_that_are_off_leave_nothing_of_an_earlier_run(
    curated: Path, tmp_path: Path, sources: tuple[Path, Path, Path]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(curated, out)
    first, second, _ = sources
    assert curate(out, first, second, "--duplicates", "null", "--coverage", "null") == 0
    results = json.loads((out / "summary.json").read_bytes())["results"]
    assert (results["map"], results["facts"]["encoder"], results["contamination"]) == (None, None, None)
    assert {row["fate"] for row in fates(out).values()} == {"kept", "read", "formats"}
    set_ = [json.loads(line) for line in (out / "curated.jsonl").read_text().splitlines()]
    assert not any({"cluster", "template_size"} & row.keys() for row in set_)
