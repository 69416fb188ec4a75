"""The command ``evidence``: arguments and exit codes. Loads nothing heavy."""

from __future__ import annotations

import argparse
import difflib

from recipes.commands.usage import AddCommand, UsageError, count, path
from recipes.evidence import FINDINGS

EVIDENCE_HELP = """\
What the papers behind k15 found, tried in small by its own recipes, several seeds for every arm. Each finding comes to
a verdict with its figures: it holds, it does not, or the trials cannot tell. evidence.html in --out has all of them
beside the published numbers, with plots.

Trials that findings share are made once, and the same command goes on where an interrupted one was; with more --seeds
only the new ones are made. A trial whose loss is not finite is a result: its arm is marked, and the others go on. With
fewer than three seeds nothing holds.

examples
  k15 evidence --list
  k15 evidence muon --seeds 1          a first look
  k15 evidence muon rms                two of them
  k15 evidence --all                   hours; stop it and go on at will
"""


def add_command(command: AddCommand) -> None:
    """Add the command."""
    one = command("evidence", evidence, "the papers' findings, tried in small, with verdicts", epilog=EVIDENCE_HELP)
    one.usage = "k15 evidence NAME ... | --list | --all [--seeds N] [--jobs N] [--out DIR] [--docs DIR]"
    one.add_argument("names", nargs="*", metavar="NAME", help="findings; see --list")
    one.add_argument("--all", action="store_true", help="all of them, in their order")
    one.add_argument("--list", action="store_true", help="list them and stop")
    one.add_argument("--seeds", type=count, default=3, metavar="N", help="trials of each arm (3)")
    one.add_argument("--jobs", type=count, metavar="N", help="trials at a time, a core each (the machine's, 2 at most)")
    one.add_argument("--out", type=path, default="runs/evidence", metavar="DIR", help="where trials are kept")
    one.add_argument("--docs", type=path, metavar="DIR", help="also write evidence.md and its plots there")


def evidence(arguments: argparse.Namespace) -> int:
    """``k15 evidence``."""
    names = chosen(arguments)
    from rollout.progress import waiting

    with waiting("loading libraries"):
        import os
        from pathlib import Path

        from recipes.evidence.bench.finding import Bench
        from recipes.evidence.bench.session import listing, run
        from recipes.run.workspace import WorkspaceError

    bench = Bench(Path(arguments.out).resolve(), tuple(range(arguments.seeds)))
    if arguments.list:
        print(listing(bench))
        return 0
    jobs = arguments.jobs or min(2, os.cpu_count() or 1)
    try:
        return run(names, bench, jobs, arguments.docs)
    except WorkspaceError as error:
        raise UsageError(str(error)) from error


def chosen(arguments: argparse.Namespace) -> list[str]:
    """Return the findings that are meant. Raises ``UsageError``."""
    if arguments.all or arguments.list:
        if arguments.names:
            raise UsageError(f"give names, or {'--all' if arguments.all else '--list'}, not both")
        return list(FINDINGS)
    if not arguments.names:
        raise UsageError("name a finding, or give --all; k15 evidence --list lists them")
    for name in arguments.names:
        if name not in FINDINGS:
            near = difflib.get_close_matches(name, FINDINGS, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(FINDINGS)}"
            raise UsageError(f"unknown finding '{name}'; {hint}")
    return list(dict.fromkeys(arguments.names))
