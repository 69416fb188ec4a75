"""Configuration of text to pretrain on. Imports no torch, vLLM or Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rollout.config import Config
from rollout.problems.config import ArithmeticSource, ProceduralSource


class FilesText(Config):
    """Documents in files: ``.txt``, ``.md`` (each file is one), ``.jsonl``, ``.parquet`` (each row).

    A row is in memory as a whole.
    """

    kind: Literal["files"] = "files"
    path: str
    """A file, a folder (all such files below it) or a pattern: ``corpus/*.parquet``."""
    field: str = "text"
    """The field of a row that holds its text."""


class HubText(Config):
    """Documents of a Hugging Face data set, streamed: no more is fetched than training needs."""

    kind: Literal["hub"] = "hub"
    path: str
    """Name on the hub, or a folder of data files."""
    name: str | None = None
    """Its configuration (subset), if it has several."""
    split: str = "train"
    """Its split."""
    field: str = "text"
    """The field of a row that holds its text."""


class PythonText(Config):
    """What Python packages carry, so that any machine has it: documentation, or source code."""

    kind: Literal["python"] = "python"
    part: Literal["prose", "code"] = "prose"
    """``prose``: the documentation strings, and the language reference that ``help()`` shows. ``code``: the sources
    without them."""
    packages: tuple[str, ...] = ("stdlib",)
    """``stdlib``, and names of installed packages: ``numpy``, ``sympy``, ``torch``, ``transformers``."""


class ProblemsText(Config):
    """Problems of a procedural source with their demonstrations, without end.

    They are written by the tokenizer's chat template, as the model is asked them later.
    """

    kind: Literal["problems"] = "problems"
    source: Annotated[ProceduralSource, Field(discriminator="kind")] = ArithmeticSource()
    """Which problems; its training split is learnt, its held-out split measured."""


class FactsText(Config):
    """Made-up words with facts to recall, without end (``rl.text.facts``).

    What attention that looks far back is good for.
    """

    kind: Literal["facts"] = "facts"
    words: float = Field(3.0, ge=0)
    """Words between facts on average."""
    keys: int = Field(32, ge=1, le=32)
    """Keys that a document is about."""
    recent: int = Field(4, ge=0)
    """Half of the facts repeat one of so many before; the others lie as far back as the document is long."""
    length: int = Field(1024, ge=8)
    """Tokens (letters) of a document."""
    seed: int = 0
    """Another seed is another language."""


TextSource = Annotated[FilesText | HubText | PythonText | ProblemsText | FactsText, Field(discriminator="kind")]


class TokenizerConfig(Config):
    """The tokenizer of a model that is pretrained from scratch; a pretrained model brings its own."""

    kind: Literal["bytes", "bpe"] = "bytes"
    """``bytes``: a token for each byte: the smallest embedding, for models of less than some ten million parameters.
    ``bpe``: byte pairs, learnt from the text."""
    vocabulary: int = Field(4096, ge=300)
    """Tokens of ``bpe``, bytes and special ones included."""
    learnt_from: int = Field(10_000_000, ge=1000)
    """Characters that ``bpe`` is learnt from, shared out among the sources."""
