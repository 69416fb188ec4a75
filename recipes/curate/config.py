"""The keys of ``k15 curate``. Imports no torch, vLLM or Ray.

k1.5 gives 10 samples for difficulty and 8 attempts of the guess filter; temperatures, cut-offs, prompts, the taxonomy
of domains and all sizes are not published [2501.12599 §2.1], so they are keys and the defaults are ours.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from recipes.curate.languages import LANGUAGES
from rl.config import RayConfig
from rollout.config import Config, EngineConfig
from rollout.embedding.config import EncoderConfig, WhiteningConfig
from rollout.problems.config import Value, VerifierName


class SourceConfig(Config):
    """Problems as they are found."""

    path: str
    """A JSON Lines or Parquet file, looked up in $K15_DATA first, then in the working directory; or ``hub:NAME``,
    ``hub:NAME:SPLIT`` or ``hub:NAME:CONFIGURATION:SPLIT``, a Hugging Face data set."""
    verifier: VerifierName = "math"
    """How answers are judged, in curation and by whoever trains on the result."""
    columns: dict[str, str] = {}
    """Our field -> their column, e.g. ``{problem: question}``; other fields keep their names."""
    where: dict[str, Value | tuple[Value, ...]] = {}
    """Keep rows whose field equals the value, or one of the values."""


class ReadConfig(Config):
    """Which rows are problems at all."""

    max_chars: int = Field(10_000, ge=1)
    """Longest statement."""
    languages: tuple[str, ...] = ()
    """ISO 639-1 codes of the languages to keep, e.g. ``[en, zh]``; texts too short to tell are kept. Empty: all."""
    check_answers: bool = True
    """Whether each answer is graded against itself: one that is not right has a grader that cannot judge it."""

    @field_validator("languages")
    @classmethod
    def _are_known(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [one for one in languages if one not in LANGUAGES]:
            raise ValueError(
                f"{', '.join(map(repr, unknown))} is no language that is told; there are: {', '.join(LANGUAGES)}"
            )
        return languages


class FormatsConfig(Config):
    """Questions whose answers can be guessed, or that no rule can judge, are left out [2501.12599 §2.1]."""

    exclude: tuple[
        Literal["multiple_choice", "true_false", "few_answers", "proof", "several_answers", "no_question"], ...
    ] = ("multiple_choice", "true_false", "few_answers", "proof", "several_answers", "no_question")
    """Formats to leave out; ``recipes.curate.formats`` says what counts as which."""


class DuplicatesConfig(Config):
    """Of problems that say the same one is kept; of a template with other numbers a few."""

    jaccard: float = Field(0.6, gt=0, le=1)
    """Near duplicates have word n-grams of this Jaccard similarity (found by MinHash, then computed), the same numbers
    and the same answer; texts with few numbers in common, and templates, one half as far from 1."""
    ngram: int = Field(3, ge=1)
    """Words per n-gram."""
    permutations: int = Field(128, ge=16)
    """Hash functions of MinHash."""
    quantile: float = Field(0.9999, gt=0.5, lt=1)
    """Whitened neighbours are candidates above this quantile of the cosines of random pairs."""
    neighbours: int = Field(10, ge=1)
    """Neighbours looked at per problem."""
    confirmed: float = Field(0.6, gt=0, le=1)
    """A candidate by its embedding is a duplicate only when it shares this part of n-grams, and its numbers."""
    template_cap: int | None = Field(4, ge=1)
    """Most problems of one template with other numbers; ``null``: no cap."""


class ContaminationConfig(Config):
    """Training problems that stand in an evaluation set are left out."""

    quantile: float = Field(0.9999, gt=0.5, lt=1)
    """Whitened neighbours are candidates above this quantile of the cosines of random pairs."""
    neighbours: int = Field(5, ge=1)
    """Evaluation problems looked at per training problem, by their vectors."""
    candidates: int = Field(5, ge=1)
    """Evaluation problems looked at per training problem, by the words that they share."""
    ngram: int = Field(3, ge=2)
    """Words per n-gram; numbers count as one word whatever they are."""
    mass: float = Field(3.0, gt=0)
    """Of less shared text only equality is evidence. The unit is a word that one of 10,000 problems has; one that a
    hundredth of them has is half of it."""
    overlap: float = Field(0.5, gt=0, lt=1)
    """A candidate is confirmed as re-worded when it is this sure, by its words, n-grams, numbers and vector."""
    drop: tuple[Literal["same", "contains", "reworded", "renumbered"], ...] = (
        "same",
        "contains",
        "reworded",
        "renumbered",
    )
    """What is left out; the others are shown only. ``renumbered`` leaves out the templates of an evaluation set, too,
    which MATH's training and test problems share."""
    contained: float = Field(0.8, gt=0.5, le=1)
    """A longer text contains a shorter one when it has this part of its n-grams and numbers."""


