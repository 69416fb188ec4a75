"""Configurations: merging, errors that say what to do, and the way to YAML and back."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from recipes import RECIPES
from recipes.commands.choose import recipe_config
from rl.config import Config, RunConfig
from rl.config_help import describe
from rl.config_io import ConfigError, checked, dump, load, parse_yaml, paths, read_file, validate
from rl.objectives.config import GrpoConfig, MirrorDescentConfig
from rollout.problems.config import ArithmeticSource, JsonlSource

BASE = RunConfig()


@pytest.mark.parametrize("config", [BASE, *(recipe_config(name) for name in RECIPES)], ids=["default", *RECIPES])
def test_yaml_and_back(config: Config) -> None:
    assert checked(type(config), parse_yaml(dump(config))) == config
    assert load(type(config)(), parse_yaml(dump(config))) == config  # whatever it is merged into


@settings(deadline=None)  # timings of shared machines vary
@example(lr=1.0, seed=0, text="\x85\u2028 : # '\"")
@example(lr=1.0, seed=0, text="0E0")
@example(lr=1.0, seed=0, text="010")
@example(lr=1.0, seed=0, text="1:30")
@example(lr=1.0, seed=0, text="2025-01-31")
@example(lr=1.0, seed=0, text="0o17")
@given(lr=st.floats(1e-12, 1e3), seed=st.integers(0, 2**32 - 1), text=st.text(max_size=30))
def test_any_value_survives_yaml(lr: float, seed: int, text: str) -> None:
    config = BASE.model_copy(
        update={
            "seed": seed,
            "learner": BASE.learner.model_copy(
                update={"optimizer": BASE.learner.optimizer.model_copy(update={"lr": lr})}
            ),
            "problems": BASE.problems.model_copy(update={"instruction": text}),
        }
    )
    assert validate(parse_yaml(dump(config))) == config


@pytest.mark.parametrize(
    ("pairs", "line"),
    [
        ([("rollot.k", "4")], "unknown key 'rollot.k'; did you mean 'rollout.k'?"),
        ([("iteratons", "3")], "unknown key 'iteratons'; did you mean 'iterations'?"),
        ([("ns_steps", "3")], "unknown key 'ns_steps'; did you mean 'learner.optimizer.ns_steps'?"),
        ([("qqqq", "3")], "unknown key 'qqqq'; k15 config RECIPE lists all keys"),
        ([("engine.extra.foo", "3")], "unknown key 'engine.extra.foo': 'engine.extra' is one value"),
        ([("model.base.path", "x")], "'model.base.path' does not go with the chosen model.base.kind"),
        ([("model.base.kind", "foo")], "model.base.kind: 'foo' is none of 'scratch', 'pretrained'"),
        ([("model.base.width", "100")], "model.base: width 100 is not divisible by heads 6"),
        ([("problems.train.kind", "jsonl")], "problems.train.path: a value is required"),
        (
            [("learner.objective.kind", "gpro")],
            "learner.objective.kind: 'gpro' is none of 'mirror_descent', 'reinforce', 'grpo'",
        ),
        (
            [("learner.objective.clip_high", "0.3")],
            "'learner.objective.clip_high' does not go with the chosen learner.objective.kind",
        ),
        (
            [("learner.objective", "{kind: grpo, tau: 0.1}")],
            "'learner.objective.tau' does not go with the chosen learner.objective.kind",
        ),
        (
            [("learner.objective.kind", "grpo"), ("learner.objective.clip_hihg", "0.3")],
            "unknown key 'learner.objective.clip_hihg'; did you mean 'learner.objective.clip_high'?",
        ),
        ([("learner.objective.kind", "python")], "learner.objective.path: a value is required"),
        ([("rollout", "3")], "rollout: this is a section; set its keys"),
        (
            [("learner.optimizer.adam_betas", "[0.9, x]")],
            "learner.optimizer.adam_betas[1]: input should be a valid number",
        ),
        ([("learner.optimizer.lr", ".inf")], "learner.optimizer.lr: input should be a finite number"),
        ([("rollout.k", "1")], "rollout.k: input should be greater than or equal to 2, got 1"),
        ([("seed", "[1")], "--seed: '[1' is not a YAML value"),
        ([("rollout.segment_tokens", "4096")], "rollout.segment_tokens (4096) is above rollout.max_tokens (1024)"),
        ([("rollout.max_tokens", "2048")], "rollout.max_tokens (2048) leaves no room for a prompt"),
        (
            [("rollout.groups", "7"), ("rollout.k", "3")],
            "rollout.groups x rollout.k (21) is not divisible by learner.updates",
        ),
        ([("engine.max_model_len", "4096")], "engine.max_model_len (4096) is above model.base.context (2048)"),
        ([("rollout.repetition.min_pattern", "65")], "rollout.repetition: min_pattern (65) is above max_pattern (64)"),
        (
            [("problems.train", "{kind: jsonl, path: f, verifier: maths}")],
            "problems.train.verifier: unknown verifier 'maths'; did you mean 'math'?",
        ),
        ([("seed", "1"), ("seed", "2")], "--seed is given twice, to different values; leave one out"),
        (
            [("model.base", "{layers: 2}"), ("model.base.layers", "3")],
            "--model.base and --model.base.layers both set model.base.layers, to different values",
        ),
        (
            [("warmup.examples", "5"), ("warmup", "null")],
            "--warmup.examples and --warmup both set warmup, to different",
        ),
        ([("engine.extra", "{a: 1}"), ("engine.extra", "{b: 1}")], "--engine.extra is given twice"),
        ([("rollout.k", "true")], "rollout.k: input should be a valid integer, got true"),
        ([("rollout.k", "4.0")], "rollout.k: input should be a valid integer, got 4.0; write 4"),
        ([("rollout.k", "'4'")], 'rollout.k: input should be a valid integer, got "4"; leave out the quotes'),
        ([("log.live", "1")], "log.live: input should be a valid boolean, got 1"),
        ([("log.live", "'off'")], 'log.live: input should be a valid boolean, got "off"; leave out the quotes'),
        ([("learner.optimizer.lr", "true")], "learner.optimizer.lr: input should be a valid number, got true"),
        ([("learner.optimizer.adam_betas", "[0.9, true]")], "adam_betas[1]: input should be a valid number, got true"),
        ([("seed", "010")], 'seed: input should be a valid integer, got "010"'),
        ([("seed", "1:30")], 'seed: input should be a valid integer, got "1:30"'),
        ([("seed", "-1")], "seed: input should be greater than or equal to 0, got -1"),
        ([("seed", "4294967296")], "seed: input should be less than 4294967296"),
        ([("seed", "")], "seed: input should be a valid integer, got null"),
        ([("engine.extra", "&a {b: *a}")], "a value is no plain data: Circular reference detected"),
        ([("engine.extra", "{a: !!set {b}}")], "a value is no plain data: Object of type set"),
        ([("ray.in_process", "true")], "ray.in_process works with engine.kind hf"),
        (
            [("engine.kind", "hf"), ("engine.in_flight", "keep")],
            "engine: in_flight keep is of kind vllm; kind hf needs",
        ),
        (
            [("engine.kind", "hf"), ("engine.speculative", "ngram")],
            "engine: speculative ngram is of kind vllm; kind hf has span",
        ),
        (
            [("engine.kind", "hf"), ("engine.speculative", "suffix")],
            "engine: speculative suffix is of kind vllm; kind hf has span",
        ),
        ([("engine.speculative", "suffix")], "method suffix needs a package that is not installed: pip install arctic"),
        ([("engine.speculative", "eagle")], "engine.speculative.method"),
        (
            [("engine.speculative", "{min_ngram: 5, max_ngram: 4}")],
            "engine.speculative: min_ngram (5) is above max_ngram (4)",
        ),
        ([("reward", "a/mine:f")], "reward.function: 'a/mine:f' is no user code; write FILE.py:NAME"),
        ([("reward", "3")], "reward.function: input should be a valid string, got 3"),
        ([("learner.ranks", "0")], "learner.ranks.shard: input should be greater than or equal to 1, got 0"),
        ([("learner.ranks", "2.5")], "learner.ranks.shard: input should be a valid integer, got 2.5"),
        ([("learner.ranks", "two")], 'learner.ranks.shard: input should be a valid integer, got "two"'),
        ([("learner.ranks", "true")], "learner.ranks.shard: input should be a valid integer, got true"),
        ([("learner.ranks", "[2]")], "learner.ranks: this is a section; set its keys"),
        ([("reward", "a.py:f"), ("reward.function", "b.py:f")], "both set reward.function, to different values"),
        ([("reward.truncated", "-1")], "reward: reward.truncated goes with reward.function"),
        ([("reward.judges", "2"), ("reward", "a.py:f")], "reward: reward.judges run the verifier 'code'"),
        ([("rollout", "a.py:f")], "rollout: this is a section; set its keys"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(pairs: list[tuple[str, str]], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(BASE, overrides=pairs)
    assert len(caught.value.lines) == 1
    assert line in caught.value.lines[0]
    assert "\n" not in caught.value.lines[0]


def test_one_text_for_the_reward_is_its_function_and_the_other_keys_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = load(BASE, overrides=[("reward.length.weight", "0.5")])
    for config in (
        load(base, overrides=[("reward", "mine.py:f")]),
        load(base, {"reward": "mine.py:f"}),
        load(base, overrides=[("reward", "mine.py:f"), ("reward.timeout_s", "60")]),
        load(base, overrides=[("reward.function", "./mine.py:f")]),
    ):
        assert config.reward.function == f"{tmp_path}/mine.py:f", "recorded absolute"
        assert config.reward.length == base.reward.length
    assert load(BASE, overrides=[("reward", "some.module:f")]).reward.function == "some.module:f"
    assert load(BASE, overrides=[("reward", "brevity")]).reward.function == "brevity"


def test_a_reward_model_is_one_text_for_the_reward_too_beside_its_other_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for config in (
        load(BASE, overrides=[("reward", "model:runs/judge")]),
        load(BASE, {"reward": "model:runs/judge"}),
        load(BASE, {"reward": {"model": "runs/judge"}}),
        load(BASE, overrides=[("reward.model", "runs/judge")]),
    ):
        assert config.reward.model is not None
        assert config.reward.model.path == "runs/judge"
        assert config.reward.function is None
        assert config.reward.length == BASE.reward.length
    pairs = [("reward.model.samples", "4"), ("reward", "model:a:b"), ("reward.model.alarm", "stop")]
    for order in (pairs, pairs[::-1]):
        found = load(BASE, overrides=order).reward.model
        assert found is not None
        assert (found.path, found.samples) == ("a:b", 4)
        assert found.alarm is not None
        assert found.alarm.then == "stop"
    both = load(BASE, overrides=[("reward", "mine.py:f"), ("reward.model", "judge")]).reward
    assert (both.function, both.model and both.model.path) == (f"{tmp_path}/mine.py:f", "judge")
    assert load(BASE, overrides=[("reward.function", "model:f")]).reward.function == "model:f", "of a module so called"


@pytest.mark.parametrize(
    ("pairs", "line"),
    [
        ([("reward", "model:")], "reward.model.path: string should have at least 1 character"),
        ([("reward.model.samples", "4")], "reward.model.path: a value is required"),
        ([("reward", "model:a"), ("reward.model.path", "b")], "--reward and --reward.model.path both set"),
        ([("reward", "model:a"), ("reward.model.when", "never")], "reward.model.when: input should be 'undecided'"),
        ([("reward", "model:a"), ("reward.model.samples", "3"), ("reward.model.temperature", "0")], "are all the same"),
        (
            [("reward", "model:a"), ("ray.in_process", "true"), ("engine.kind", "hf"), ("reward.model.engine", "{}")],
            "reward.model.engine.kind vllm lives in Ray actors, and ray.in_process is without Ray",
        ),
    ],
)
def test_mistakes_with_a_reward_model_are_one_line(pairs: list[tuple[str, str]], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(BASE, overrides=pairs)
    assert len(caught.value.lines) == 1, caught.value.lines
    assert line in caught.value.lines[0]


def test_an_unknown_key_in_a_file_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'rollout.kk'; did you mean 'rollout.k'\?"):
        load(BASE, {"rollout": {"kk": 4}})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [\n", ":3: not valid YAML"),
        ("- 1\n", "expected 'key: value' lines, found list"),
        ("3: 4\n", "expected 'key: value' lines"),
        ("seed: 1\nrollout: {k: 4}\nseed: 2\n", ":3: not valid YAML: 'seed' is given twice, first in line 1"),
        ("rollout: {k: 4, k: 5}\n", ":1: not valid YAML: 'k' is given twice, first in line 1; leave one out"),
        ("a: \x00", "not valid YAML"),
    ],
)
def test_malformed_files_are_named(text: str, line: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_file(file)
    assert str(caught.value).startswith(str(file))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "binary.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml: not a text file"):
        read_file(file)


def test_scalars_are_read_as_people_mean_them() -> None:
    pairs = [
        ("learner.optimizer.lr", "1e-3"),
        ("log.live", "false"),
        ("warmup", "null"),
        ("problems.train.steps", "[1, 2]"),
    ]
    config = load(recipe_config("quickstart"), overrides=pairs)
    assert config.learner.optimizer.lr == 1e-3
    assert config.log.live is False
    assert config.warmup is None
    assert isinstance(config.problems.train, ArithmeticSource)
    assert config.problems.train.steps == (1, 2)


def test_values_of_a_file_have_their_keys_types_too() -> None:
    with pytest.raises(ConfigError) as caught:
        load(BASE, parse_yaml("rollout: {k: true}\nproblems: {instruction: no}\nlog: {live: 1}\n"))
    assert list(caught.value.lines) == [
        "problems.instruction: input should be a valid string, got false; put texts in quotes",
        "rollout.k: input should be a valid integer, got true",
        "log.live: input should be a valid boolean, got 1",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Answer: in a box",
        "# last line",
        "{answer}",
        "\tindented",
        "3",
        "no",
        "null",
        "2025-01-31",
        "a\n  b ",
        "*",
        "",
        "'a' b",
    ],
)
def test_texts_of_the_command_line_are_taken_as_they_are(text: str) -> None:
    assert load(BASE, overrides=[("problems.instruction", text)]).problems.instruction == text


def test_quoted_texts_and_null_of_the_command_line_are_yaml() -> None:
    pairs = [("problems.instruction", '"a\\tb"'), ("problems.system", "'it''s'"), ("ray.address", "null")]
    config = load(BASE, overrides=pairs)
    assert (config.problems.instruction, config.problems.system, config.ray.address) == ("a\tb", "it's", None)
    assert load(BASE, overrides=[("engine.kind", "hf"), ("ray.address", "auto")]).ray.address == "auto"


def test_a_key_of_a_section_that_is_off_switches_it_on() -> None:
    assert BASE.model.lora is None
    lora = load(BASE, overrides=[("model.lora.rank", "8")]).model.lora
    assert lora is not None
    assert lora.rank == 8


def test_another_kind_drops_the_old_kinds_keys_and_the_order_of_pairs_does_not_matter() -> None:
    pairs = [("problems.train.path", "f.jsonl"), ("problems.train.limit", "5"), ("problems.train.kind", "jsonl")]
    for order in (pairs, pairs[::-1]):
        assert load(BASE, overrides=order).problems.train == JsonlSource(path="f.jsonl", limit=5)
    in_file = load(BASE, {"problems": {"train": {"kind": "jsonl", "path": "f.jsonl", "limit": 5}}})
    assert in_file.problems.train == JsonlSource(path="f.jsonl", limit=5)


def test_an_objective_without_a_kind_is_mirror_descent_as_before_there_was_a_choice() -> None:
    old = {"learner": {"objective": {"tau": 0.5, "importance": {"cap": 3.0}}}}
    for config in (load(BASE, old), validate(old), RunConfig.model_validate(old)):
        assert isinstance(config.learner.objective, MirrorDescentConfig)
        assert config.learner.objective.tau == 0.5
        assert "kind: mirror_descent" in dump(config)
    chosen = load(BASE, old, [("learner.objective.kind", "grpo")]).learner.objective
    assert chosen == GrpoConfig()  # of another kind nothing is kept


def test_choosing_a_plain_kind_keeps_its_sections_other_keys() -> None:
    base = load(BASE, overrides=[("engine.count", "3")])
    assert load(base, overrides=[("engine.kind", "hf")]).engine.count == 3


def test_a_mapping_in_a_file_replaces_the_recipes() -> None:
    base = load(BASE, {"engine": {"extra": {"a": 1}}})
    assert load(base, {"engine": {"extra": {}}}).engine.extra == {}
    assert load(base, {"engine": {"extra": {"b": 2}}}).engine.extra == {"b": 2}


def test_the_procedural_section_mirrors_its_dataclass() -> None:
    from rollout.problems.arithmetic import Arithmetic

    expected: dict[str, Any] = {field.name: field.default for field in fields(Arithmetic)}
    assert MISSING not in expected.values()
    assert ArithmeticSource().model_dump(exclude={"kind"}) == expected


def test_help_offers_no_flag_for_a_key_inside_of_a_list() -> None:
    text = describe(BASE)
    assert "--model.attention.rotary.base" not in text, "that flag is refused: only the whole list can be given"
    assert "model.attention.rotary[i]: " in text
    assert "--model.attention.rotary '[{...}, ...]'" in text


def test_every_key_is_documented() -> None:
    text = describe(BASE).replace("[i]", "")  # of keys in lists
    for path in paths():
        leaf = path.rpartition(".")[2]
        if leaf != "kind":
            assert f"--{path} " in text or f"\n{path}: " in text, path
    undocumented = [
        a
        for a, b in zip(text.splitlines(), text.splitlines()[1:], strict=False)
        if a.startswith("  --") and not b.startswith("     ")
    ]
    assert all(".kind " in line for line in undocumented), undocumented


def test_an_environments_keys_are_set_one_by_one() -> None:
    """The union of its kinds is optional, too."""
    config = load(BASE, overrides=[("environment.turns", "3"), ("environment.kind", "retry")])
    assert config.environment is not None
    assert (config.environment.kind, config.environment.turns) == ("retry", 3)
    assert load(config, overrides=[("environment.feedback", "No.")]).environment.feedback == "No."
    assert "--environment.output_chars" in describe(BASE)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("environment", "retry"), "environment: this is a section; set its keys, e.g. environment.kind"),
        (("environment.turns", "3"), "environment.kind: a value is required: one of 'python_tool', 'retry', 'python'"),
        (("environment.turn", "3"), "unknown key 'environment.turn'; did you mean 'environment.turns'?"),
        (("learner.objective", "grpo"), "this is a section; set its keys, e.g. learner.objective.kind"),
        (("problems.train", "jsonl"), "this is a section; set its keys, e.g. problems.train.kind"),
        (("warmup.then", "[3]"), "warmup.then[0]: this is a section; set its keys, e.g. warmup.then.examples"),
        (
            ("problems.template", "{tokenize: true}"),
            "problems.template: 'tokenize' is not an argument of chat templates",
        ),
        (("problems.shots", "[['', '3']]"), "problems.shots[0][0]: string should have at least 1 character"),
        (("problems.template", "3"), "problems.template: input should be an object, got 3"),
    ],
)
def test_a_wrong_value_is_told_what_there_can_be(given: tuple[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(BASE, overrides=[given])
    assert words in str(caught.value)


@pytest.mark.parametrize(("device", "dtype"), [("cuda", "bfloat16"), ("cuda", "float16"), ("cpu", "float32")])
def test_block_attention_goes_with_the_types_that_the_engine_computes_it_in(device: str, dtype: str) -> None:
    """The learner's own type is free: it is not vLLM that computes there."""
    attention = {"moba": {"block_size": 32, "top_k": 2}}
    model = {"device": device, "compute_dtype": "float32", "attention": attention}
    RunConfig.model_validate({"model": model, "engine": {"device": device, "dtype": dtype}})
    with pytest.raises(ValidationError, match=r"engine.dtype float32 does not go with block attention on cuda"):
        RunConfig.model_validate({"model": model, "engine": {"device": "cuda", "dtype": "float32"}})
    RunConfig.model_validate({"model": model, "engine": {"kind": "hf", "device": "cuda", "dtype": "float32"}})


@pytest.mark.parametrize(
    ("ranks", "device", "words"),
    [
        ({"shard": 2, "offload": True}, "cpu", "learner.ranks.offload keeps .* it needs model.device cuda"),
        ({"offload": True}, "cuda", "learner.ranks.offload .* and two ranks or more"),
        ({"sequence": 4}, "cpu", r"learner.ranks.sequence \(4\) does not divide model.base.heads \(6\)"),
    ],
)
def test_ranks_that_cannot_work_are_refused(ranks: dict[str, Any], device: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RunConfig.model_validate({"learner": {"ranks": ranks}, "model": {"device": device}})


def test_a_number_of_ranks_shards_the_model() -> None:
    for config in (load(BASE, overrides=[("learner.ranks", "3")]), load(BASE, {"learner": {"ranks": 3}})):
        assert (config.learner.ranks.shard, config.learner.ranks.size) == (3, 3)
