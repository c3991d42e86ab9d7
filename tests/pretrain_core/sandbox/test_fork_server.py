import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pretrain_core.sandbox import (
    ForkServer,
    ForkServerPool,
    Limits,
    SandboxUnavailable,
    bounded_map,
)

LIMITS = Limits(memory_mib=256, processes=16)
HANDLER = """
import os, time
seen = []
def handle(argument):
    if argument == "print": print("noise"); os.write(1, b"noise")
    if argument == "sleep": time.sleep(60)
    if argument == "exit": os._exit(0)
    if argument == "raise": raise ValueError("bad argument")
    if argument == "memory": return len(bytearray(10 * 2**30))
    if argument == "kill": os.kill(os.getppid(), 9); time.sleep(60)
    seen.append(argument)
    return [argument, len(seen), os.getpid()]
"""


@pytest.fixture(scope="module")
def handler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("handler") / "handler.py"
    path.write_text(HANDLER)
    return path


@pytest.fixture(scope="module")
def server(handler: Path) -> Iterator[ForkServer]:
    server = ForkServer(handler, LIMITS)
    yield server
    server.close()


def test_each_call_has_a_fork_of_its_own(server: ForkServer) -> None:
    first, second = server.call("a", 10), server.call("print", 10)
    # What one call leaves in memory, the next does not see.
    assert (first.value[:2], second.value[:2]) == (["a", 1], ["print", 1])
    assert first.value[2] != second.value[2]


@pytest.mark.parametrize(
    ("argument", "problem", "reason"),
    [
        ("sleep", "timeout", "longer than 0.2 s"),
        ("exit", "failed", "without an answer"),
        ("raise", "failed", "ValueError: bad argument"),
        ("memory", "memory", "MemoryError"),
        ("kill", "failed", "broke the server"),
    ],
)
def test_a_bad_call_hurts_no_other(
    server: ForkServer, argument: str, problem: str, reason: str
) -> None:
    answer = server.call(argument, 0.2 if argument == "sleep" else 10)
    assert (answer.problem, answer.value) == (problem, None)
    assert reason in answer.reason
    assert server.call("next", 10).value[0] == "next"


def test_a_pool_answers_every_caller(handler: Path) -> None:
    pool = ForkServerPool(handler, 2, LIMITS)
    try:
        answers = bounded_map(lambda n: pool.call(n, 10), range(20), workers=5)
    finally:
        pool.close()
    assert [answer.value[0] for answer in answers] == list(range(20))


def test_a_large_argument_arrives_whole(server: ForkServer) -> None:
    text = "ü" * 2**20
    assert server.call(text, 10).value[0] == text


def test_a_handler_that_does_not_import_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import nosuchlibrary\n")
    server = ForkServer(path, LIMITS)
    with pytest.raises(SandboxUnavailable, match=r"broken\.py.*nosuchlibrary"):
        server.call(1, 1)
    server.close()


def test_a_closed_server_leaves_no_process(handler: Path) -> None:
    server = ForkServer(handler, LIMITS)
    assert server.call("a", 10).value[0] == "a"
    launch = server._launch
    assert launch is not None
    server.close()
    with pytest.raises(ProcessLookupError):
        os.kill(launch.process.pid, 0)
