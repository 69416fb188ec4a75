"""Judges for tests: tokenizers in the manner of five families, and engines that answer a fixed text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fake_engine import FakeEngine, Faults

from rollout.config import EngineConfig, RolloutConfig
from rollout.engine import Request
from rollout.grading import Answered
from rollout.models.endings import end_tokens
from rollout.pool.pool import Pool
from rollout.reward_models.asking import judge_card
from rollout.reward_models.card import Card
from rollout.reward_models.config import RewardModelConfig
from rollout.reward_models.judge import JudgeFiles, JudgeModel
from rollout.reward_models.opinion import Opinion
from rollout.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CORRECT, WRONG = '{"verdict": "correct"}', '{"verdict": "wrong"}'
CONTEXT = 4096


@dataclass(frozen=True)
class Family:
    """How a kind of model writes conversations."""

    specials: tuple[str, ...]
    end: str
    """Ends an assistant's turn."""
    template: str
    plain: tuple[str, ...] = ()
    """Added tokens that are not marked as special."""


_TURNS = "{%% for m in messages %%}%s{%% endfor %%}{%% if add_generation_prompt %%}%s{%% endif %%}"
FAMILIES = {
    "llama": Family(
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|>"
        + _TURNS
        % (
            "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
    ),
    "qwen": Family(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>"),
        "<|im_end|>",
        _TURNS % ("<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n", "<|im_start|>assistant\n<think>\n"),
        ("<tool_call>", "</tool_call>", "<think>", "</think>"),
    ),
    "gemma": Family(
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        "<bos>"
        + _TURNS
        % (
            "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<end_of_turn>\n",
            "<start_of_turn>model\n",
        ),
        ("<table>", "</table>", "\n\n", "  "),
    ),
    "mistral": Family(
        ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[control_8]"),
        "</s>",
        "<s>"
        + _TURNS
        % ("{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]{% else %}{{ m.content }}</s>{% endif %}", ""),
    ),
    "kimi": Family(
        ("[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"),
        "<|im_end|>",
        _TURNS
        % (
            "<|im_{{ m.role }}|>{{ m.role }}<|im_middle|>{{ m.content }}<|im_end|>",
            "<|im_assistant|>assistant<|im_middle|>",
        ),
        ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ),
}


def family_tokenizer(name: str, template: str | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes with the special tokens and the chat template of a family."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]
    bytes_ = {char: index for index, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=bytes_, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(text, special=True) for text in family.specials])
    core.add_tokens([AddedToken(text, special=False, normalized=False) for text in family.plain])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        name_or_path=name,
        eos_token=family.end,
        chat_template=family.template if template is None else template,
        clean_up_tokenization_spaces=False,
    )


def judge_files(tokenizer: PreTrainedTokenizerFast, card: Card | None = None, context: int = CONTEXT) -> JudgeFiles:
    """Return a judge as its files would have it."""
    size = len(tokenizer)
    return JudgeFiles("judge", card or judge_card(), tokenizer, end_tokens(tokenizer), context, size)


def asked(text: str, question: str = "What is 2 + 2?", reference: str = "4") -> Answered:
    """Return a response to be judged."""
    return Answered(Problem.ask("p", question, reference, "exact"), text)


Say = Callable[[Request], str]
"""What a judge writes on a request."""


def says(*texts: str) -> Say:
    """Return a judge that writes these one after the other, then the last again and again."""
    left = list(texts)
    known: dict[str, str] = {}

    def say(request: Request) -> str:
        if request.key not in known:
            known[request.key] = left.pop(0) if len(left) > 1 else left[0]
        return known[request.key]

    return say


class Bench:
    """A judge on scripted engines, and what it was asked. Close it."""

    def __init__(
        self,
        say: Say,
        tokenizer: PreTrainedTokenizerFast | None = None,
        faults: Sequence[Faults] = (),
        engine: Callable[..., FakeEngine] = FakeEngine,
        engines: int = 1,
        card: Card | None = None,
        **keys: object,
    ) -> None:
        """``faults``: of the engines, in the order in which they are started; those after them have none."""
        self.tokenizer = tokenizer or family_tokenizer("llama")
        self.files = judge_files(self.tokenizer, card)
        self.requests: dict[str, Request] = {}
        self.alive: list[FakeEngine] = []
        self.closed = 0
        end = self.files.end[0]
        coming = list(faults)

        def script(request: Request) -> list[int]:
            self.requests.setdefault(request.key, request)
            begun = len(request.prompt) - len(self.requests[request.key].prompt)
            tokens = self.tokenizer(say(request), add_special_tokens=False)["input_ids"]
            return [*tokens, end, *[end] * request.max_new_tokens][begun:]

        def spawn(_: int) -> FakeEngine:
            made = engine(script, faults=coming.pop(0) if coming else None, chunk=64)
            self.alive.append(made)
            return made

        config = EngineConfig(
            kind="hf", count=engines, max_model_len=CONTEXT, stall_timeout_s=60, call_timeout_s=60, max_restarts=2
        )
        self.pool = Pool(spawn, config, RolloutConfig(segment_tokens=1, max_tokens=1), self.files.end)

        def close() -> None:
            self.closed += 1

        settings = RewardModelConfig.model_validate({"path": "judge", "max_tokens": 256, **keys})
        self.model = JudgeModel(self.pool, self.files, settings, close)

    def judge(self, *answers: Answered) -> list[Opinion]:
        """Return the opinions on some responses, handed in together."""
        return list(asyncio.run(self._judged(answers)))

    async def _judged(self, answers: Sequence[Answered]) -> Sequence[Opinion]:
        return await self.model.judge(answers)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.model.close()
