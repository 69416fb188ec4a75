"""Responses from an OpenAI-compatible server: ``http://host:port/v1``.

The server applies its own chat template. Requests are retried with growing pauses when it is down, busy or limits the
rate; when one has failed too often the evaluation stops, with everything that has come on record.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from evals.evaluate import Ask, Done, ResponderError, Response
from rollout.engine import Sampling
from rollout.types import Problem, StopReason

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses for which another try may succeed."""
LONGEST_PAUSE_S = 60.0


class EndpointError(ResponderError):
    """The server cannot be used; one line: which, what it said, what to do."""


@dataclass(frozen=True)
class Retry:
    """How often a request is retried, and how long it may take."""

    attempts: int = 8
    """Tries of one request."""
    pause_s: float = 1.0
    """Pause before the second try; doubles with each, up to a minute. The server's ``Retry-After`` may lengthen it."""
    timeout_s: float = 1800.0
    """Limit for one response; generous, because long reasoning takes long."""

    def pause(self, attempt: int, asked: str | None) -> float:
        """Return the seconds to wait after try ``attempt``, counted from 1."""
        own = self.pause_s * 2 ** (attempt - 1)
        wanted = float(asked) if asked and asked.replace(".", "", 1).isdigit() else 0.0
        return min(max(own, wanted), LONGEST_PAUSE_S)


@dataclass(frozen=True)
class Server:
    """An endpoint and the model that it serves."""

    url: str
    """Ends in ``/v1``."""
    model: str
    context: int | None
    """Longest prompt and response together, if the server says so (vLLM does)."""


