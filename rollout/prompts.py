"""From a problem to prompt tokens, and from response tokens to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rollout.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptError(ValueError):
    """A problem cannot be rendered into the context."""


def messages(problem: Problem, instruction: str, system: str) -> list[dict[str, str]]:
    """The conversation that asks the problem: optional system message, then the user's turn."""
    content = f"{problem.prompt}\n\n{instruction}" if instruction else problem.prompt
    user = [{"role": "user", "content": content}]
    return [{"role": "system", "content": system}, *user] if system else user


def render(tokenizer: PreTrainedTokenizerBase, problem: Problem, instruction: str, system: str) -> tuple[int, ...]:
    """Prompt tokens of a problem; see ``render_chat``."""
    return render_chat(tokenizer, messages(problem, instruction, system))


def render_chat(
    tokenizer: PreTrainedTokenizerBase, chat: Sequence[Mapping[str, str]], **arguments: bool
) -> tuple[int, ...]:
    """Prompt tokens: the model's own chat template with its generation prompt; never a doubled BOS.

    ``arguments`` are the template's own, e.g. ``enable_thinking``. Raises ``PromptError`` when the tokenizer has no
    chat template.
    """
    if not tokenizer.chat_template:
        raise PromptError(
            f"tokenizer {tokenizer.name_or_path!r} has no chat template; "
            "set tokenizer.chat_template and save it, or use an instruct model"
        )
    encoded = tokenizer.apply_chat_template(
        [dict(message) for message in chat], add_generation_prompt=True, tokenize=True, return_dict=True, **arguments
    )
    return tuple(int(token) for token in encoded["input_ids"])


def render_within(
    tokenizer: PreTrainedTokenizerBase, problem: Problem, instruction: str, system: str, limit: int
) -> tuple[int, ...]:
    """``render``, refusing a prompt of more than ``limit`` tokens with one clear line."""
    tokens = render(tokenizer, problem, instruction, system)
    if len(tokens) > limit:
        raise PromptError(
            f"problem {problem.id!r}: the prompt has {len(tokens)} tokens but the context leaves room for {limit} "
            "(engine.max_model_len - 1); raise engine.max_model_len or filter long problems (max_prompt_chars)"
        )
    return tokens


def end_tokens(tokenizer: PreTrainedTokenizerBase, generation_eos: Sequence[int] = ()) -> tuple[int, ...]:
    """Token ids that end a response: the tokenizer's EOS and the model's generation config, without repeats.

    Raises ``PromptError`` when there is none: such a policy could never stop.
    """
    ids = dict.fromkeys([*([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]), *generation_eos])
    if not ids:
        raise PromptError(f"tokenizer {tokenizer.name_or_path!r} has no EOS token; the policy could never stop")
    return tuple(int(token) for token in ids)


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], end: Sequence[int]) -> str:
    """Response text for graders and people, without the end token. Other special tokens stay visible: a policy must not
    be able to hide text from the grader or to glue it together.
    """
    body = token_ids[:-1] if token_ids and token_ids[-1] in end else token_ids
    return str(tokenizer.decode(list(body), skip_special_tokens=False, clean_up_tokenization_spaces=False))
