"""A run is a directory (invariant 8), and a resumed run is the same run."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
import yaml

from recipes.commands.choose import resolve
from recipes.commands.cli import parser
from rl.config import RunConfig
from rl.state.journal import JournalError
from rl.state.run_dir import RunDir, RunDirError, difference


def test_a_new_run_writes_config_and_info(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    assert run.open(RunConfig(), "abc") is False
    assert RunConfig.model_validate(yaml.safe_load(run.config.read_text())) == RunConfig()
    assert run.open(RunConfig(), "abc") is True


def test_a_changed_config_is_refused_with_the_difference(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.open(RunConfig(), "abc")
    changed = RunConfig.model_validate({"seed": 5, "learner": {"objective": {"tau": 0.5}}})
    with pytest.raises(RunDirError) as error:
        run.open(changed, "abc")
    assert "seed: 0 -> 5" in str(error.value)
    assert "learner.objective.tau: 0.01 -> 0.5" in str(error.value)


def test_how_far_and_how_visibly_a_run_goes_may_change(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.open(RunConfig(), "abc")
    assert run.open(RunConfig.model_validate({"iterations": 7, "log": {"live": False}}), "abc") is True
    assert yaml.safe_load(run.config.read_text())["iterations"] == 7


def test_a_run_of_an_earlier_version_stays_readable_to_it(tmp_path: Path) -> None:
    """Keys that it does not know do not get into its configuration, whether this version goes on or refuses to."""
    run = RunDir(tmp_path)
    run.open(RunConfig(), "abc")
    tree = yaml.safe_load(run.config.read_text())
    del tree["problems"]["shots"], tree["environment"]
    run.config.write_text(yaml.safe_dump(tree))
    run.journal.mkdir()
    (run.journal / "000003.jsonl").write_text("[]\n")
    before = run.config.read_bytes()
    assert run.open(RunConfig(), "abc") is True
    with pytest.raises(JournalError, match="written by an earlier version of k15"):
        run.open(RunConfig(iterations=7), "abc")
    assert run.config.read_bytes() == before


def test_what_failed_for_lack_of_memory_time_or_patience_may_be_given_more(tmp_path: Path) -> None:
    """As the messages of such failures advise."""
    run = RunDir(tmp_path)
    run.open(RunConfig(), "abc")
    more = {"engine": {"stall_timeout_s": 600, "kv_cache_gib": 2}, "learner": {"micro_batch_tokens": 4096}}
    assert run.open(RunConfig.model_validate(more), "abc") is True


def test_an_overlapped_run_goes_through_its_journals_by_the_failures_that_it_began_with(tmp_path: Path) -> None:
    """A rollout that was given up would go on, and the batches on record would not be there."""
    in_turn, overlapped = RunDir(tmp_path / "in_turn"), RunDir(tmp_path / "overlapped")
    more = {"rollout": {"max_failures": 10}}
    in_turn.open(RunConfig(), "abc")
    assert in_turn.open(RunConfig.model_validate(more), "abc") is True
    overlapped.open(RunConfig.model_validate({"overlap": {"max_staleness": 1}}), "abc")
    with pytest.raises(RunDirError, match=r"rollout\.max_failures: 5 -> 10; give back the old values") as error:
        overlapped.open(RunConfig.model_validate({**more, "overlap": {"max_staleness": 1}}), "abc")
    assert "\n" not in str(error.value)


def test_a_run_in_turn_does_not_go_on_overlapped(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.open(RunConfig(), "abc")
    with pytest.raises(
        RunDirError, match=r"overlap: null -> \(absent\); overlap\.max_staleness: \(absent\) -> 1"
    ) as error:
        run.open(RunConfig.model_validate({"overlap": {"max_staleness": 1}}), "abc")
    assert "\n" not in str(error.value)


def test_another_configuration_is_one_line_with_a_command_that_resumes(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "it's a run")
    begun = RunConfig.model_validate({"problems": {"instruction": "1e3"}})
    run.open(begun, "abc")
    changed = RunConfig.model_validate(
        {"rollout": {"k": 4}, "problems": {"instruction": "x\n" * 99}, "ray": {"address": "a"}}
    )
    with pytest.raises(RunDirError) as error:
        run.open(changed, "abc")
    message = str(error.value)
    assert "\n" not in message
    assert "rollout.k: 8 -> 4" in message
    assert "problems.instruction: 1e3 -> x x x" in message
    assert "ray.address" not in message
    command = shlex.split(message.split("`")[1])
    assert command[:2] == ["k15", "train"]
    parsed = parser().parse_args(command[1:])
    assert parsed.run_dir == run.root
    assert resolve(None, parsed.config, []) == begun


@pytest.mark.parametrize("text", ["{bad", "[]", "{}", "\xff"])
def test_a_broken_run_json_is_one_clear_line(text: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.open(RunConfig(), "abc")
    run.info.write_bytes(text.encode("latin-1"))
    for resume in (lambda: run.began_with(RunConfig()), lambda: run.open(RunConfig(), "abc")):
        with pytest.raises(RunDirError, match=r"run.json: not what k15 wrote .*; restore the file or choose") as error:
            resume()
        assert "\n" not in str(error.value)


def test_a_broken_config_yaml_is_one_clear_line(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.open(RunConfig(), "abc")
    run.config.write_text("a: [\n")
    with pytest.raises(RunDirError, match=r"config.yaml:2: not valid YAML: .*; restore the file or choose"):
        run.began_with(RunConfig())


def test_a_run_killed_while_it_was_created_can_begin_again(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.open(RunConfig(), "abc")
    run.config.unlink()
    assert run.open(RunConfig(), "abc") is False


def test_changed_problems_are_refused(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.open(RunConfig(), "abc")
    with pytest.raises(RunDirError, match="problems have changed"):
        run.open(RunConfig(), "abd")


def test_a_reward_may_be_mended_until_it_has_judged_and_is_refused_then(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.open(RunConfig(), "abc", "", {"/a/mine.py:f": "0" * 64})
    assert run.open(RunConfig(), "abc", "", {"/a/mine.py:f": "1" * 64})
    assert json.loads(run.info.read_bytes())["user_code"] == {"/a/mine.py:f": "1" * 64}
    run.evals.mkdir()
    (run.evals / "before.json").write_text("{}")
    assert run.open(RunConfig(), "abc", "", {"/a/mine.py:f": "1" * 64})
    with pytest.raises(RunDirError, match=r"/a/mine.py:f has changed since .* began \(sha256 111111111111 -> 2222"):
        run.open(RunConfig(), "abc", "", {"/a/mine.py:f": "2" * 64})


def test_a_directory_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunDirError, match=r"holds no run \(thesis.tex"):
        RunDir(tmp_path).open(RunConfig(), "abc")


def test_an_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(RunDirError, match="cannot be written"):
        RunDir(blocker / "run").open(RunConfig(), "abc")
    with pytest.raises(RunDirError, match="cannot be written"), RunDir(blocker / "run").lock():
        pytest.fail("no lock can be held there")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_one_clear_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunDirError, match="cannot be written"):
        RunDir(tmp_path / "run").open(RunConfig(), "abc")


def test_two_processes_cannot_work_on_one_run(tmp_path: Path) -> None:
    with RunDir(tmp_path).lock(), pytest.raises(RunDirError, match="another process"), RunDir(tmp_path).lock():
        pytest.fail("the second lock must not be granted")
    with RunDir(tmp_path).lock():
        pass


def test_difference_is_by_dotted_key() -> None:
    assert difference({"a": {"b": 1}, "c": 2}, {"a": {"b": 1}, "c": 2}) == []
    assert difference({"a": {"b": 1}}, {"a": {"b": 2, "d": 3}}) == ["a.b: 1 -> 2", "a.d: (absent) -> 3"]
    assert difference({"ray": {"address": None}}, {"ray": {"address": "auto"}}) == []


def test_keys_that_leave_problems_out_may_change_but_not_who_judges(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.began_with(RunConfig()) is None
    files = {"kind": "jsonl", "path": "p.jsonl"}
    begun = RunConfig.model_validate({"problems": {"train": files, "heldout": files}})
    run.open(begun, "abc", "judges")
    narrower = {"train": {**files, "max_prompt_chars": 9}, "heldout": files, "overlong": "drop"}
    changed = RunConfig.model_validate({"problems": narrower, "rollout": {"min_response_tokens": 3}})
    for _ in range(2):
        assert run.open(changed, "abc", "judges") is True
        assert run.began_with(changed) == begun.problems  # also once config.yaml has the new keys
    with pytest.raises(RunDirError, match="other held-out problems than before"):
        run.open(changed, "abc", "others")
    other = {**narrower, "train": {**files, "path": "q.jsonl"}}
    with pytest.raises(RunDirError, match=r"problems.train.path: p.jsonl -> q.jsonl"):
        run.began_with(RunConfig.model_validate({"problems": other}))  # before any file is looked for


def test_a_key_that_there_was_not_yet_has_its_default(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.open(RunConfig(), "abc")
    tree = yaml.safe_load(run.config.read_text())
    del tree["rollout"]["max_age"]
    run.config.write_text(yaml.safe_dump(tree))
    assert run.open(RunConfig(), "abc") is True
    run.config.write_text("iterations: many\n")
    with pytest.raises(RunDirError, match=r"none that this k15 reads \(iterations: .*got \"many\"\)"):
        run.open(RunConfig(), "abc")