def headers() -> dict[str, str]:
    """Return the authorization header from ``$OPENAI_API_KEY``, if set; never stored or shown."""
    key = os.environ.get("OPENAI_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def find_server(url: str, model: str | None = None, retry: Retry | None = None) -> Server:
    """Ask the server for its models and return one; ``model`` chooses where it serves several.

    Raises ``EndpointError`` when it cannot be reached, or the model is none of its.
    """
    return asyncio.run(_find_server(url.rstrip("/"), model, retry or Retry(attempts=4, timeout_s=30.0)))


async def _find_server(url: str, model: str | None, retry: Retry) -> Server:
    async with httpx.AsyncClient(headers=headers(), timeout=retry.timeout_s) as client:
        data = await _call(client, "GET", f"{url}/models", None, retry)
    served = [item for item in data.get("data", []) if isinstance(item, dict) and isinstance(item.get("id"), str)]
    names = [item["id"] for item in served]
    if model is None and len(names) == 1:
        model = names[0]
    if model is None:
        raise EndpointError(f"{url} serves {', '.join(names) or 'no model'}; name one with --served-model")
    if names and model not in names:
        raise EndpointError(f"{url} does not serve '{model}'; it serves: {', '.join(names[:10])}")
    context = next((item.get("max_model_len") for item in served if item["id"] == model), None)
    return Server(url, model, context if isinstance(context, int) else None)


@dataclass(frozen=True)
class EndpointResponder:
    """Asks a server, several requests at a time."""

    server: Server
    messages: Callable[[Problem], Sequence[Mapping[str, str]]]
    sampling: Sampling
    max_tokens: int
    concurrency: int = 32
    """Requests in flight."""
    retry: Retry = Retry()
    template: Mapping[str, bool] = field(default_factory=dict)
    """Arguments of the server's chat template, e.g. ``enable_thinking``."""

    def respond(self, asks: Sequence[Ask], done: Done) -> None:
        """See ``Responder``. Raises ``EndpointError``."""
        if asks:
            asyncio.run(self._all(asks, done))

    async def _all(self, asks: Sequence[Ask], done: Done) -> None:
        waiting = iter(asks)
        limits = httpx.Limits(max_connections=self.concurrency)
        async with httpx.AsyncClient(headers=headers(), timeout=self.retry.timeout_s, limits=limits) as client:

            async def work() -> None:
                for ask in waiting:  # shared: each worker takes the next
                    done(ask, await self._one(client, ask))

            workers = [asyncio.create_task(work()) for _ in range(min(self.concurrency, len(asks)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _one(self, client: httpx.AsyncClient, ask: Ask) -> Response:
        body: dict[str, Any] = {
            "model": self.server.model,
            "messages": [dict(message) for message in self.messages(ask.problem)],
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "max_tokens": self.max_tokens,
            "seed": ask.seed % 2**31,
        }
        if self.template:
            body["chat_template_kwargs"] = dict(self.template)
        data = await _call(client, "POST", f"{self.server.url}/chat/completions", body, self.retry)
        return _read(data, self.server.url)


def _read(data: Mapping[str, Any], url: str) -> Response:
    """Return a chat completion as a ``Response``; reasoning that the server split off is put back in front, in its
    tags.
    """
    try:
        choice = data["choices"][0]
        message = choice["message"]
        text, reasoning = message.get("content") or "", message.get("reasoning_content") or message.get("reasoning")
        finish = choice.get("finish_reason")
        tokens = (data.get("usage") or {}).get("completion_tokens")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise EndpointError(f"{url}: the answer is no chat completion ({type(error).__name__}: {error})") from error
    if reasoning:
        # Cut off inside of the reasoning, the tag stays open, as it would in the text itself.
        closed = finish != "length" or bool(text)
        text = f"<think>{reasoning}{'</think>' if closed else ''}{text}"
    stop = {"stop": StopReason.EOS, "length": StopReason.LENGTH}.get(str(finish), StopReason.ABORTED)
    why = f"finish_reason {finish!r}" if stop is StopReason.ABORTED else ""
    return Response(str(text), stop, tokens if isinstance(tokens, int) else None, (), why)


async def _call(
    client: httpx.AsyncClient, method: str, url: str, body: Mapping[str, Any] | None, retry: Retry
) -> dict[str, Any]:
    """Send a request, with as many tries as ``retry`` allows, and return the JSON object of the answer."""
    problem = ""
    for attempt in range(1, retry.attempts + 1):
        asked = None
        try:
            answer = await client.request(method, url, json=body)
            if answer.is_success:
                return _object(answer, url)
            problem = f"status {answer.status_code}: {_said(answer)}"
            if answer.status_code not in RETRIED:
                raise EndpointError(f"{url} refuses the request: {problem}{_advice(answer.status_code)}")
            asked = answer.headers.get("Retry-After")
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise EndpointError(f"{url} is no usable address: {error}") from error
        except httpx.HTTPError as error:
            problem = f"{type(error).__name__}: {error}".rstrip(": ")
        if attempt < retry.attempts:
            await asyncio.sleep(retry.pause(attempt, asked))
    raise EndpointError(
        f"{url}: gave up after {retry.attempts} tries; last: {problem}. Answers so far are kept; start the server "
        "(or wait, if it limits the rate), then the same command goes on"
    )


def _object(answer: httpx.Response, url: str) -> dict[str, Any]:
    try:
        data = answer.json()
    except ValueError as error:
        raise EndpointError(f"{url}: the answer is not JSON; does the address end in /v1?") from error
    if not isinstance(data, dict):
        raise EndpointError(f"{url}: the answer is no JSON object; does the address end in /v1?")
    return data


def _said(answer: httpx.Response) -> str:
    """Return the server's message on one line."""
    try:
        data = answer.json()
        inner = data.get("error", data) if isinstance(data, dict) else data
        text = str(inner.get("message", inner)) if isinstance(inner, dict) else str(inner)
    except ValueError:
        text = answer.text
    return " ".join(text.split())[:300] or "nothing"


def _advice(status: int) -> str:
    if status in (401, 403):
        return "; set OPENAI_API_KEY"
    if status == 404:
        return "; the address has to end in /v1"
    return "; if the context is too short, lower --max-tokens" if status == 400 else ""
