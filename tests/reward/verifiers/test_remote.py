"""A reward server over HTTP: batches, failures that pass, and answers that are refused."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pretrain_core.chat import Message
from pretrain_core.errors import InputError
from reward.verifiers import remote
from reward.verifiers.remote import RemoteSettings, RemoteVerifier
from reward.verifiers.sample import GraderFailed, Sample

SAMPLES = [
    Sample([Message(role="user", content="q")], "a" * n, "helpful", f"ref {n}") for n in range(5)
]
Answer = tuple[int, Any]


class Server(ThreadingHTTPServer):
    """Gives each reply a tenth of its length, or what `script` says first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[dict[str, Any], str | None]] = []
        self.script: list[Answer] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/get_reward"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((body, self.headers.get("Authorization")))
        replies = [q.removeprefix(p) for q, p in zip(body["query"], body["prompts"], strict=True)]
        answer: Answer = (200, {"rewards": [len(reply) / 10 for reply in replies]})
        if self.server.script:
            answer = self.server.script.pop(0)
        content = json.dumps(answer[1]).encode()
        self.send_response(answer[0])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        return None


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def make(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., RemoteVerifier]]:
    monkeypatch.setattr(remote, "_PAUSE_S", 0.01)
    made = []

    def build(**settings: Any) -> RemoteVerifier:
        made.append(RemoteVerifier(RemoteSettings(**{"url": server.url} | settings)))
        return made[-1]

    yield build
    for verifier in made:
        verifier.close()


def test_replies_go_in_batches_in_the_form_of_openrlhf(
    server: Server, make: Callable[..., RemoteVerifier]
) -> None:
    verdicts = make(batch=2, connections=1).grade(SAMPLES)
    assert [v.score for v in verdicts] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert [len(body["query"]) for body, _ in server.asked] == [2, 2, 1]
    first, token = server.asked[0]
    assert first["prompts"][1] == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert first["query"][1] == first["prompts"][1] + "a"
    assert first["labels"] == ["ref 0", "ref 1"]
    assert first["conditions"] == ["helpful", "helpful"]
    assert token is None


def test_a_failure_that_may_pass_is_tried_again(
    server: Server, make: Callable[..., RemoteVerifier]
) -> None:
    server.script = [(503, {}), (429, {})]
    assert make().grade(SAMPLES)[4].score == pytest.approx(0.4)
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((500, {}), "status 500, again and again for 0.2 s"),
        ((422, {"detail": "what?"}), r"422 .*what\?"),
        ((200, {"scores": []}), "no `rewards` in 200"),
        ((200, {"rewards": [1.0]}), "not 5 rewards"),
        ((200, {"rewards": ["good"] * 5}), "score of reply 0 is 'good', not in"),
    ],
)
def test_answers_that_are_none_stop_the_run_with_their_reason(
    server: Server, make: Callable[..., RemoteVerifier], answer: Answer, message: str
) -> None:
    server.script = [answer] * 100
    with pytest.raises(GraderFailed, match=message):
        make(seconds=0.2 if answer[0] == 500 else 60).grade(SAMPLES)


def test_a_server_that_is_not_there_is_waited_for_until_the_deadline(
    server: Server, make: Callable[..., RemoteVerifier]
) -> None:
    gone = make(url="http://127.0.0.1:9/get_reward", seconds=0.2, on_failure="unjudged")
    verdicts = gone.grade(SAMPLES)
    assert not any(v.judged for v in verdicts)
    assert "ConnectError" in verdicts[0].reason


def test_the_token_comes_from_the_environment_alone(
    server: Server, make: Callable[..., RemoteVerifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="token in MY_TOKEN"):
        make(token_env="MY_TOKEN")
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    make(token_env="MY_TOKEN").grade(SAMPLES[:1])
    assert server.asked[0][1] == "Bearer s3cret"