class GuessConfig(Config):
    """What can be guessed without reasoning is left out [2501.12599 §2.1]."""

    attempts: int = Field(8, ge=1)
    """Guesses per problem; dropped when one of them is right [2501.12599 §2.1]."""
    temperature: float = Field(1.0, gt=0)
    """Greedy guesses would all be the same one."""
    max_tokens: int = Field(24, ge=1)
    """Longest guess: the cap leaves no room for reasoning."""
    prompt: str = "{problem}\n\nGive the final answer at once, without any reasoning."
    """How a problem is put."""
    prefix: str = "The final answer is \\boxed{"
    """The beginning of the response, written for the model, so that it can but answer; empty: none. Where the verifier
    reads no box, nothing is written."""

    @model_validator(mode="after")
    def _has_the_problem(self) -> Self:
        if "{problem}" not in self.prompt:
            raise ValueError("prompt: {problem} does not stand in it")
        return self


class DifficultyConfig(Config):
    """How often the model is right: stored with each problem, and the trivial ones left out [2501.12599 §2.1]."""

    samples: int = Field(10, ge=1)
    """Responses per problem [2501.12599 §2.1]."""
    temperature: float = Field(1.0, gt=0)
    """The paper's "relatively high" temperature; its value is not given."""
    max_tokens: int = Field(1024, ge=1)
    """Longest response."""
    easiest: float = Field(1.0, gt=0, le=1)
    """Problems with at least this pass rate are trivial, and left out."""
    unsolved: Literal["keep", "drop"] = "keep"
    """What becomes of problems without a right response: too hard for now, or with a wrong reference."""
    system: str = ""
    """System message; empty: the template's own, if it has one."""
    prompt: str = "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{}."
    """How a problem is put."""

    @model_validator(mode="after")
    def _has_the_problem(self) -> Self:
        if "{problem}" not in self.prompt:
            raise ValueError("prompt: {problem} does not stand in it")
        return self


class CoverageConfig(Config):
    """Which problems are chosen when there are more than wanted."""

    size: int | None = Field(None, ge=1)
    """Problems to keep; ``null``: all, with their domain and cluster noted."""
    method: Literal["clusters", "farthest", "random"] = "clusters"
    """``clusters``: the same number from each cluster of the whitened space, as far as it goes. ``farthest``: always
    the problem that is farthest from those chosen. ``random``: for comparison."""
    clusters: int | None = Field(None, ge=1)
    """Clusters; ``null``: the square root of the number of problems."""
    levels: int = Field(4, ge=1)
    """Levels of difficulty that are filled alike, where difficulties are known; 1: difficulty does not matter."""


class WarmupSetConfig(Config):
    """Long-CoT demonstrations [2501.12599 §2.2] of ``--warmup``; the paper gives neither prompt nor size."""

    samples: int = Field(8, ge=1)
    """Responses per problem."""
    kept: int = Field(1, ge=1)
    """Right ones of each problem that are kept at most, those with the most behaviours first."""
    behaviours: int = Field(2, ge=0, le=4)
    """Of planning, evaluation, reflection and exploration, at least this many must show."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature."""
    max_tokens: int = Field(4096, ge=1)
    """Longest response; longer ones are cut and left out."""
    system: str = ""
    """System message; empty: the template's own, if it has one."""
    prompt: str = (
        "{problem}\n\nThink it through before you answer: make a plan first; check each intermediate result; when one "
        "looks wrong, say so, go back and mend it; try another way where there is one, and compare. Only then put the "
        "final answer within \\boxed{}."
    )
    """How a problem is put, so that the behaviours are called for; the set is written without it."""

    @model_validator(mode="after")
    def _has_the_problem(self) -> Self:
        if "{problem}" not in self.prompt:
            raise ValueError("prompt: {problem} does not stand in it")
        return self


class CurateConfig(Config):
    """From raw problems to a training set. A stage that is ``null`` is left out."""

    listed: ClassVar = "--dry-run"

    seed: int = Field(0, ge=0, lt=2**32)
    """Of sampled responses, random pairs and choices."""
    sources: tuple[SourceConfig, ...] = ()
    """What the command names, unless a file of keys does; of equal problems that of the first source is kept."""
    against: tuple[str, ...] = ()
    """Evaluation sets: benchmarks of ``k15 eval`` by name, ``all`` of them that have a file, or files."""
    read: ReadConfig = ReadConfig()
    formats: FormatsConfig | None = FormatsConfig()
    duplicates: DuplicatesConfig | None = DuplicatesConfig()
    contamination: ContaminationConfig | None = ContaminationConfig()
    guess: GuessConfig | None = GuessConfig()
    """Needs ``--model``; without one it is left out, and that is said."""
    difficulty: DifficultyConfig | None = DifficultyConfig()
    """Needs ``--model``; without one it is left out, and that is said."""
    coverage: CoverageConfig | None = CoverageConfig()
    warmup: WarmupSetConfig = WarmupSetConfig()
    """Of ``--warmup`` only."""
    encoder: EncoderConfig = EncoderConfig()
    whitening: WhiteningConfig = WhiteningConfig()
    engine: EngineConfig = EngineConfig()
    """Engines that serve ``--model``."""
    ray: RayConfig = RayConfig()
    """With ``ray.address`` model stages run on the cluster's engines and the others through Ray Data."""
    workers: int | None = Field(None, ge=1)
    """Processes of the stages without a model; ``null``: one per core."""
