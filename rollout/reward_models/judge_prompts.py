"""From a response to its judge's prompt, and whether a judge's tokenizer and template can be trusted with one."""

from __future__ import annotations

import random
import re
import string
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rewards.models.defusing import defused
from rollout.models.prompts import render_chat
from rollout.models.templates import PromptError, check_template, text_of
from rollout.plain import one_line
from rollout.reward_models.asking import judge_framing, judge_messages
from rollout.reward_models.card import Card
from rollout.reward_models.labelled import LONGEST
from rollout.reward_models.reading import check_fits
from rollout.types import Problem, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPARE = 8
"""Tokens that are left free of a long response: its first character may take more than one."""
WORD = 8
"""Characters between two spaces in it: some tokenizers take no long words."""
_CHARACTERS = string.ascii_letters + string.digits + "+-=.,;:"
_MARKUP = re.compile(r"[<\[\uff1c\u25c1].*[>\]\uff1e\u25b7]", re.DOTALL)


class JudgePrompts:
    """Renders a judge's prompts. ``longest``: most tokens of one; ``vocabulary``: rows of the judge's embedding."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, card: Card, longest: int, vocabulary: int) -> None:
        self.tokenizer = tokenizer
        self.card = card
        self.longest = longest
        self.vocabulary = vocabulary
        self._framing = judge_framing(card)

    def prompt(self, question: str, reference: str, response: str) -> Prompt:
        """Return the prompt that asks about a response.

        Raises ``PromptError`` for a response that cannot be put to this judge: too long, in characters that its
        tokenizer has no tokens for, or with tokens in it that only the template may write.
        """
        if (characters := len(question) + len(reference) + len(response)) > LONGEST:  # a tokenizer takes its time
            raise PromptError(f"it has {characters} characters, and {LONGEST} are read at most")
        rendered = self._rendered(question, reference, response)
        if len(rendered) > self.longest:
            raise PromptError(f"the judge's prompt has {len(rendered)} tokens, and it takes {self.longest}")
        marks = self._marks_in(rendered)
        if marks != self._own_marks:
            if (unknown := self.tokenizer.unk_token_id) is not None and unknown in marks:
                raise PromptError("the judge's tokenizer has no tokens for some of its characters")
            raise PromptError("it writes special tokens into the judge's prompt")
        return rendered

    def check(self) -> None:
        """Raises ``PromptError`` (one line) for a judge that cannot be asked about any response: its template leaves
        out responses or cuts them, or text can write its special tokens; ``MisfitError`` for another model's tokenizer.
        """
        name = repr(self.tokenizer.name_or_path)
        check_fits(self.tokenizer, self.vocabulary, self.card.tokenizer, f"tokenizer {name}")
        alphabet = [one for one in _CHARACTERS if self._encodes(one)]
        if not alphabet:
            raise PromptError(f"tokenizer {name} has no tokens for letters and digits: a judge could read nothing")
        check_template(self.tokenizer, self._chat(*alphabet[:1] * 3), self._framing.arguments)
        if self.tokenizer.unk_token_id is not None and self.tokenizer.unk_token_id in self._own_marks:
            raise PromptError(
                f"tokenizer {name} has no tokens for some characters of the judge's template: write it in those that "
                "the judge was trained on"
            )
        self._check_turn(name, *alphabet[:1] * 3)
        self._check_whole(name, alphabet)
        self._check_marks(name)

    def _check_turn(self, name: str, *texts: str) -> None:
        """Have the template end the user's turn with what no response can write: a special token, or text that is
        defused in responses.
        """
        chat = self._chat(*texts)
        written = text_of(self.tokenizer, chat, True, **self._framing.arguments)
        tail = written.rpartition(chat[-1]["content"].strip())[2]
        if defused(tail) == tail and not self._marks.keys() & {*self._token_ids(tail)}:
            raise PromptError(
                f"tokenizer {name}: its chat template begins the judge's turn with {one_line(tail, 40)!r}, which any "
                "response can write, and so speak for the judge; take a judge whose template ends turns with special "
                "tokens"
            )

    def _check_whole(self, name: str, alphabet: list[str]) -> None:
        """Put two long responses to the judge: each must be there, to its last character."""
        least = len(self._rendered(*alphabet[:1] * 3))
        size = self.longest - least - SPARE
        if size < 1:
            raise PromptError(
                f"the judge's template takes {least} tokens without a response, and its prompt may have {self.longest}:"
                " raise max_tokens of its card, or take a judge with a longer context"
            )
        draw, gap = random.Random(0), " " if self._encodes(f"{alphabet[0]} {alphabet[0]}") else ""
        for _ in range(2):
            drawn = draw.choices(alphabet, k=size)
            text = "".join(gap if index % WORD == WORD - 1 else one for index, one in enumerate(drawn))
            decoded = str(self.tokenizer.decode(self._rendered(alphabet[0], alphabet[0], text).token_ids.tolist()))
            if "".join(text.split()).casefold() not in "".join(decoded.split()).casefold():
                raise PromptError(
                    f"tokenizer {name}: a response of {size} characters does not come through the judge's template "
                    "whole: the tokenizer, or its chat template, drops or cuts some of it; mend that"
                )

    def _check_marks(self, name: str) -> None:
        """Have a response of each special token: none may come through as one."""
        for token, text in self._marks.items():
            if token == self.tokenizer.unk_token_id:
                continue
            for shape in (text, f"a{text}b", f" {text} ", f"\n{text}\n"):
                if token in self._token_ids(defused(shape)):
                    raise PromptError(
                        f"tokenizer {name}: a response can write its special token {text!r}, and so speak as somebody "
                        "else to the judge; take a judge whose special tokens have a form like <...> or [...]"
                    )

    def _chat(self, question: str, reference: str, response: str) -> list[dict[str, str]]:
        messages = judge_messages(self.card, question, reference, response)
        if not messages[-1].content.strip():
            raise PromptError("nothing of it is left to judge")
        return self._framing.messages(Problem("judge", messages))

    def _rendered(self, question: str, reference: str, response: str) -> Prompt:
        return render_chat(self.tokenizer, self._chat(question, reference, response), **self._framing.arguments)

    def _token_ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    def _encodes(self, text: str) -> bool:
        tokens = self._token_ids(text)
        return bool(tokens) and self.tokenizer.unk_token_id not in tokens

    @cached_property
    def _marks(self) -> dict[int, str]:
        """Tokens that mean something beside their text, and their texts: special ones, and added ones in the form of
        markup, such as ``<think>``.
        """
        added: dict[int, Any] = self.tokenizer.added_tokens_decoder
        found = {
            number: str(token.content)
            for number, token in added.items()
            if token.special or _MARKUP.fullmatch(str(token.content).strip())
        }
        special = zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=True)
        found |= {int(number): str(text) for number, text in special}
        return {number: text for number, text in found.items() if text.strip()}

    @cached_property
    def _numbers(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        return np.array(sorted(self._marks), np.int32)

    @cached_property
    def _own_marks(self) -> list[int]:
        """The template's own, in order: those of a prompt with nothing else in it."""
        plain = next(one for one in _CHARACTERS if self._encodes(one))
        return self._marks_in(self._rendered(plain, plain, plain))

    def _marks_in(self, prompt: Prompt) -> list[int]:
        found: list[int] = prompt.token_ids[np.isin(prompt.token_ids, self._numbers)].tolist()
        return found
