"""The command ``shorten``: arguments and exit codes. Loads nothing heavy."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.commands.usage import AddCommand, UsageError, path

if TYPE_CHECKING:
    from recipes.shorten.config import ShortenConfig
    from rl.config import RunConfig

METHODS = ("merge", "rejection", "dpo", "rl")
"""Values of --method, besides ``merge_rejection`` and ``all``."""
OPTIONS = ("method", "short-model", "problems", "heldout", "verifier", "out", "recipe", "config")
"""Options with a value; every other ``--key value`` is a configuration key."""
SHORTEN_HELP = """\
methods (k1.5 section 2.4)
  merge             average the weights of the long and a short model; no training
  rejection         sample 8 responses per problem, fine-tune on the shortest correct one
  dpo               prefer the shortest correct response to longer wrong ones, and to correct ones 1.5 times as long
  rl                from the checkpoint with the most accuracy per token: RL with the length reward, smaller cap
  merge_rejection   rejection, from the merged model
  all               all of these

Of a run its own problems, prompts and settings are used, and its model before RL is the short model unless
--short-model names another. Other models need --problems (JSON Lines: id, problem, answer). Held-out problems are
never learned from; all variants and the original are judged on the same ones: results.json, report.html and
efficiency.png in --out. The same command goes on where an interrupted one was; no response is sampled twice.
--KEY VALUE sets any key of `k15 config long2short`; --dry-run shows them resolved.

examples
  k15 shorten runs/demo --recipe long2short --method all --out runs/long2short
  k15 shorten runs/demo --method rl --rl.max_tokens 80 --rl.iterations 50 --out runs/shorter
  k15 shorten org/long-model --method merge --short-model org/short-model --problems math.jsonl --out runs/merged
"""


def add_command(command: AddCommand) -> None:
    """Add the command."""
    one = command("shorten", shorten, "make a long-CoT policy short, four ways (long2short)", epilog=SHORTEN_HELP)
    one.usage = "k15 shorten MODEL_OR_RUN --method METHOD --out DIR [options] [--KEY VALUE ...]"
    one.add_argument("model", metavar="MODEL_OR_RUN", help="run directory, model directory, hub name, package:NAME")
    one.add_argument("--method", required=True, type=_methods, metavar="METHOD[,METHOD]", help="see below; all: all")
    one.add_argument("--out", required=True, type=path, metavar="DIR", help="where everything is kept")
    one.add_argument("--short-model", metavar="MODEL", help="merged with the long one (a run: its model before RL)")
    one.add_argument("--problems", metavar="FILE", help="JSON Lines to learn from (default: the run's own)")
    one.add_argument("--heldout", metavar="FILE", help="JSON Lines to judge on (default: a fifth of --problems)")
    one.add_argument("--verifier", metavar="NAME", help="how --problems are judged: math, gsm8k, ... (math)")
    one.add_argument("--recipe", metavar="NAME", help="a recipe's settings to start from, e.g. long2short")
    one.add_argument("--config", type=path, metavar="FILE", help="YAML file with any of the keys")
    one.add_argument("--dry-run", action="store_true", help="print the resolved configuration and stop")


def _methods(text: str) -> tuple[str, ...]:
    from recipes.shorten.results import METHODS as ALL

    given = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in given if name not in (*ALL, "all")]
    if unknown or not given:
        raise argparse.ArgumentTypeError(f"{text!r}: the methods are {', '.join(ALL)} and all")
    return tuple(name for name in ALL if name in given or "all" in given)


def shorten(arguments: argparse.Namespace) -> int:
    """``k15 shorten``."""
    from recipes.commands.choose import recipe_config
    from recipes.shorten.config import ShortenConfig
    from rl.config_io import ConfigError, dump, load, read_file
    from rollout.problems.source import ProblemError

    base = ShortenConfig()
    if arguments.recipe is not None:
        chosen = recipe_config(arguments.recipe)
        if not isinstance(chosen, ShortenConfig):
            raise UsageError(f"recipe '{arguments.recipe}' trains a model; `k15 shorten` takes 'long2short'")
        base = chosen
    run_dir = Path(arguments.model).expanduser()
    is_run = (run_dir / "config.yaml").is_file()
    try:
        original = _run_config(run_dir) if is_run else None
        if original is not None:
            base = base.model_copy(update={"run": original})
        base = base.model_copy(update={"run": _on_problems(base.run, arguments, is_run)})
        config = load(base, read_file(arguments.config) if arguments.config else {}, arguments.pairs)
    except ConfigError as error:
        raise UsageError(*error.lines) from error
    except ProblemError as error:
        raise UsageError(str(error)) from error
    if arguments.dry_run:
        print(dump(config), end="")
        return 0
    return _carry_out(arguments, config, run_dir if is_run else None, original)


def _run_config(run_dir: Path) -> RunConfig:
    from rl.config_io import read_file, validate

    return validate(read_file(run_dir / "config.yaml"))


def _on_problems(run: RunConfig, arguments: argparse.Namespace, is_run: bool) -> RunConfig:
    """Return the run's configuration with the problems that the command names."""
    if arguments.problems is None:
        if not is_run:
            raise UsageError(f"{arguments.model} is no run directory: name problems to learn from with --problems FILE")
        if arguments.heldout or arguments.verifier:
            raise UsageError("--heldout and --verifier go with --problems")
        return run
    from recipes.shorten.problems import split_problems

    return split_problems(run, arguments.problems, arguments.heldout, arguments.verifier or "math")


def _carry_out(
    arguments: argparse.Namespace, config: ShortenConfig, run_dir: Path | None, original: RunConfig | None
) -> int:
    from rollout.progress import waiting

    with waiting("loading libraries"):
        from recipes.commands.sample import SampleError, find_model
        from recipes.run.workspace import WorkspaceError
        from recipes.shorten.merge import MergeError
        from recipes.shorten.pipeline import NothingToLearn, Order
        from recipes.shorten.pipeline import shorten as work
        from rl.launch import LaunchError
        from rollout.models.pretrained import ModelPathError
        from rollout.models.prompts import PromptError
        from rollout.problems.source import ProblemError

    try:
        short = _short_model(arguments, run_dir)
        order = Order(
            long=Path(find_model(arguments.model).path),
            short=None if short is None else Path(find_model(short).path),
            run_dir=run_dir,
            original=original,
            methods=arguments.method,
            config=config,
            out=arguments.out,
        )
        return work(order)
    except (SampleError, ModelPathError, MergeError, WorkspaceError, ProblemError, PromptError) as error:
        raise UsageError(str(error)) from error
    except (NothingToLearn, LaunchError) as error:
        print(f"k15: {error}", file=sys.stderr)
        return 1


def _short_model(arguments: argparse.Namespace, run_dir: Path | None) -> str | None:
    """Return the short model's name; ``None`` when no method needs one. Raises ``UsageError`` when one is missing."""
    if arguments.short_model is not None:
        return str(arguments.short_model)
    if not {"merge", "merge_rejection"} & set(arguments.method):
        return None
    if run_dir is not None and (run_dir / "warmup" / "config.json").is_file():
        return str(run_dir / "warmup")
    raise UsageError("merging needs a short model of the same architecture and tokenizer: --short-model MODEL")
