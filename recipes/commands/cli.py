"""The command ``k15``. Everything heavy is imported by the command that needs it, so that help is instant.

Exit codes: 0 done, 1 the run failed, 2 the command or its configuration is wrong, 3 the run is complete and has not
reached what its recipe promises (``recipes.run.promise``), 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

from recipes import RECIPES
from recipes.commands.choose import described, recipe_config, resolve, short_name
from recipes.commands.curate_cli import FLAGS as CURATE_FLAGS
from recipes.commands.curate_cli import OPTIONS as CURATE_OPTIONS
from recipes.commands.curate_cli import add_command as add_curate_command
from recipes.commands.eval_cli import add_commands as add_eval_commands
from recipes.commands.eval_cli import split_extra
from recipes.commands.findings_cli import add_command as add_evidence_command
from recipes.commands.reward_cli import add_commands as add_reward_commands
from recipes.commands.reward_models_cli import KINDS as REWARD_MODELS
from recipes.commands.reward_models_cli import add_commands as add_reward_model_commands
from recipes.commands.sample_cli import add_command as add_sample_command
from recipes.commands.shorten_cli import OPTIONS as SHORTEN_OPTIONS
from recipes.commands.shorten_cli import add_command as add_shorten_command
from recipes.commands.trace import add_command as add_trace_command
from recipes.commands.usage import Parser, UsageError, file_trouble, path
from rollout.spinning import wait_briefly

HELP = """\
RL post-training for reasoning language models after Kimi k1.5.

start here
  k15 train quickstart                          train a small model from scratch on this CPU, five to ten minutes
  k15 report runs/quickstart                    write the run's report.html (a run also writes it itself)
  k15 trace runs/quickstart                     what learner and engines did when, for Perfetto
  k15 sample runs/quickstart --prompt $'Compute\\na 58\\nb -45\\nc +12\\nd +13'

problems to train on (docs/data.md)
  k15 curate FILE ... --against math500 --out D   verified, without duplicates, decontaminated; a report of all fates
  k15 curate FILE ... --model M --out D           also what cannot be guessed, with the model's pass rates

judge answers
  k15 grade outputs.jsonl --gold-field answer   verdict, extracted answer and reason for each response
  k15 judge --problems P.jsonl --programs S.jsonl   verdict, tests, time and memory of each program
  k15 make-tests problems.jsonl --prompts F     prompts for generators; then test cases from them

evaluate
  k15 eval math500 --model runs/quickstart      score a model, a server or given answers on benchmarks, with intervals
  k15 compare evaluations/a evaluations/b       is B better than A? difference, interval, p-value
  k15 serve runs/quickstart                     an OpenAI-compatible server with the run's model

pretrain (docs/pretraining.md)
  k15 train moonlight                           a small mixture of experts with Muon, in three stages, on this CPU
  k15 train moonlight --text '{mine: {kind: files, path: corpus}}' --schedule '{kind: wsd, steps: 2000}'
                                                on text of your own, another schedule; then SFT and RL from its model

the papers' findings, tried in small (docs/evidence.md)
  k15 evidence --list                           what there is, with the verdicts so far
  k15 evidence muon --seeds 1                   one of them: its trials, a verdict, a page

make it short
  k15 shorten runs/demo --method all --out runs/short   merge, shortest rejection, DPO and RL, on one plot

reward models (docs/reward_models.md)
  k15 train reward --labelled F --model M --out D   a classic head, from responses with verdicts
  k15 train judge                               a causal LM that reasons and ends in a verdict
  k15 train verifier --labelled F --unlabelled G --model M --out D   outcomes, from few labels
  k15 train quickstart --reward model:D         the rule first, the model for what it cannot decide
  k15 grade runs/quickstart --judge D           where rule and model disagree

recipes and their keys
  k15 recipes                                   what can be trained
  k15 config quickstart                         every key of a recipe: type, value, meaning
  k15 train quickstart --rollout.k 16 --learner.optimizer.lr 1e-3 --dry-run
                                                show the resolved configuration, train nothing
  k15 train --config runs/quickstart/config.yaml --run-dir runs/again
                                                start again from the file that a run wrote

your own (docs/rewards.md)
  k15 train quickstart --reward my_file.py:reward   a function (problem, response) -> number or Score
  k15 train smollm2 --problems.train '{kind: python, path: my_file.py:problems}'
                                                a function that returns rows, a stream, a procedural task
  k15 train ./my_recipe.py                      a file with config() and DESCRIPTION
