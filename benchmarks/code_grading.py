"""The code judge on known programs: ``python -m benchmarks.code_grading --data DIR`` (or $K15_DATA).

One JSON line per measurement:

- ``reference``: the sets' own solutions; each that is not accepted is named with the reason;
- ``mutant``: the same solutions with one operator, comparison or constant changed. A direct run of the tests, in one
  process and without the judge, says which are wrong; ``wrong_accepted`` and ``right_rejected`` must be 0;
- ``hostile``: the attacks of ``tests/code_attacks.py`` on all problem types; ``accepted``, ``ungradable`` must be 0.
  ``peer_accepted`` names those that pass the usual harness: program and tests in one process, exit code 0 for right.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import emit, environment, say
from rewards.code.judge import Program, judge
from rewards.code.packages import wanted_files
from rewards.code.problem import FUNCTIONAL_PRELUDE, CodeProblem, FunctionalProblem, problem_of_row
from rewards.code.sandbox import Sandbox, open_sandbox
from rewards.code.types import Job, Limits
from rewards.code.verdict import Judgement, Verdict
from tests.code_attacks import ATTACKS
from tests.code_kit import FAST, PROBLEMS, ROWS, wrapped

SETS = ("humaneval", "mbpp", "mbpp_sanitized", "leetcode_rllm_test", "leetcode_rllm_train")
PEER_LIMITS = Limits(cpu_s=5, wall_s=60)


@dataclass(frozen=True)
class Known:
    """A problem and a right program."""

    id: str
    row: dict[str, Any]
    problem: CodeProblem
    code: str


def known(data: Path, name: str, limit: int | None) -> list[Known]:
    """The problems of one set."""
    rows = [json.loads(line) for line in (data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        Known(row["id"], row, problem_of_row(row), (row["problem"] if "entry_point" in row else "") + row["answer"])
        for row in rows[:limit]
    ]


def judged(items: Sequence[tuple[CodeProblem, str]], box: Sandbox, threads: int) -> list[Judgement]:
    """Verdicts, in order, ``threads`` programs at a time."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda item: judge(item[0], Program(item[1]), box), items))


def references(name: str, items: Sequence[Known], box: Sandbox, threads: int) -> dict[str, Any]:
    """How many reference solutions are accepted."""
    start = time.perf_counter()
    results = judged([(item.problem, item.code) for item in items], box, threads)
    seconds = time.perf_counter() - start
    exceptions = [
        {"id": item.id, "verdict": result.verdict, "reason": result.reason}
        for item, result in zip(items, results, strict=True)
        if result.verdict is not Verdict.AC
    ]
    accepted = len(items) - len(exceptions)
    row = {"measure": "reference", "set": name, "programs": len(items), "accepted": accepted, "exceptions": exceptions}
    return row | {"seconds": round(seconds, 1), "programs_per_s": round(len(items) / seconds, 2)}


_OTHER: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitXor, ast.BitXor: ast.BitAnd, ast.LShift: ast.RShift,
}  # fmt: skip


def _mutations(tree: ast.AST) -> Iterator[tuple[ast.AST, str, Any]]:
    """Node, field and new value of every change that can be made."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)) and type(node.op) in _OTHER:
            yield node, "op", _OTHER[type(node.op)]()
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in _OTHER:
            yield node, "ops", [_OTHER[type(node.ops[0])](), *node.ops[1:]]
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            yield node, "value", node.value + 1
        elif isinstance(node, ast.Constant) and type(node.value) is bool:
            yield node, "value", not node.value
        elif isinstance(node, ast.Return) and node.value is not None:
            yield node, "value", ast.List([node.value], ast.Load())


def mutants(code: str, entry: str | None, count: int, rng: random.Random) -> list[str]:
    """Up to ``count`` programs that differ from ``code`` in one place, inside of the function ``entry`` if it is named:
    what stands beside it in a HumanEval prompt is a helper of the tests, which the judge takes from the prompt.
    """

    def part(tree: ast.Module) -> ast.AST:
        found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == entry]
        return found[-1] if found else tree

    tree = ast.parse(code)
    choices = list(_mutations(part(tree)))
    found = []
    for place in rng.sample(range(len(choices)), min(count, len(choices))):
        changed = copy.deepcopy(tree)
        node, field, value = list(_mutations(part(changed)))[place]
        setattr(node, field, value)
        found.append(ast.unparse(ast.fix_missing_locations(changed)))
    return found


def one_process(item: Known) -> str:
    """The tests of a problem as code to follow the program: the usual harness. Exit code 0 means that all passed."""
    if isinstance(item.problem, FunctionalProblem):
        tolerance = item.problem.leeway.tolerance or 0.0
        return f"""
import json as _j, sys as _s
def _same(a, b):
    if type(b) is list: return type(a) in (list, tuple) and len(a) == len(b) and all(map(_same, a, b))
    if type(b) is float: return type(a) in (int, float) and abs(a - b) <= {tolerance} * max(1, abs(b))
    return type(a) is type(b) and a == b
