"""From options to tasks; everything that can be checked is checked before the first token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from evals.benchmark import Benchmark, Needs
from evals.data import choose, load, load_shots
from evals.evaluate import asks_of
from evals.offline import GRADERS, Task
from evals.prompting import Conversation, Renderer
from evals.windows import WindowRenderer
from recipes.commands.eval_fit import Item, Longest, fit, longest_prompt, more_windows, spread_of
from recipes.commands.eval_fusion import check_fuse, with_fusing
from recipes.commands.eval_options import HELDOUT, EvalError, Options, check_pass_ks, chosen, warn, with_settings
from recipes.commands.eval_windows import arms_of, check_windows, labelled, warn_of_room
from recipes.commands.judging import Judges, check_judge, own_site
from rollout.engine import Sampling
from rollout.evidence.config import MergingConfig
from rollout.grading import Grader, Grading, Through, VerifierGrader
from rollout.problems.source import ProblemList
from rollout.progress import waiting
from rollout.types import Problem

if TYPE_CHECKING:
    from evals.pooled import Generator, PoolResponder
    from recipes.commands.eval_models import LocalModel
    from rl.config import RayConfig, RunConfig
    from rl.reward_models import Site
    from rollout.config import EngineConfig
    from rollout.constraints import Constraint
    from rollout.environments.episodes import Episodes
    from rollout.models.prompts import Transcript

LONGEST_NEEDLE = 131_072
SHARE_FOR_ANSWER = 512
"""Tokens that a needle test leaves for question, template and answer."""


def settings_of(item: Item, options: Options, seed: int) -> dict[str, Any]:
    """Return the settings for ``results.json``; a record can only be continued under the same ones."""
    benchmark, choice = item.benchmark, options.choice
    prompt = json.dumps(item.conversation.messages(item.loaded.first))
    return {
        "samples": benchmark.samples,
        "temperature": benchmark.temperature,
        "top_p": benchmark.top_p,
        "max_tokens": benchmark.max_tokens,
        "seed": seed,
        "system": benchmark.system,
        "shots": len(item.conversation.shots),
        **({"shots_seed": options.shots_seed} if options.shots_seed else {}),
        "thinking": item.conversation.thinking,
        "limit": choice.limit,
        "from": choice.since,
        "until": choice.until,
        "where": dict(choice.where),
        "skip_defects": choice.skip_defects,
        "prompt": hashlib.sha256(prompt.encode()).hexdigest()[:16],
    }


def items_of(
    benchmarks: Sequence[Benchmark], options: Options, count: Callable[[str], int], context: int
) -> list[Item]:
    """Load problems and solved examples of each benchmark; ``count`` and ``context`` are for those that are
    generated.
    """
    items = []
    for benchmark in benchmarks:
        if benchmark.make is not None:
            windows = options.windows.count if options.windows else 1
            needs = Needs(count, lengths(options, context, windows), options.depths, options.trials, options.seed or 0)
            made = ProblemList(benchmark.make(needs), benchmark.name)
            loaded = choose(made, "generated", options.choice)
        else:
            loaded = load(benchmark, options.data, options.choice)
        shots: tuple[tuple[str, str], ...] = ()
        if options.shots and benchmark.shots:
            shots = load_shots(
                benchmark.shots, options.shots, options.data, benchmark.ask, options.shots_seed, loaded.asked
            )
        items.append(Item(benchmark, loaded, Conversation(benchmark, shots, options.thinking)))
    return items


def lengths(options: Options, context: int, windows: int = 1) -> tuple[int, ...]:
    """Return the context lengths of a needle test. Raises ``EvalError`` when one does not fit the model's context, or
    so many windows of it.
    """
    room = (context - SHARE_FOR_ANSWER) * windows
    found = options.lengths or tuple(n for i in range(10, 18) if (n := 2**i) <= min(room, LONGEST_NEEDLE))
    if not found or max(found) > room:
        raise EvalError(
            f"the model's context of {context} tokens is too short for a needle test of "
            f"{max(found, default=1024)} tokens{f' in {windows} windows' if windows > 1 else ''} (and "
            f"{SHARE_FOR_ANSWER} for question and answer): --lengths up to {max(room, 0)}, or --nbce with more windows"
        )
    return found


def opened_judges(
    options: Options, stack: ExitStack, engine: EngineConfig | None = None, ray: RayConfig | None = None
) -> Judges | None:
    """Open the reward model of the command, if it has one. ``engine``, ``ray``: of the engines that are there already;
    ``stack`` closes it. Raises ``JudgeError``.
    """
    if options.judge is None:
        return None
    if engine is None or ray is None:
        engine, ray = own_site(options.ray_address)
    with waiting("starting the reward model"):
        return Judges(options.judge, engine, ray, stack)


def with_judge(task: Task, judges: Judges | None, stack: ExitStack) -> Task:
    """Return the task with a reward model behind its rule; a record of other files of the model, or of other keys, is
    not continued.
    """
    if judges is None:
        return task
    rule = task.grader
    if rule is None:
        rule = VerifierGrader(task.benchmark.verify, GRADERS)
        stack.callback(rule.close)
    settings = {**task.settings, "judge": judges.settings()}
    return replace(task, grader=Through(judges.grading(rule)), settings=settings)


def prediction_tasks(options: Options, stack: ExitStack) -> tuple[str, list[Task]]:
    """Return the tasks for given responses; nothing is drawn."""
    from evals.predictions import read_predictions

    assert options.predictions is not None
    if options.fuse:
        raise EvalError("--fuse draws answers by a model's own engines; it does not go with --predictions")
    if len(options.benchmarks) != 1 or options.benchmarks[0] == HELDOUT:
        raise EvalError("--predictions needs exactly one benchmark: --bench NAME")
    (benchmark,) = chosen(options)
    if benchmark.make is not None:
        raise EvalError(f"{benchmark.name} generates its problems for a model; it cannot grade given responses")
    loaded = load(benchmark, options.data, options.choice)
    predictions = read_predictions(options.predictions, loaded.problems)
    asks = predictions.asks(loaded.problems)
    samples = max(sum(ask.problem.id == name for ask in asks) for name in {ask.problem.id for ask in asks})
    check_pass_ks(options.pass_ks, samples)
    answered = {ask.problem.id for ask in asks}
    missing = [problem.id for problem in loaded.problems if problem.id not in answered]
    if missing:
        warn(
            f"{options.predictions}: no prediction for {len(missing)} of {len(loaded.problems)} problems (first: "
            f"{missing[0]!r}); the score is over the others"
        )
    settings = {"samples": samples, "predictions": str(options.predictions), "limit": options.choice.limit}
    task = Task(benchmark, loaded, asks, predictions, settings, pass_ks=options.pass_ks)
    return "given predictions", [with_judge(task, opened_judges(options, stack), stack)]


def endpoint_tasks(options: Options, stack: ExitStack) -> tuple[str, list[Task]]:
    """Return the tasks for an OpenAI-compatible server."""
    from evals.endpoint import EndpointResponder, find_server

    if HELDOUT in options.benchmarks:
        raise EvalError(f"{HELDOUT!r} are the held-out problems of a run directory; name the run with --model")
    if options.fuse:
        raise EvalError("--fuse needs engines of our own, not a server: name a run, a model directory or a hub name")
    benchmarks = chosen(options)
    server = find_server(options.model, options.served_model)
    # Four characters a token: on the safe side for English and code.
    items = items_of(benchmarks, options, lambda text: -(-len(text) // 4), server.context or LONGEST_NEEDLE)
    judges = opened_judges(options, stack)
    seed, tasks = options.seed or 0, []
    limit = server.context if options.max_tokens is None else None
    for whole in items:
        sizes = {problem.id: _characters(whole, problem) // 3 for problem in whole.loaded.problems}
        longest = Longest(*max(sizes.items(), key=lambda item: item[1]))
        item = fit(whole, longest, limit, options) if limit else whole
        if item.benchmark.labels:
            warn(f"{item.benchmark.name}: a server's answers are not restricted to the labels")
        benchmark, conversation = item.benchmark, item.conversation
        responder = EndpointResponder(
            server,
            conversation.messages,
            Sampling(temperature=benchmark.temperature, top_p=benchmark.top_p),
            benchmark.max_tokens,
            options.concurrency,
            template=conversation.arguments,
        )
        first = json.dumps(conversation.messages(item.loaded.problems[0]), indent=1, ensure_ascii=False)
        task = _task(item, options, responder, seed, {"endpoint": server.url, "model": server.model}, first)
        tasks.append(with_judge(task, judges, stack))
    return f"{server.url} ({server.model})", tasks


def _characters(item: Item, problem: Problem) -> int:
    return sum(len(message["content"]) for message in item.conversation.messages(problem))


def pool_tasks(options: Options, stack: ExitStack) -> tuple[str, list[Task]]:
    """Return the tasks for a checkpoint or run directory on engines of our own, which ``stack`` closes."""
    from recipes.commands.eval_models import LocalModel, engine_config
    from rl.alone import open_pool
    from rl.reward_models import Site

    benchmarks = chosen(options)  # before anything is loaded
    model = LocalModel.find(options.model)
    if options.judge is not None:
        model = model.without_reward_model()
    items = _all_items(benchmarks, model, options)
    check_fuse(options, [item.benchmark for item in items], model.run if HELDOUT in options.benchmarks else None)
    asked = [asked_of(item, model, options) for item in items]
    needed = max(one.longest.tokens + one.item.benchmark.max_tokens for one in asked)
    windows = bool(options.windows or options.fuse) or any(one.constraint or one.evidence for one in asked)
    engine, ray = engine_config(model, options, needed, windows)
    for one in asked:
        if isinstance(one.renderer, WindowRenderer):
            check_windows(one.item, one.renderer, options, engine.kind, engine.max_model_len)
            warn_of_room(one.item, one.renderer, model, engine)
    seed = options.seed if options.seed is not None else model.seed
    if options.judge is not None:
        check_judge(options.judge, engine, ray)
    with waiting("starting engines"):
        pool = open_pool(model.path, engine, ray, model.end, seed, options.engines, stack)
        pool.score([[0, 0]])  # returns when an engine is up: its start is not part of the throughput
    judges = opened_judges(options, stack, engine, ray)

    def busy() -> tuple[float, int]:
        stats = pool.stats()
        return sum(one.busy_seconds for one in stats.engines), len(stats.engines)

    tasks = []
    for one in asked:
        own = model.run if one.item.benchmark.name == HELDOUT else None
        grader, episodes = _as_in(own, one.transcript, Site(engine, ray), stack) if own else (None, None)
        drawing = replace(one.drawing(pool, model, engine.max_model_len), episodes=episodes)
        for arm in arms_of(one.item, one.renderer, drawing, options, cached=engine.kind == "hf"):
            task = _task(arm.item, options, arm.responder, seed, {"model": model.fingerprint}, arm.first, grader)
            settings = {**task.settings, **arm.settings}
            task = replace(task, busy=busy, settings=settings, against=arm.against)
            if isinstance(one.renderer, Renderer):
                task = with_fusing(task, options.fuse, pool, one.renderer, one.transcript, engine.max_model_len)
            tasks.append(with_judge(task, judges, stack))
    return f"{engine.kind} {engine.dtype} on {engine.device}", tasks


def _all_items(benchmarks: Sequence[Benchmark], model: LocalModel, options: Options) -> list[Item]:
    """Return the items of the benchmarks, and a run's held-out problems if they are asked for."""
    from recipes.commands.eval_models import heldout

    items = items_of(benchmarks, options, model.count, model.context)
    if HELDOUT in options.benchmarks:
        benchmark, loaded = heldout(model, options.choice)
        benchmark = with_settings(benchmark, options)
        framing = model.framing
        asked = Conversation(benchmark, framing.shots, options.thinking, framing.arguments)
        items.append(Item(benchmark, loaded, asked))
    return items