"""
TRAIN_HELP = """\
--KEY VALUE sets any configuration key by its dotted name; values are YAML (3, 1e-3, true, null, [3, 5], '{a: 1}') of
the key's own type, texts are taken as they are. Keys of the command line win over --config, which wins over the recipe;
two that contradict each other are refused. `k15 config RECIPE` lists the keys. Training into a directory that holds the
same run resumes it; how long, how visibly and with what memory, time and patience it goes on may then change.

--device cuda puts learner and engines on GPUs, in bfloat16: they share a single one; of more the learner has its own
and the engines have the rest. Keys that it sets (model.device, engine.dtype, ...) win where they are given, too.

RECIPE is one of `k15 recipes`, or a Python file with config() -> RunConfig and DESCRIPTION; with config() ->
PretrainConfig it pretrains on text, as `k15 train moonlight` does (docs/pretraining.md). Reward and problems may be
code of your own, too: FILE.py:NAME (looked up from here, recorded absolute), package.module:NAME, or the name of an
entry point of k15.rewards, k15.problems, k15.recipes. Errors in it are told with file and line; a response that a
reward fails on is counted and left out of training. docs/rewards.md has one of each, in less than 20 lines.

k15 train reward --help tells how reward models are trained, which are no recipes.

examples
  k15 train quickstart --iterations 20 --seed 1 --run-dir runs/seed1
  k15 train smollm2 --config mine.yaml --learner.optimizer.kind adamw
  k15 train quickstart --reward my_file.py:reward
  k15 train qwen3_math --run-dir runs/qwen3_math       on GPUs; with another recipe: --device cuda
  k15 train smollm2 --problems.train '{kind: python, path: my_file.py:problems}'
  k15 train ./my_recipe.py --run-dir runs/mine
  k15 train moonlight --run-dir runs/pretrained        pretraining, then supervised from its model:
  k15 train warmup --model.base '{kind: pretrained, path: runs/pretrained/model}' --engine.max_model_len 256

exit codes
  0 done   1 failed; the message says what to do, and mostly the same command goes on   2 wrong command or key
  3 complete, with all files, but short of what the recipe promises (key `promise`; not judged once the recipe's keys
    are changed, but for the seed and those that say where and how visibly it runs)   130, 143 stopped by a signal
"""


RL_ONLY = (
    *("learner.optimizer.lr", "learner.optimizer.warmup_steps", "learner.optimizer.reset_each_iteration"),
    *("learner.updates", "learner.objective", "learner.copying"),
)
"""Keys of the learner that say nothing about a pretraining, whose ``schedule`` has the learning rate."""


def check_pretraining(pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse keys that would change nothing. Raises ``UsageError``."""
    for key, _ in pairs:
        if any(key == one or key.startswith(f"{one}.") for one in RL_ONLY):
            what = "set schedule.lr" if key.endswith("lr") else "leave it out"
            raise UsageError(f"{key} is of RL, and a pretraining goes by its schedule; {what}")


