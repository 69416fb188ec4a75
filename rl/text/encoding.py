"""From stretches of documents to tokens, and the folder that keeps them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rl.text.documents import Documents
from rl.text.stretch import Stretch
from rollout.models.endings import end_tokens
from rollout.models.templates import text_of
from rollout.models.turns import Feeder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Encode = Callable[[Sequence[Stretch]], Sequence[Sequence[int]]]
"""Tokens of each stretch, with the end token where a document ends."""
FORM = 2
"""Raised when the same source and tokenizer come to give other tokens."""


def document_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that ends a document: EOS, or, without one, what ends a response. Raises ``PromptError``."""
    eos = tokenizer.eos_token_id
    return end_tokens(tokenizer)[0] if eos is None else int(eos)


def encoder(tokenizer: PreTrainedTokenizerBase) -> Encode:
    """Return what makes tokens of stretches; none of a document without text. Raises ``PromptError``.

    The text of a special token in a document is text and never becomes that token. A conversation is what the warm-up
    teaches and what the model is asked later: the prompt as the chat template writes it, the answer, and its end token.
    """
    end, turn_end, feeder = document_end(tokenizer), end_tokens(tokenizer)[0], Feeder(tokenizer)

    def tokens(texts: Sequence[str], split: bool) -> Sequence[Sequence[int]]:
        if not texts:  # which tokenizers of transformers refuse
            return []
        found = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=split, verbose=False)
        return list(found["input_ids"])

    def encode(found: Sequence[Stretch]) -> Sequence[Sequence[int]]:
        plain = iter(tokens([one.text for one in found if not one.asked], split=True))
        chats = iter(tokens([text for one in found if one.asked for text in _written(feeder, one)], split=False))
        rows: list[list[int]] = []
        for one in found:
            if not one.asked:
                rows.append([*next(plain), *([end] if one.ends and one.text else [])])
                continue
            rows.append([*next(chats)])
            for turn in one.turns:
                rows[-1] += [*next(chats), *([turn_end] if turn.role == "assistant" else [])]
            rows[-1] += [] if turn_end == end else [end]
        return rows

    return encode


def _written(feeder: Feeder, one: Stretch) -> list[str]:
    """Return the prompt and the turns of a conversation as the chat template writes them, without end tokens."""
    chat = [{"role": message.role, "content": message.content} for message in one.asked]
    prompt = text_of(feeder.tokenizer, chat, generate=True)
    return [prompt, *(turn.content if turn.role == "assistant" else feeder.text([turn]) for turn in one.turns)]


def cache_folder(root: Path, name: str, source: Documents, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Return the folder below ``root`` for the tokens of a source: another one for each tokenizer, and for files that
    were changed. ``name`` is only for those who look into ``root``.
    """
    parts = [str(FORM), source.identity, _identity(tokenizer)]
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "replace")).hexdigest()
    return root / f"{name}-{digest[:16]}"


def _identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what tells a tokenizer apart, whatever it was used for and wherever it lies."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        made: object = sorted(tokenizer.get_vocab().items())
    else:
        state = json.loads(core.to_str())
        made = {key: value for key, value in state.items() if key not in ("truncation", "padding")}
    return json.dumps([type(tokenizer).__name__, made, tokenizer.eos_token_id, tokenizer.chat_template])