@dataclass(frozen=True)
class Asked:
    """An item as a model is asked it."""

    item: Item
    renderer: Renderer | WindowRenderer
    transcript: Transcript
    longest: Longest
    constraint: Constraint | None
    evidence: MergingConfig | None = None
    """How a run's own problems with evidence are read."""

    def drawing(self, pool: Generator, model: LocalModel, context: int) -> PoolResponder:
        """Return how its responses are drawn."""
        from evals.pooled import PoolResponder

        benchmark = self.item.benchmark
        sampling = Sampling(temperature=benchmark.temperature, top_p=benchmark.top_p, stop_token_ids=model.end)
        graded, render = self.transcript.graded, cast("Renderer", self.renderer)
        merging = self.evidence or MergingConfig()
        return PoolResponder(
            pool, render, graded, sampling, benchmark.max_tokens, context, constraint=self.constraint, merging=merging
        )


def asked_of(item: Item, model: LocalModel, options: Options) -> Asked:
    """Render all prompts of an item and see to it that they fit, with an answer. Raises ``EvalError``,
    ``PromptError``, ``WindowError``.
    """
    from rollout.models.prompts import Transcript

    transcript = Transcript(model.tokenizer, model.end, item.benchmark.system, item.conversation.arguments)
    item, constraint = labelled(item, model, transcript, options)
    own = model.run.rollout.evidence if model.run and item.benchmark.name == HELDOUT else None
    renderer: Renderer | WindowRenderer
    if options.windows is None:
        renderer = Renderer(model.tokenizer, item.conversation, windows=own is not None)
    else:
        renderer = WindowRenderer(model.tokenizer, spread_of(item, options.windows.count, model))
    longest = longest_prompt(item, renderer, model)
    if item.benchmark.name == HELDOUT:
        return Asked(item, renderer, transcript, longest, constraint, own)

    def hint() -> str:
        assert isinstance(renderer, WindowRenderer)
        worst = next(problem for problem in item.loaded.problems if problem.id == longest.problem)
        fixed = options.max_tokens is not None or item.benchmark.labels
        answer = item.benchmark.max_tokens if fixed else min(item.benchmark.max_tokens, model.context // 4)
        return more_windows(renderer, worst, model.context - answer)

    fitted = fit(item, longest, model.context, options, hint if options.windows else None)
    return Asked(fitted, renderer, transcript, longest, constraint)


def _as_in(run: RunConfig, transcript: Transcript, site: Site, stack: ExitStack) -> tuple[Grader, Episodes | None]:
    """Return what judges a run's held-out problems, and their environment, which asks what the run's asked; ``stack``
    closes both. Raises ``EvalError`` for a reward model that cannot be used any more.
    """
    from recipes.run.setup import open_episodes
    from rl.rewarding import build_grader, evaluating

    try:
        whole = build_grader(run.reward, site)
    except ValueError as error:
        raise EvalError(f"{HELDOUT}: what the run was rewarded by cannot be used: {error}") from error
    grading = stack.enter_context(Grading(whole))
    episodes = open_episodes(run, transcript, lambda: Through(grading))
    if episodes is not None:
        stack.callback(episodes.close)
    return Through(grading.beside(evaluating(whole))), episodes


def _task(
    item: Item,
    options: Options,
    responder: Any,
    seed: int,
    identity: dict[str, Any],
    first_prompt: str,
    grader: Grader | None = None,
) -> Task:
    return Task(
        benchmark=item.benchmark,
        loaded=item.loaded,
        asks=asks_of(item.loaded.problems, item.benchmark.samples, seed),
        responder=responder,
        settings=settings_of(item, options, seed),
        identity={**identity, "problems": item.loaded.fingerprint},
        first_prompt=first_prompt,
        pass_ks=options.pass_ks,
        grader=grader,
    )