def split_keys(
    arguments: Sequence[str], options: Sequence[str] = ("config", "run-dir"), flags: Sequence[str] = ()
) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the arguments of ``train`` without its ``--dotted.key value`` pairs, and those pairs.

    ``options`` are those of the command itself that take a value, ``flags`` those that take none.

    Done before argparse sees them: it would take the value of an option that it does not know for the recipe.
    """
    own, pairs = [], []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, has_value, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and name in options and not has_value:
            own += [argument, *rest[:1]]
            del rest[:1]
        elif not argument.startswith("--") or name in ("", *options, *flags, "dry-run", "help"):
            own.append(argument)
        elif has_value:
            pairs.append((name, value))
        elif not rest or rest[0].startswith("--"):
            raise UsageError(f"--{name} needs a value: --{name} VALUE")
        else:
            pairs.append((name, rest.pop(0)))
    return own, pairs


def train(arguments: argparse.Namespace) -> int:
    """``k15 train``."""
    from rl.config_io import dump
    from rl.pretraining_config import PretrainConfig

    config = resolve(arguments.recipe, arguments.config, arguments.pairs)
    if isinstance(config, PretrainConfig):
        check_pretraining(arguments.pairs)
    if arguments.dry_run:
        print(dump(config), end="")
        return 0
    from rollout.progress import console_on, waiting

    folder = arguments.run_dir or Path("runs") / short_name(config.recipe)
    if isinstance(config, PretrainConfig):
        with waiting("loading libraries", console_on("stdout")):
            from recipes.pretrain.session import run as pretrain
            from recipes.run.workspace import WorkspaceError

        try:
            return pretrain(config, folder)
        except WorkspaceError as error:
            raise UsageError(str(error)) from error
    with waiting("loading libraries", console_on("stdout")):
        from recipes.run.session import run

    return run(config, folder)


def report(arguments: argparse.Namespace) -> int:
    """``k15 report``."""
    from evals.report.run.build import build_report
    from evals.report.run.data import ReportError
    from recipes.commands.sample import PRETRAINING
    from recipes.pretrain.report import write_report

    folder = arguments.run_dir
    try:
        print(write_report(folder) if (folder / PRETRAINING).is_file() else build_report(folder))
    except ReportError as error:
        raise UsageError(str(error)) from error
    return 0


def recipes(_: argparse.Namespace) -> int:
    """``k15 recipes``."""
    for name, text in described():
        print(f"{name:<12}{text}")
    return 0


def config(arguments: argparse.Namespace) -> int:
    """``k15 config``."""
    from recipes.curate.config import CurateConfig
    from rl.config_help import describe

    print(describe(CurateConfig() if arguments.recipe == "curate" else recipe_config(arguments.recipe)))
    return 0


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, *_: object) -> None:
        from importlib.metadata import version

        print(f"k15 {version('k15')}")
        sys.exit(0)


def parser() -> argparse.ArgumentParser:
    """Build the parser; ``--dotted.key value`` pairs of ``train`` are taken out before it runs."""
    raw = argparse.RawDescriptionHelpFormatter
    top = Parser("k15", description=HELP, formatter_class=raw)
    top.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: object, text: str, **more: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text, formatter_class=raw, **more)  # type: ignore[arg-type]
        one.set_defaults(run=run)
        return one

    one = command("train", train, "train a recipe, or resume it", epilog=TRAIN_HELP)
    one.usage = "k15 train RECIPE [--config FILE] [--KEY VALUE ...] [--run-dir DIR] [--dry-run]"
    one.add_argument(
        "recipe", nargs="?", metavar="RECIPE", help="see `k15 recipes`, or FILE.py; may be left out with --config"
    )
    one.add_argument("--config", type=path, metavar="FILE", help="YAML file with any of the keys")
    one.add_argument("--run-dir", type=path, metavar="DIR", help="where the run is kept (default: runs/RECIPE)")
    one.add_argument("--dry-run", action="store_true", help="print the resolved configuration and stop")
    add_reward_model_commands(command)
    one = command("report", report, "write report.html of a run and print its path")
    one.add_argument("run_dir", type=path, metavar="RUN_DIR")
    add_trace_command(command)
    add_sample_command(command)
    add_reward_commands(command)
    add_eval_commands(command)
    add_shorten_command(command)
    add_curate_command(command)
    add_evidence_command(command)
    command("recipes", recipes, "list the recipes")
    one = command("config", config, "list every configuration key of a recipe: type, value, meaning")
    one.add_argument("recipe", metavar="RECIPE", help="see `k15 recipes`, or FILE.py; or curate")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if isinstance(sys.stdout, TextIOWrapper):  # a sign that the terminal's encoding lacks must not end a run
        sys.stdout.reconfigure(errors="backslashreplace")
    wait_briefly()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        pairs: list[tuple[str, str]] = []
        if given[:1] == ["train"] and (kind := given[1:2]) and kind[0] in REWARD_MODELS:
            own, pairs = split_keys(given[2:], REWARD_MODELS[kind[0]])
            given = [" ".join(given[:2]), *own]
        if given[:1] == ["train"]:
            own, pairs = split_keys(given[1:])
            named = [argument for argument in own if argument in RECIPES or argument.endswith(".py")]
            asks = {"-h", "--help"} & set(own)
            given = ["config", named[0]] if named and asks else ["train", *own]
        if given[:1] == ["shorten"]:
            own, pairs = split_keys(given[1:], SHORTEN_OPTIONS)
            given = ["shorten", *own]
        if given[:1] == ["curate"]:
            own, pairs = split_keys(given[1:], CURATE_OPTIONS, CURATE_FLAGS)
            given = ["curate", *own]
        given, extra = split_extra(given) if given[:1] == ["serve"] else (given, ())
        parsed = parser().parse_args(given)
        parsed.pairs, parsed.extra = pairs, extra
        return int(parsed.run(parsed))
    except UsageError as error:
        for line in error.args:
            print(f"k15: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("k15: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        sys.stderr.close()
        return 1
    except OSError as error:  # no rights, a folder in the place of a file, a full disk: whichever file it was
        print(f"k15: {file_trouble(error)}", file=sys.stderr)
        return 1
