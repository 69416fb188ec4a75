"""A tokenizer from a list of token texts, for models built from scratch.

Text is cut greedily into the longest listed tokens; what is not listed becomes ``<unk>``. It is a regular fast
tokenizer of transformers: it saves, loads, and carries a chat template, so all code downstream treats it as any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

SPECIALS = ("<pad>", "<eos>", "<unk>", "<user>", "<assistant>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<assistant>' + message['content'] + '<eos>' }}"
    "{% else %}{{ '<user>' + message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def build_tokenizer(tokens: Sequence[str], context: int) -> PreTrainedTokenizerFast:
    """Build a tokenizer over ``tokens`` (distinct, non-empty texts) plus the special tokens; ``context`` is its maximum
    length.

    Raises ``ValueError`` for repeated or empty texts.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split

    if len(set(tokens)) != len(tokens) or not all(tokens):
        raise ValueError("tokens must be distinct and non-empty")
    vocabulary = {token: index for index, token in enumerate([*SPECIALS, *tokens])}
    core = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    longest_first = sorted(tokens, key=len, reverse=True)
    pattern = "|".join(re.escape(token).replace("\\\n", "\\n") for token in longest_first)
    core.pre_tokenizer = Split(Regex(pattern), behavior="isolated")
    core.decoder = Fuse()
    return _fast(core, context)


def _fast(core: Tokenizer, context: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of transformers with our special tokens and chat template."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def byte_tokenizer(context: int, texts: Iterable[str] = (), vocabulary: int = 0) -> PreTrainedTokenizerFast:
    """Build a tokenizer for any text: a token for each byte, and, learnt from ``texts``, for frequent pairs of them.

    ``vocabulary``: tokens in all, bytes and special ones included; as many as there are pairs for. ``texts`` are read
    only if that is more than the bytes. Digits stay single. The text of a special token becomes that token, as with any
    tokenizer of transformers, unless it is called with ``split_special_tokens=True``.
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {token: number for number, token in enumerate([*SPECIALS, *letters])}
    core = Tokenizer(BPE(vocab=words, merges=[]))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    if vocabulary > len(words):
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=list(SPECIALS), initial_alphabet=letters, show_progress=False
        )
        core.train_from_iterator(texts, trainer)
    return _fast(core, context)
