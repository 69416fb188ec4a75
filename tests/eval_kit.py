"""Parts of evaluations for tests: answers, scripted responders, a tiny model with a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from evals.evaluate import Answer, Ask, Done, Response
from rewards.score import Score
from rollout.models.tokenizer import build_tokenizer
from rollout.types import Problem, StopReason

CHARACTERS = [chr(c) for c in range(32, 127)] + ["\n"]


def problem(index: int = 0, answer: str = "7", **extra: object) -> Problem:
    return Problem.ask(f"p{index}", f"What is {index}?", answer, "exact", "test", extra=extra)


def answer(
    item: Problem, sample: int, verdict: str, text: str = "", tokens: int | None = 10, stop: StopReason = StopReason.EOS
) -> Answer:
    score = {
        "correct": Score.right(text),
        "wrong": Score.wrong("differs", text),
        "ungradable": Score.ungradable("died"),
    }
    return Answer(item, sample, Response(text, stop, tokens), score[verdict])


class Scripted:
    """Answers by a function; counts what it was asked."""

    def __init__(self, say: Callable[[Ask], str]) -> None:
        self.say = say
        self.asked: list[tuple[str, int]] = []

    def respond(self, asks: Sequence[Ask], done: Done) -> None:
        for ask in asks:
            self.asked.append(ask.key)
            text = self.say(ask)
            done(ask, Response(text, StopReason.EOS, len(text)))


def write_model(folder: Path, context: int = 512, template: str | None = None, seed: int = 0) -> Path:
    """A tiny random Llama with a tokenizer of single characters, as a Hugging Face directory."""
    from tiny_models import tiny_llama

    tokenizer = build_tokenizer(CHARACTERS, context)
    if template is not None:
        tokenizer.chat_template = template
    model = tiny_llama(vocab_size=len(tokenizer), max_position_embeddings=context, seed=seed)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
