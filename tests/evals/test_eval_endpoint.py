"""Evaluation of an OpenAI-compatible server: a real HTTP server in the test, well behaved or not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from eval_kit import problem

from evals.endpoint import EndpointError, EndpointResponder, Retry, find_server
from evals.evaluate import asks_of, evaluate
from evals.journal import opened
from recipes.commands.cli import main
from rewards.score import Score
from rollout.engine import Sampling
from rollout.grading import Grading
from rollout.types import StopReason

PROBLEMS = [problem(i, answer=str(i)) for i in range(6)]
FAST = Retry(attempts=3, pause_s=0.01, timeout_s=10.0)


class FakeServer:
    """Speaks the protocol; ``answer`` decides what comes back for each chat request."""

    def __init__(self, answer: Callable[[dict[str, Any], int], tuple[int, Any]]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.models: list[dict[str, Any]] = [{"id": "tiny", "max_model_len": 4096}]
        self.most = self.now = 0
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def _send(self, status: int, data: Any, headers: dict[str, str] | None = None) -> None:
                body = data if isinstance(data, bytes) else json.dumps(data).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self._send(200, {"data": outer.models})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append(body)
                    outer.keys.append(self.headers.get("Authorization"))
                    outer.now += 1
                    outer.most = max(outer.most, outer.now)
                    number = len(outer.requests)
                status, data = answer(body, number)
                with lock:
                    outer.now -= 1
                self._send(status, data, {"Retry-After": "0"} if status == 429 else None)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def chat(content: str | None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"completion_tokens": 3}}


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeServer]]:
    servers: list[FakeServer] = []

    def start(answer: Callable[[dict[str, Any], int], tuple[int, Any]]) -> FakeServer:
        servers.append(FakeServer(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def responder(server: FakeServer, **changes: Any) -> EndpointResponder:
    def messages(item: Any) -> list[dict[str, str]]:
        return [{"role": "user", "content": item.id}]

    found = find_server(server.url, retry=FAST)
    given = {"sampling": Sampling(temperature=0.5, top_p=0.9), "max_tokens": 99, "concurrency": 2, "retry": FAST}
    return EndpointResponder(found, messages, **{**given, **changes})


def verify(item: Any, text: str) -> Score:
    return Score.right(text) if text.endswith(item.answer) else Score.wrong("differs", text)


def test_what_is_asked_and_what_comes_back(serve: Callable[..., FakeServer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server = serve(lambda body, _: (200, chat(body["messages"][0]["content"])))
    answers = evaluate(responder(server), asks_of(PROBLEMS, 2, 0), Grading.by(verify))
    assert all(answer.score.correct for answer in answers)
    assert {answer.response.tokens for answer in answers} == {3}
    body = server.requests[0]
    assert (body["model"], body["temperature"], body["top_p"], body["max_tokens"]) == ("tiny", 0.5, 0.9, 99)
    assert len({request["seed"] for request in server.requests}) == 12
    assert set(server.keys) == {"Bearer secret"}
    assert server.most <= 2


def test_finish_reasons_and_split_off_reasoning(serve: Callable[..., FakeServer]) -> None:
    replies = {
        "p0": chat("a", "length"),
        "p1": chat("1", reasoning_content="hm"),
        "p2": chat(None, "length", reasoning_content="hm"),
        "p3": chat("", "content_filter"),
        "p4": chat("<script>4"),
        "p5": chat("5", reasoning="hm"),
    }
    server = serve(lambda body, _: (200, replies[body["messages"][0]["content"]]))
    found = [answer.response for answer in evaluate(responder(server), asks_of(PROBLEMS, 1, 0), Grading.by(verify))]
    assert [one.stop for one in found[:4]] == [StopReason.LENGTH, StopReason.EOS, StopReason.LENGTH, StopReason.ABORTED]
    assert [one.text for one in found[:4]] == ["a", "<think>hm</think>1", "<think>hm", ""]
    assert [one.text for one in found[4:]] == ["<script>4", "<think>hm</think>5"]
    assert found[3].error == "finish_reason 'content_filter'"


def test_busy_servers_are_asked_again(serve: Callable[..., FakeServer]) -> None:
    failed: set[str] = set()

    def answer(body: dict[str, Any], number: int) -> tuple[int, Any]:
        name = body["messages"][0]["content"]
        if name not in failed:
            failed.add(name)
            return (429, {"error": {"message": "slow down"}}) if number % 2 else (503, b"<html>")
        return 200, chat(name)

    server = serve(answer)
    assert all(a.score.correct for a in evaluate(responder(server), asks_of(PROBLEMS, 1, 0), Grading.by(verify)))
    assert len(server.requests) == 12


def test_a_server_that_dies_stops_the_evaluation_and_nothing_is_lost(
    serve: Callable[..., FakeServer], tmp_path: Path
) -> None:
    server = serve(lambda body, number: (200, chat(body["messages"][0]["content"])) if number <= 3 else (500, {}))
    asks = asks_of(PROBLEMS, 1, 0)
    with (
        opened(tmp_path, {}) as journal,
        pytest.raises(EndpointError, match="gave up after 3 tries; last: status 500"),
    ):
        evaluate(responder(server, concurrency=1), asks, Grading.by(verify), journal)
    again = serve(lambda body, _: (200, chat(body["messages"][0]["content"])))
    with opened(tmp_path, {}) as journal:
        assert len(evaluate(responder(again), asks, Grading.by(verify), journal)) == 6
    assert len(again.requests) == 3


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (
            (400, {"error": {"message": "context\nexceeded"}}),
            "context exceeded; if the context is too short",
        ),
        ((401, {}), "set OPENAI_API_KEY"),
        ((404, {}), "has to end in /v1"),
        ((200, b"<html>"), "not JSON"),
        ((200, {"choices": []}), "no chat completion"),
        ((200, [1]), "no JSON object"),
    ],
)
def test_what_cannot_pass_is_not_tried_again(serve: Callable[..., FakeServer], reply: Any, words: str) -> None:
    server = serve(lambda *_: reply)
    with pytest.raises(EndpointError, match=words):
        responder(server, concurrency=1).respond(asks_of(PROBLEMS, 1, 0), lambda *_: None)
    assert len(server.requests) == 1


def test_which_model(serve: Callable[..., FakeServer]) -> None:
    server = serve(lambda *_: (200, chat("")))
    assert find_server(server.url + "/").context == 4096
    with pytest.raises(EndpointError, match="does not serve 'big'; it serves: tiny"):
        find_server(server.url, "big")
    server.models.append({"id": "other"})
    with pytest.raises(EndpointError, match="serves tiny, other; name one with --served-model"):
        find_server(server.url)
    assert find_server(server.url, "other").context is None


def test_the_command_against_a_server(
    serve: Callable[..., FakeServer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(lambda body, _: (200, chat("The answer is \\boxed{4}.")))
    rows = [{"id": f"q{i}", "problem": f"{i} + 2?", "answer": str(i + 2), "level": 1} for i in range(4)]
    (tmp_path / "math500.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["eval", "math500", "--model", server.url, "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([*command, "--n", "2", "--thinking", "off"]) == 0
    shown = capsys.readouterr().out
    assert "25.0 %" in shown
    assert "0 + 2?" in shown
    data = json.loads((tmp_path / "out" / "results.json").read_text())["benchmarks"][0]
    assert [p["verdicts"] for p in data["problems"]] == [["wrong"] * 2] * 2 + [["correct"] * 2] + [["wrong"] * 2]
    assert server.requests[0]["chat_template_kwargs"] == {"enable_thinking": False}
    assert server.requests[0]["max_tokens"] < 4096
    asked = len(server.requests)
    assert main([*command, "--n", "2", "--thinking", "off"]) == 0
    assert len(server.requests) == asked == 8
    assert main([*command, "--temperature", "1"]) == 1
    assert "choose another --out" in capsys.readouterr().err


def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match=r"gave up after 2 tries; last: ConnectError"):
        find_server("http://127.0.0.1:9/v1", retry=Retry(attempts=2, pause_s=0.01))


def test_pauses_grow_and_obey_the_server() -> None:
    retry = Retry(pause_s=1.0)
    assert [retry.pause(i, None) for i in (1, 2, 3, 9)] == [1.0, 2.0, 4.0, 60.0]
    assert retry.pause(1, "7") == 7.0
    assert retry.pause(1, "Wed, 21 Oct") == 1.0
