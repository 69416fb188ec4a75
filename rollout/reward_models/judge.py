"""A chain-of-thought judge at work: a causal LM that reasons about a response and ends in a verdict [2501.12599 A.8].

Its engines are never idle while there is a response to judge: all verdicts go through one stream that stays open, from
the moment a response is handed in, and none waits for others of its group or batch.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from typing import TYPE_CHECKING, Any

from rewards.models.template import shown
from rewards.models.verdict import Verdict, read_verdict
from rewards.models.votes import voted
from rollout.config import EngineConfig
from rollout.engine import AllEnginesDead, Request, Sampling
from rollout.grading import Answered
from rollout.models.prompts import PromptError, Transcript
from rollout.pool.board import Completion
from rollout.pool.open_stream import OpenStream
from rollout.pool.pool import Pool
from rollout.reward_models.card import Card
from rollout.reward_models.config import RewardModelConfig
from rollout.reward_models.judge_prompts import JudgePrompts
from rollout.reward_models.opinion import NO_ANSWER, Opinion
from rollout.seeds import seed_of
from rollout.types import Prompt, StopReason
from rollout.user_code import named

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COUNTED = ("asked", "verdicts", "asked_again", "unread", "no_answer", "timed_out", "unaskable", "lost")
"""Names of what is counted: responses handed in, verdicts read, verdicts that had to be asked for once more, those that
could not be read then either; responses that are wrong without being asked of; verdicts that took too long; responses
without an opinion since they cannot be put to the judge, and since its engines failed."""


@dataclass(frozen=True)
class JudgeFiles:
    """A judge as its files have it."""

    path: str
    """Hugging Face directory or hub name."""
    card: Card
    tokenizer: PreTrainedTokenizerBase
    end: tuple[int, ...]
    """Tokens that end its text."""
    context: int | None
    """Most positions that it takes; ``None``: it names no limit."""
    vocabulary: int
    """Rows of its embedding."""

    @classmethod
    def read(cls, path: str, card: Card) -> JudgeFiles:
        """Read all but the weights. Raises ``ModelPathError``, and ``PromptError`` when it could never end its text."""
        from transformers import AutoConfig, AutoTokenizer

        from rollout.models.endings import end_tokens
        from rollout.models.pretrained import context_of, embedded, loading

        with loading(path):
            tokenizer = AutoTokenizer.from_pretrained(path)
            config: Any = AutoConfig.from_pretrained(path)
        vocabulary = embedded(config, tokenizer)
        end = end_tokens(tokenizer, path, vocabulary)
        return cls(path, card, tokenizer, end, context_of(config), vocabulary)

    def engine(self, config: RewardModelConfig, like: EngineConfig) -> EngineConfig:
        """Return the settings of its engines: its own, or one engine like the policy's with room for its longest text.

        The context is never longer than the model's.
        """
        room = config.engine.max_model_len if config.engine else self.card.max_tokens + config.max_tokens
        own = config.engine or like.model_copy(update={"count": 1})
        alone = {"most": None, "in_flight": "abort", "weight_transfer": "auto"}  # nobody sends it weights
        return own.model_copy(update={**alone, "max_model_len": min(room, self.context or room)})

    def prompts(self, config: RewardModelConfig, engine: EngineConfig) -> JudgePrompts:
        """Return what renders its prompts, checked. Raises ``PromptError`` or ``MisfitError`` for a judge that cannot
        be used.

        A prompt leaves half of ``max_tokens`` of the context, at least.
        """
        longest = min(self.card.max_tokens, engine.max_model_len - -(-config.max_tokens // 2))
        if longest < 1:
            raise PromptError(
                f"{self.path}: a context of {engine.max_model_len} tokens leaves a judge no room for a response beside "
                f"max_tokens ({config.max_tokens}): lower that, or raise max_model_len of its engine"
            )
        prompts = JudgePrompts(self.tokenizer, self.card, longest, self.vocabulary)
        prompts.check()
        return prompts


@dataclass(frozen=True)
class _Sample:
    """One of the verdicts on a response."""

    verdict: Verdict
    text: str
    tokens: int


def _heard(ended: asyncio.Future[Completion]) -> None:
    """Take note of how a verdict ended: who waited may have been cancelled, and asyncio prints what nobody hears."""
    if not ended.cancelled():
        ended.exception()


class JudgeModel:
    """A ``RewardModel`` on a pool of its own, whose engines are up. It closes the pool, and then calls ``closed``.

    The seeds of a verdict follow from the configuration's and from the prompt alone, so the same response gets the same
    verdicts wherever it is judged, as far as engines repeat themselves.
    """

    def __init__(
        self, pool: Pool, files: JudgeFiles, config: RewardModelConfig, closed: Callable[[], None] = lambda: None
    ) -> None:
        """Raises ``PromptError`` for a judge that cannot be used, and what keeps the stream from being opened."""
        self.config = config
        self._prompts = files.prompts(config, pool.config)
        self._path = files.path
        self._sees = files.card.sees
        self._transcript = Transcript(files.tokenizer, files.end, files.card.system, files.card.arguments)
        self._sampling = Sampling(temperature=config.temperature, stop_token_ids=files.end)
        self._context = pool.config.max_model_len
        self._pool = pool
        self._closed = closed
        self._counts: Counter[str] = Counter()
        self._keys = count()
        self._words = ThreadPoolExecutor(1, thread_name_prefix="judge")
        """Where the tokenizer works: it is used from one thread only, and not from that of the event loop."""
        self._stream = OpenStream(pool)

    async def judge(self, answers: Sequence[Answered]) -> Sequence[Opinion]:
        """See ``RewardModel``. A response that is judged, and nothing else, gets its opinion.

        Raises ``AllEnginesDead`` when no engine could be kept alive.
        """
        return await asyncio.gather(*(self._opinion(answer) for answer in answers))

    async def _opinion(self, answer: Answered) -> Opinion:
        self._counts["asked"] += 1
        try:
            return await self._judged(answer)
        except PromptError as error:
            self._counts["unaskable"] += 1
            return Opinion.none(f"cannot be put to the judge: {error}")
        except AllEnginesDead as dead:
            raise AllEnginesDead(f"the judge {self._path}: {dead}") from dead
        except Exception as error:  # noqa: BLE001  the named boundary to the judge: counted, and no opinion
            self._counts["lost"] += 1
            return Opinion.none(named(error))

    async def _judged(self, answer: Answered) -> Opinion:
        problem = answer.problem
        if self._sees == "answer" and not shown(answer.text, "answer"):  # wrong, as to a head and to any rule
            self._counts["no_answer"] += 1
            return Opinion(0.0, NO_ANSWER)
        prompt: Prompt = await self._apart(self._prompts.prompt, problem.prompt, problem.answer, answer.text)
        samples = await asyncio.gather(*(self._sample(prompt, index) for index in range(self.config.samples)))
        verdicts = [sample.verdict.right for sample in samples]
        read = sum(right is not None for right in verdicts)
        right = voted(verdicts, self.config.vote)
        last = samples[-1]
        parts = {"read": float(read), "tokens": float(sum(sample.tokens for sample in samples))}
        if right is not None:
            return Opinion(right, "", parts, last.text)
        reason = f"its {read} verdicts are a tie" if read else f"no verdict could be read: {last.verdict.reason}"
        return Opinion.none(reason, last.text, **parts)

    async def _sample(self, prompt: Prompt, index: int) -> _Sample:
        """Return one verdict; where it cannot be read it is asked for once more, unless that would be the same text.

        One that takes too long says nothing, and is not asked for again.
        """
        name = blake2b(prompt.token_ids.tobytes(), digest_size=16).hexdigest()
        drawn = 0
        for attempt in range(1 if self.config.temperature == 0 else 2):
            self._counts["asked_again"] += attempt
            try:
                completion = await self._drawn(prompt, seed_of(self.config.seed, name, index, attempt))
            except TimeoutError:
                self._counts["timed_out"] += 1
                return _Sample(Verdict(None, f"it did not end within {self.config.timeout_s:g} s"), "", drawn)
            drawn += len(completion.token_ids)
            verdict, text = await self._apart(self._read, prompt, completion)
            if verdict.right is not None:
                self._counts["verdicts"] += 1
                return _Sample(verdict, text, drawn)
        self._counts["unread"] += 1
        return _Sample(verdict, text, drawn)

    async def _drawn(self, prompt: Prompt, seed: int) -> Completion:
        """Return a judge's text. Raises ``TimeoutError`` for one that takes longer than ``timeout_s``.

        The time runs from its first tokens: waiting behind others is no fault of its own, and an engine that draws
        nothing is the pool's to replace.
        """
        most = min(self.config.max_tokens, self._context - len(prompt))
        return await self._ended(Request(self._key(), prompt, most, self._sampling, seed))

    def _key(self) -> str:
        return f"verdict {next(self._keys)}"

    async def _ended(self, request: Request) -> Completion:
        asked = self._stream.ask(request)
        try:
            begun, ended = asyncio.wrap_future(asked.begun), asyncio.wrap_future(asked.ended)
            ended.add_done_callback(_heard)
            await asyncio.wait((begun, ended), return_when=asyncio.FIRST_COMPLETED)
            return await asyncio.wait_for(ended, self.config.timeout_s)
        finally:
            self._stream.drop([request.key])

    def _read(self, prompt: Prompt, completion: Completion) -> tuple[Verdict, str]:
        """Return what a judge's tokens say, and their text. What has not ended says nothing, however it looks."""
        text = self._transcript.graded(prompt.token_ids, completion.token_ids)
        if completion.error:
            return Verdict(None, completion.error), text
        if completion.stop is not StopReason.EOS:
            return Verdict(None, f"its text did not end within {len(completion.token_ids)} tokens"), text
        return read_verdict(text), text

    async def _apart(self, work: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._words, work, *arguments)

    def counts(self) -> dict[str, float]:
        """Return ``COUNTED``, the ``tokens`` that the judge drew, and its seconds at work (``busy_s``)."""
        counted = {name: float(self._counts[name]) for name in COUNTED}
        return {**counted, "tokens": float(self._stream.tokens), "busy_s": self._stream.busy_s}

    def close(self) -> None:
        """Stop judging, and the engines. Idempotent."""
        self._stream.close()
        self._words.shutdown(wait=False, cancel_futures=True)
        self._pool.close()
        closed, self._closed = self._closed, lambda: None
        closed()
