"""The commands ``grade``, ``judge`` and ``make-tests``: arguments and exit codes. Loads nothing heavy."""

from __future__ import annotations

import argparse

from recipes.commands.evidence import add_evidence_options, evidence_of
from recipes.commands.judging import MODEL_HELP, add_judge_options, judge_of
from recipes.commands.usage import AddCommand, UsageError, count, path, positive, seed

GRADE_HELP = f"""\
Each line of FILE is a JSON object with the fields gold and prediction; the same line comes out with verdict (correct,
wrong or ungradable), extracted (the answer that was read) and reason. A summary goes to standard error. Malformed lines
are told there by kind and number and left out; the exit code is then 1, and 2 when there is nothing to grade. A line
with a field verdict, extracted or reason of its own is not overwritten: --prefix gives ours other names.
docs/grading.md has all rules.

FILE may also be a run directory, or a file of its rollouts (rollouts/*.parquet): each rollout is then graded by its own
problem's verifier as in training, and stored is the verdict that it got there.

With --quotes no answer is judged, and no gold is needed: the fields question (or problem, prompt) and prediction are
read, and each line comes out with quotes (how many things the response states as given), unsupported (those that its
question does not have, with their kind and line) and miscalculations (equations that do not hold). docs/quotes.md tells
what counts.

{MODEL_HELP}
rules
  boxed   the last \\boxed{{}} after the thinking (default)
  gsm8k   the number after the last ####, else after A: or Answer:, else the last number
  exact   the whole text after the thinking, to the letter
  none    no rule: --judge judges alone, and gold may be missing

examples
  k15 grade outputs.jsonl --out graded.jsonl
  k15 grade outputs.jsonl --gold-field answer --rule gsm8k
  echo '{{"gold": "1/2", "prediction": "0.5"}}' | k15 grade - --bare
  k15 grade runs/demo --out verdicts.jsonl
  k15 grade outputs.jsonl --quotes --out quoted.jsonl --kept faithful.jsonl
  k15 grade outputs.jsonl --judge runs/judge --out both.jsonl --page disagreements.html
  k15 grade outputs.jsonl --rule none --judge DIR --evidence rubric.md style.md --window 1000

With --evidence the judge is asked for one word, and the files are read in windows of their own, beside the reference
and the texts of a row's field evidence, {{"name": "text"}}. opinion then says which of them decided.
"""
JUDGE_HELP = """\
P and S are JSON Lines. A problem has id and its tests (docs/code_rewards.md lists the forms); a program has id (of its
problem), code (or response, out of which the code is taken) and language (python). One line comes out for each program,
in order: verdict (AC WA TLE MLE OLE RE CE SE), reason, tests, cpu_s, memory_bytes. SE is a failure of the sandbox or of
the problem, not of the program. Malformed lines are told and left out; they and SE make the exit code 1.

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


def add_commands(command: AddCommand) -> None:
    """Add the three commands."""
    one = command(
        "grade",
        grade,
        "grade answers in a file of responses, or the rollouts of a run",
        epilog=GRADE_HELP,
    )
    one.add_argument(
        "file", type=path, metavar="FILE", help="responses, one JSON object a line (- reads standard input); or a run"
    )
    one.add_argument("--out", type=path, metavar="F", help="where verdicts go (default: standard output)")
    one.add_argument(
        "--rule", choices=["boxed", "gsm8k", "exact", "none"], default="boxed", help="how the answer is marked"
    )
    one.add_argument("--bare", action="store_true", help="a prediction is the answer itself, not a response")
    one.add_argument("--gold-field", default="gold", metavar="NAME", help="field of the reference (gold)")
    one.add_argument("--prediction-field", default="prediction", metavar="NAME", help="of the response (prediction)")
    one.add_argument("--tolerance-field", metavar="NAME", help="of an absolute tolerance, e.g. error (none: exact)")
    one.add_argument("--prefix", default="", metavar="TEXT", help="put in front of the names of the fields added")
    one.add_argument("--timeout", type=positive, metavar="S", help="limit of one comparison, processor seconds (1)")
    one.add_argument("--workers", type=count, metavar="N", help="processes (all cores)")
    one.add_argument("--quotes", action="store_true", help="tell instead what responses misquote of their questions")
    one.add_argument("--kept", type=path, metavar="F", help="with --quotes: write the lines that misquote nothing here")
    add_judge_options(one.add_argument_group("a reward model beside the rule"))
    add_evidence_options(
        one.add_argument_group("a judge that says one word by long evidence in windows (docs/long_evidence.md)"),
        "*",
    )
    one.add_argument("--question-field", metavar="NAME", help="of the question (question, problem or prompt)")
    one.add_argument("--page", type=path, metavar="F.html", help="write a page on where rule and model disagree")
    one = command("judge", judge, "judge programs on the tests of coding problems", epilog=JUDGE_HELP)
    one.add_argument("--problems", type=path, required=True, metavar="P.jsonl", help="problems with tests")
    one.add_argument("--programs", type=path, required=True, metavar="S.jsonl", help="programs to judge")
    one.add_argument("--out", type=path, metavar="F", help="where results go (default: standard output)")
    one.add_argument("--workers", type=count, metavar="N", help="programs at a time (all cores)")
    one.add_argument("--all-tests", action="store_true", help="go on after the first test that fails")
    one.add_argument("--sandbox", choices=["auto", "bubblewrap", "crun", "unsafe"], default="auto", help="(auto)")
    one = command("make-tests", make_tests, "make test cases for coding problems", epilog=MAKE_TESTS_HELP)
    one.add_argument("problems", type=path, metavar="PROBLEMS.jsonl", help="problems without tests")
    one.add_argument("--prompts", type=path, metavar="F", help="only write the prompts that ask a model for generators")
    one.add_argument("--generators", type=path, metavar="G", help="CYaRon programs that make inputs")
    one.add_argument("--submissions", type=path, metavar="S", help="programs that are known to be right")
    one.add_argument("--out", type=path, metavar="F", help="where the problems go that were kept, with tests")
    one.add_argument("--report", type=path, metavar="F", help="one line for each problem: how far it came, and why")
    one.add_argument("--inputs", type=count, default=50, metavar="N", help="different inputs wanted (50)")
    one.add_argument("--per-problem", type=count, default=10, metavar="N", help="submissions that are run (10)")
    one.add_argument("--agree", type=count, default=7, metavar="N", help="equal outputs of a valid case (7)")
    one.add_argument("--min-valid", type=count, default=40, metavar="N", help="valid cases of a generator (40)")
    one.add_argument("--min-passing", type=count, default=9, metavar="N", help="submissions all right (9)")
    one.add_argument("--max-draws", type=count, default=100, metavar="N", help="runs of a generator (100)")
    one.add_argument("--seed", type=seed, default=0, metavar="N", help="same seed, same tests (0)")
    one.add_argument("--workers", type=count, metavar="N", help="programs at a time (all cores)")
    one.add_argument("--sandbox", choices=["auto", "bubblewrap", "crun", "unsafe"], default="auto", help="(auto)")


def grade(arguments: argparse.Namespace) -> int:
    """``k15 grade``."""
    from recipes.commands.grade import JUDGED, OURS, GradeError, Grading, regrade, run
    from rewards.score import GRADER_TIMEOUT_S

    judge = judge_of(arguments, evidence_of(arguments))
    if arguments.quotes:
        return quotes(arguments, judge is not None)
    if arguments.kept:
        raise UsageError("--kept goes with --quotes")
    if judge is None and (arguments.rule == "none" or arguments.page or arguments.question_field):
        raise UsageError("--rule none, --page and --question-field go with a reward model: name it with --judge PATH")
    if arguments.page and (arguments.page.is_dir() or not arguments.page.absolute().parent.is_dir()):
        raise UsageError(
            f"--page {arguments.page}: a file in a folder that exists is wanted"
        )  # before hours of judging
    how = Grading(
        rule=arguments.rule,
        bare=arguments.bare,
        gold=arguments.gold_field,
        prediction=arguments.prediction_field,
        tolerance=arguments.tolerance_field,
        prefix=arguments.prefix,
        timeout_s=arguments.timeout or GRADER_TIMEOUT_S,
        ours=JUDGED if judge else OURS,
    )
    try:
        if arguments.file.is_dir() or arguments.file.suffix == ".parquet":
            if how != Grading(timeout_s=how.timeout_s, ours=how.ours) or arguments.question_field:
                raise UsageError(
                    "--rule, --bare, --prefix and the field names are for JSON Lines; rollouts bring their own verifier"
                )
            return regrade(arguments.file, arguments.out, arguments.timeout, arguments.workers, judge, arguments.page)
        if judge is not None:
            from recipes.commands import grade_judged

            files = grade_judged.Files(str(arguments.file), arguments.out, arguments.page)
            return grade_judged.run(files, how, arguments.question_field, judge, arguments.workers)
        return run(str(arguments.file), arguments.out, how, arguments.workers)
    except GradeError as error:
        raise UsageError(*error.args) from error


def quotes(arguments: argparse.Namespace, judged: bool) -> int:
    """``k15 grade --quotes``. ``judged``: whether a reward model was named."""
    from recipes.commands.grade import GradeError
    from recipes.commands.grade_quotes import Fields, Files, run

    if judged or arguments.bare or arguments.rule != "boxed" or arguments.tolerance_field or arguments.page:
        raise UsageError("--quotes judges no answer: leave out --rule, --bare, --tolerance-field, --judge and --page")
    if arguments.file.is_dir() or arguments.file.suffix == ".parquet":
        raise UsageError("--quotes reads JSON Lines; a run records its quotes itself, with reward.quotes")
    files = Files(str(arguments.file), arguments.out, arguments.kept)
    try:
        return run(files, Fields(arguments.question_field, arguments.prediction_field, arguments.prefix))
    except GradeError as error:
        raise UsageError(*error.args) from error


def judge(arguments: argparse.Namespace) -> int:
    """``k15 judge``."""
    from recipes.commands.judge import JudgeError, Judging, run

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
        raise UsageError(*error.args) from error


def make_tests(arguments: argparse.Namespace) -> int:
    """``k15 make-tests``."""
    from recipes.commands.make_tests import Files, MakeTestsError, run, write_prompts
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
