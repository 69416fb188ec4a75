"""Every row is checked before anything is spent: length, room for the response, encoding, embedding, template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eval_kit import write_model

from recipes.run.demonstrations import demonstrations
from recipes.run.setup import Setup, prepare
from rl.config import RunConfig
from rl.sampling import build_sampler
from rollout.models.prompts import PromptError
from rollout.problems.source import ProblemError, ProblemList
from rollout.types import Problem


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "tiny", context=256)


def rows(file: Path, lengths: dict[int, int] | None = None, count: int = 60, **changes: Any) -> str:
    """Questions of 20 characters, a token each; ``lengths``: characters of some, by line from 1."""
    lines = []
    for number in range(1, count + 1):
        question = f"{file.stem} {number}".ljust((lengths or {}).get(number, 20), "x")
        row = {"id": f"{file.stem}-{number}", "problem": question, "answer": "7", **changes.get(f"line_{number}", {})}
        lines.append(json.dumps(row) + "\n")
    file.write_text("".join(lines))
    return str(file)


def config(
    model: Path, folder: Path, train: str | None = None, heldout: str | None = None, **changes: Any
) -> RunConfig:
    """A context of 128 tokens, 32 of them for responses at most, so 16 at least."""
    problems = {
        "train": {"kind": "jsonl", "path": train or rows(folder / "train.jsonl"), "verifier": "exact"},
        "heldout": {"kind": "jsonl", "path": heldout or rows(folder / "held.jsonl", count=8), "verifier": "exact"},
        "heldout_size": 8,
        **changes.pop("problems", {}),
    }
    tree = {
        "model": {"base": {"kind": "pretrained", "path": str(model)}},
        "problems": problems,
        "engine": {"kind": "hf", "max_model_len": 128},
        "rollout": {"groups": 4, "k": 2, "segment_tokens": 24, "max_tokens": 32},
        "ray": {"in_process": True},
    }
    return RunConfig.model_validate({**tree, **changes})


DROP = {"problems": {"overlong": "drop"}}


def drawn(setup: Setup, draws: int = 60) -> list[str]:
    config = setup.config
    sampler = build_sampler(config.sampling, setup.train, 4, 0, config.problems.train_size, setup.screen.fits)
    return [problem.id for _ in range(draws) for problem in sampler.draw(4)]


@pytest.mark.parametrize("length", [115, 127, 4000])
def test_one_overlong_row_is_named_with_its_remedy(length: int, model: Path, tmp_path: Path) -> None:
    file = rows(tmp_path / "train.jsonl", {37: length, 50: length})
    with pytest.raises(PromptError) as caught:
        prepare(config(model, tmp_path, file))
    tokens = length + 2  # <user> ... <assistant>
    assert str(caught.value) == (
        f"{file}:37: the prompt of problem 'train-37' has {tokens} tokens; so do 1 more with up to {tokens}, but the "
        "context leaves room for 112 (engine.max_model_len 128 less rollout.min_response_tokens 16); raise "
        "engine.max_model_len, mend the data, or set problems.overlong to drop"
    )
    setup = prepare(config(model, tmp_path, file, **DROP))
    assert setup.notes == (
        f"left out 2 of 60 training problems: their prompts have up to {tokens} tokens, but the context leaves room "
        f"for 112 (engine.max_model_len 128 less rollout.min_response_tokens 16) (first: {file}:37)",
    )
    assert set(drawn(setup)) == {f"train-{number}" for number in range(1, 61) if number not in (37, 50)}
    assert prepare(config(model, tmp_path, file, engine={"kind": "hf", "max_model_len": 5000})).notes == ()


def test_room_for_the_response_is_a_key(model: Path, tmp_path: Path) -> None:
    file = rows(tmp_path / "train.jsonl", {37: 112})
    tight = {"groups": 4, "k": 2, "segment_tokens": 24, "max_tokens": 32, "min_response_tokens": 14}
    assert prepare(config(model, tmp_path, file, rollout=tight)).notes == ()
    with pytest.raises(PromptError, match=r"leaves room for 113 .* less rollout.min_response_tokens 15"):
        prepare(config(model, tmp_path, file, rollout={**tight, "min_response_tokens": 15}))


def test_held_out_rows_are_checked_too(model: Path, tmp_path: Path) -> None:
    file = rows(tmp_path / "held.jsonl", {5: 120}, count=9)
    with pytest.raises(PromptError, match=r"held.jsonl:5: the prompt of problem 'held-5' has 122 tokens"):
        prepare(config(model, tmp_path, heldout=file))
    setup = prepare(config(model, tmp_path, heldout=file, **DROP))
    assert [problem.id for problem in setup.heldout] == [f"held-{number}" for number in (1, 2, 3, 4, 6, 7, 8, 9)]
    assert "left out 1 of 9 held-out problems" in setup.notes[0]
    with pytest.raises(ProblemError, match=r"only 7 different held-out problems found.*left out 1 of 8"):
        prepare(config(model, tmp_path, heldout=rows(tmp_path / "held.jsonl", {5: 120}, count=8), **DROP))


def test_too_few_rows_that_fit_are_refused_before_anything_starts(model: Path, tmp_path: Path) -> None:
    file = rows(tmp_path / "train.jsonl", dict.fromkeys(range(1, 4), 120), count=6)
    setup = prepare(config(model, tmp_path, file, **DROP))
    with pytest.raises(ProblemError, match=r"3 training problems cannot fill a batch of 4"):
        drawn(setup)


@pytest.mark.parametrize("name", ["problem", "answer"])
def test_a_lone_surrogate_is_named(name: str, model: Path, tmp_path: Path) -> None:
    file = rows(tmp_path / "train.jsonl", line_23={name: "a\ud83d"})
    with pytest.raises(ProblemError, match=rf"train.jsonl:23: {name} has a lone surrogate \(U\+D83D, character 2\)"):
        prepare(config(model, tmp_path, file))
    rows(tmp_path / "train.jsonl", line_23={name: "a\ud83d", "defect": True})  # the remedy of the message
    assert prepare(config(model, tmp_path, file)).train.size == 59


def test_a_token_beyond_the_embedding_is_named(model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    size = len(tokenizer)
    tokenizer.add_tokens(["@@@"])
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(model / name)
    tokenizer.save_pretrained(folder)
    assert prepare(config(folder, tmp_path)).limits.vocabulary == size  # a token that no row uses does no harm
    file = rows(tmp_path / "train.jsonl", line_8={"problem": "what is @@@?"})
    with pytest.raises(
        PromptError, match=rf"train.jsonl:8: .* has token {size}, but .*/model has an embedding of {size}"
    ):
        prepare(config(folder, tmp_path, file))


def test_a_template_that_drops_one_question_is_found_at_its_row(model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(model / name)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "message['content']", "('' if '</s>' in message['content'] else message['content'])"
    )
    tokenizer.save_pretrained(folder)
    file = rows(tmp_path / "train.jsonl", line_30={"problem": "what is </s>?"})
    with pytest.raises(
        PromptError, match=r"train.jsonl:30: tokenizer .*/model': its chat template leaves out the user"
    ):
        prepare(config(folder, tmp_path, file))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            {"response": "r" * 200},
            r"demos.jsonl:3: the demonstration has 210 tokens \(prompt 9, response 201\), the con",
        ),
        ({"problem": "p" * 200}, r"demos.jsonl:3: the demonstration has 208 tokens"),
        ({"response": "a\ud83d"}, r"demos.jsonl:3: response has a lone surrogate"),
        ({"problem": "a\ud83d"}, r"demos.jsonl:3: problem has a lone surrogate"),
        ({"response": ""}, r"demos.jsonl:3: no response"),
    ],
)
def test_demonstrations_are_checked_before_engines_start(
    line: dict[str, str], words: str, model: Path, tmp_path: Path
) -> None:
    good = {"problem": "what is", "response": "It is"}
    file = tmp_path / "demos.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (good, good, {**good, **line}, good)))
    warmup = {"path": str(file), "examples": 3}
    with pytest.raises((PromptError, ProblemError), match=words):
        demonstrations(prepare(config(model, tmp_path, warmup=warmup)))


def test_overlong_demonstrations_are_left_out_where_that_is_wanted(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "demos.jsonl"
    lengths = (5, 300, 6, 7)
    file.write_text("".join(json.dumps({"problem": "what", "response": "r" * n}) + "\n" for n in lengths))
    setup = prepare(config(model, tmp_path, warmup={"path": str(file), "examples": 3}, **DROP))
    ((pairs,), notes) = demonstrations(setup)
    assert [len(response) - 1 for _, response in pairs] == [5, 6, 7]
    assert notes == [f"warm-up stage 1: left out 1 demonstrations of up to 307 tokens, 128 fit (first: {file}:2)"]
    filled = config(model, tmp_path, warmup={"response": "{rationale}"}, **DROP)
    with pytest.raises(ProblemError, match=r"train.jsonl:1: problem 'train-1' has no 'rationale'"):
        demonstrations(prepare(filled))


class Stream:
    """Unlimited; every tenth problem is long."""

    size, fingerprint = None, "stream"

    def __getitem__(self, index: int) -> Problem:
        return Problem.ask(
            f"p{index}", "x" * (500 if index % 10 == 9 else 5), "7", "exact", difficulty=float(index % 10)
        )

    def place(self, index: int) -> str:
        return f"stream problem {index}"


@pytest.mark.parametrize("kind", ["uniform", "curriculum", "prioritized"])
def test_a_stream_is_checked_as_it_comes(kind: str, model: Path, tmp_path: Path) -> None:
    """``refuse`` stops the run; it goes on under ``drop``, and what was drawn before is the same."""
    from rl.config import SamplingConfig
    from rollout.problems.fit import Screen

    setup = prepare(config(model, tmp_path))
    sampling = SamplingConfig(kind=kind, switch_iteration=1)

    def sampler(refuse: bool) -> Any:
        screen = Screen(Stream(), setup.render, setup.limits, refuse)
        return build_sampler(sampling, Stream(), 4, 0, None, screen.fits)

    strict, lenient = sampler(True), sampler(False)
    before = [[problem.id for problem in one.draw(4)] for one in (strict, lenient)]
    assert before[0] == before[1]
    state = json.loads(json.dumps(strict.state_dict()))
    with pytest.raises(PromptError, match=r"stream problem 9: .* has 502 tokens.*; set problems.overlong to drop"):
        for _ in range(9):
            strict.draw(4)
    resumed = sampler(False)
    resumed.load_state_dict(state)
    later = [[problem.id for _ in range(5) for problem in one.draw(4)] for one in (resumed, lenient)]
    assert later[0] == later[1]
    assert not {name for name in later[0] if name.endswith("9")}
    assert resumed.overlong == lenient.overlong
    assert 9 in resumed.overlong
    assert all(index % 10 == 9 for index in resumed.overlong)


@pytest.mark.parametrize("kind", ["uniform", "curriculum", "prioritized"])
def test_leaving_a_problem_out_changes_no_draw_before_it_would_come_up(kind: str) -> None:
    from rl.config import SamplingConfig

    source = ProblemList([Problem.ask(f"p{i}", "q", "a", "exact", difficulty=float(i % 5)) for i in range(60)], "list")
    sampling = SamplingConfig(kind=kind, switch_iteration=3)
    plain = build_sampler(sampling, source, 8, 0)
    draws = [[problem.id for problem in plain.draw(8)] for _ in range(12)]
    first = {name: i for i, names in reversed([*enumerate(draws)]) for name in names}
    last = max(first, key=lambda name: first[name])
    assert first[last] > 0
    without = build_sampler(sampling, source, 8, 0, None, lambda index: source[index].id != last)
    again = [[problem.id for problem in without.draw(8)] for _ in range(12)]
    assert again[: first[last]] == draws[: first[last]]
    assert all(last not in names and len(set(names)) == 8 for names in again)


def test_a_resumed_run_may_leave_rows_out_and_keeps_the_numbers_of_the_others(model: Path, tmp_path: Path) -> None:
    file = rows(tmp_path / "train.jsonl", {37: 60})
    begun = config(model, tmp_path, file)
    source = begun.problems.train.model_copy(update={"max_prompt_chars": 30})
    narrowed = begun.model_copy(update={"problems": begun.problems.model_copy(update={"train": source})})
    before, after = prepare(begun), prepare(narrowed, begun.problems)
    assert (after.fingerprint, after.judged_on) == (before.fingerprint, before.judged_on)
    plain, without = drawn(before), drawn(after)
    came_up = plain.index("train-37") // 4 * 4
    assert without[:came_up] == plain[:came_up]
    assert "train-37" not in without
    assert drawn(prepare(narrowed, narrowed.problems)) != without[: len(plain)]  # as a new run: other numbers
    with pytest.raises(ProblemError, match=r"1 problems would come in that the run began without \(first: 'train-37'"):
        prepare(begun, narrowed.problems)


def test_positions_that_a_model_has_no_embedding_for_are_refused(model: Path, tmp_path: Path) -> None:
    """Rotary embeddings go on beyond what was trained; a table of positions ends."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "model")
    shape = GPT2Config(n_positions=120, vocab_size=200, n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(shape).save_pretrained(tmp_path / "model")
    with pytest.raises(
        PromptError, match=r"/model: the model has 120 positions and none beyond, .* asks for 128; lower"
    ):
        prepare(config(tmp_path / "model", tmp_path))
    prepare(config(tmp_path / "model", tmp_path, engine={"kind": "hf", "max_model_len": 120}))
