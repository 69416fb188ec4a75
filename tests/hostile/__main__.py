"""Run every case and print a Markdown table of what happened: ``python -m tests.hostile``."""

import argparse
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from rewards.code.sandbox import open_sandbox
from rewards.code.types import Job, Outcome
from tests.hostile.case import Case
from tests.hostile.escapes import ESCAPES
from tests.hostile.floods import FLOODS
from tests.hostile.rights import RIGHTS

CASES = [*FLOODS, *ESCAPES, *RIGHTS]


def told(outcome: Outcome) -> str:
    """An outcome in a few words."""
    words = outcome.stdout[:120].decode(errors="replace").strip().replace("\n", "; ").replace("|", "/")
    status = f" {outcome.exit_code}" if outcome.ending.value in ("exit", "signal") else ""
    text = f": `{words}`" if words and outcome.ending.value != "output" else ""
    return f"{outcome.ending.value}{status}{text}"


def patient(case: Case, slowness: float) -> Job:
    """The case's job, with so many times its time."""
    job = case.job()
    times = {name: slowness * getattr(job.limits, name) for name in ("cpu_s", "wall_s", "sleep_s")}
    return replace(job, limits=replace(job.limits, **times))


def main() -> int:
    """Exit status 1 when a case is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sandbox", default="auto", help="bubblewrap, crun (auto)")
    parser.add_argument("--slowness", type=float, default=1.0, help="multiplies all times allowed (1)")
    parser.add_argument("--slots", type=int, default=1, help="programs at one time (1)")
    parser.add_argument("--only", default="", help="a regular expression for names of cases (all)")
    options = parser.parse_args()
    cases = [case for case in CASES if re.search(options.only, case.name)]
    right = 0
    with open_sandbox(options.sandbox, options.slots) as sandbox, ThreadPoolExecutor(options.slots) as pool:
        facts = sandbox.describe()
        print(f"{facts.backend}, cgroup {facts.cgroup}, {facts.identity}\n\n| case | what happened | |\n|---|---|---|")
        outcomes = pool.map(sandbox.run, [patient(case, options.slowness) for case in cases])
        for case, outcome in zip(cases, outcomes, strict=True):
            good = case.check(outcome, facts)
            right += good
            verdict = "as it must" if good else f"WRONG {outcome.stderr[-300:]!r}"
            print(f"| {case.name} | {told(outcome)} | {verdict} |", flush=True)
    print(f"\n{right} of {len(cases)} as they must")
    return 0 if right == len(cases) else 1


if __name__ == "__main__":
    sys.exit(main())
