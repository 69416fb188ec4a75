"""The command ``trace``: the timeline of a run as a file for Perfetto."""

from __future__ import annotations

import argparse

from recipes.commands.usage import AddCommand, UsageError, path

HELP = """\
Perfetto (https://ui.perfetto.dev, which keeps the file in your browser) and chrome://tracing open it: a row for the
learner, each engine, the grader, what is saved, and the driver, with what it did when. docs/timeline.md says what the
names mean. The report of a run shows the same, with its idle time counted.

example
  k15 trace runs/quickstart --out quickstart.json
"""


def add_command(command: AddCommand) -> None:
    """Add the command."""
    one = command(
        "trace", trace, "write the timeline of a run as a trace for Perfetto, and print its path", epilog=HELP
    )
    one.add_argument("run_dir", type=path, metavar="RUN_DIR")
    one.add_argument("--out", type=path, metavar="FILE", help="where to write it (RUN_DIR/trace.json)")


def trace(arguments: argparse.Namespace) -> int:
    """``k15 trace``."""
    from rl.record.timeline import TimelineError, read_timeline
    from rl.record.trace import FILE, write_trace
    from rollout import timeline

    run_dir = arguments.run_dir
    if not run_dir.is_dir():
        what = "a file" if run_dir.exists() else "no such directory"
        raise UsageError(f"{run_dir}: {what}; give the directory of a run, e.g. runs/demo")
    try:
        processes = read_timeline(run_dir)
    except TimelineError as error:
        raise UsageError(str(error)) from error
    if not processes:
        raise UsageError(f"{run_dir}: no {timeline.FILE} in it; `k15 train` writes one while it trains")
    out = arguments.out or run_dir / FILE
    write_trace(processes, run_dir.resolve().name, out)
    print(out)
    return 0