for _args, _out in {[(list(args), out) for args, out in item.problem.tests]!r}:
    assert _same(Solution().{item.problem.name}(*_args), _out)
"""
    row = item.row
    if "entry_point" in row:
        return f"\n{row['test']}\ncheck({row['entry_point']})\n"
    parts = [*(row.get("test_imports") or []), row.get("test_setup_code") or "", *row["test_list"]]
    return "\n" + "\n".join(parts).replace("\r\n", "\n") + "\n"


def directly_right(item: Known, code: str, box: Sandbox) -> bool | None:
    """Whether a program passes its tests when both run in one process; ``None`` when it did not get to an answer."""
    prelude = "import sys\nsys.setrecursionlimit(10**6)\n" + FUNCTIONAL_PRELUDE
    program = (prelude if isinstance(item.problem, FunctionalProblem) else "") + code + one_process(item)
    files = {**wanted_files(program), "main.py": program.encode()}
    outcome = box.run(Job(("env", "PYTHONHASHSEED=0", "python3", "main.py"), files, limits=PEER_LIMITS))
    if outcome.ok:
        return True
    return False if b"AssertionError" in outcome.stderr[-2000:] else None


def mutated(name: str, items: Sequence[Known], count: int, seed: int, box: Sandbox, threads: int) -> dict[str, Any]:
    """How the judge does on changed programs, against a direct run of the tests."""
    cases = [
        (item, code)
        for item in items
        for code in mutants(item.code, item.row.get("entry_point"), count, random.Random(f"{seed}/{item.id}"))
    ]
    with ThreadPoolExecutor(threads) as pool:
        truths = list(pool.map(lambda case: directly_right(*case, box), cases))
    results = judged([(item.problem, code) for item, code in cases], box, threads)
    counts: Counter[str] = Counter()
    disagreements = []
    for (item, code), truth, result in zip(cases, truths, results, strict=True):
        accepted = result.verdict is Verdict.AC
        counts["wrong" if truth is False else "right" if truth else "no answer"] += 1
        counts["no answer, accepted"] += truth is None and accepted
        if truth is not None and truth != accepted:
            counts["wrong_accepted" if accepted else "right_rejected"] += 1
            disagreements.append(
                {"id": item.id, "verdict": result.verdict, "reason": result.reason, "code": code[:4000]}
            )
    return {
        "measure": "mutant",
        "set": name,
        "mutants": len(cases),
        "provably_wrong": counts["wrong"],
        "wrong_accepted": counts["wrong_accepted"],
        "still_right": counts["right"],
        "right_rejected": counts["right_rejected"],
        "no_direct_answer": counts["no answer"],
        "no_direct_answer_accepted": counts["no answer, accepted"],
        "disagreements": disagreements,
    }


def hostile(box: Sandbox, threads: int) -> Iterator[dict[str, Any]]:
    """The attacks on each problem type: the judge, and the usual harness."""
    for kind in PROBLEMS:
        programs = {attack: wrapped(body, kind, top) for attack, (top, body) in ATTACKS.items()}

        def one(code: str, kind: str = kind) -> Judgement:
            return judge(PROBLEMS[kind], Program(code), box, FAST)

        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(one, programs.values()))
        counts = Counter(result.verdict for result in results)
        row = {"measure": "hostile", "type": kind, "programs": len(programs), "accepted": counts[Verdict.AC]}
        row |= {"ungradable": counts[Verdict.SE], "verdicts": {str(key): value for key, value in counts.items()}}
        if kind != "stdin":
            row["peer_accepted"] = peer(kind, programs, box, threads)
        yield row


def peer(kind: str, programs: dict[str, str], box: Sandbox, threads: int) -> list[str]:
    """Attacks that the usual harness takes for right programs."""
    item = Known(kind, ROWS[kind], PROBLEMS[kind], "")
    judge_one: Callable[[str], bool | None] = lambda code: directly_right(item, code, box)  # noqa: E731
    with ThreadPoolExecutor(threads) as pool:
        verdicts = list(pool.map(judge_one, programs.values()))
    return [attack for attack, right in zip(programs, verdicts, strict=True) if right]


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.code_grading", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("K15_DATA"), help="folder of the data sets ($K15_DATA)"
    )
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated names of data sets")
    parser.add_argument("--limit", type=int, help="problems of each set (all)")
    parser.add_argument("--mutants", type=int, default=1, help="changed programs for each problem (1); 0: none")
    parser.add_argument("--no-hostile", action="store_true", help="leave out the attacks")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.data is None or not Path(given.data).is_dir():
        parser.error("name the folder of the data sets with --data or $K15_DATA")
    threads = len(os.sched_getaffinity(0))
    emit({"measure": "environment", **environment()})
    with open_sandbox() as box:
        for name in filter(None, given.sets.split(",")):
            items = known(given.data, name, given.limit)
            say(f"{name}: {len(items)} problems")
            emit(references(name, items, box, threads))
            if given.mutants:
                emit(mutated(name, items, given.mutants, given.seed, box, threads))
        if not given.no_hostile:
            for row in hostile(box, threads):
                emit(row)


if __name__ == "__main__":
    main()
