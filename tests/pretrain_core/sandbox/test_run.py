"""Evil programs: each gets a verdict with a reason, in bounded time, and harms nothing."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pretrain_core.errors import InputError
from pretrain_core.sandbox import (
    Isolation,
    Limits,
    Outcome,
    SandboxUnavailable,
    bounded_map,
    isolation_of,
    run_sandboxed,
)
from pretrain_core.sandbox import run as run_module
from pretrain_core.sandbox.inside.launcher import FIRST_USER

SMALL = Limits(wall_seconds=10, cpu_seconds=10, memory_mib=256, processes=8, output_bytes=10_000)
SHORT = SMALL.model_copy(update={"wall_seconds": 0.3})
ROOT = os.geteuid() == 0


@pytest.fixture
def isolated() -> Isolation:
    """Skips, with the kernel's reason, where there are no namespaces to test."""
    found = isolation_of(SMALL)
    if not found.full:
        pytest.skip(f"not fully isolated here: {found.reason}")
    return found


MARK = f"OUTLIVES={os.getpid()}"


def marked() -> list[str]:
    """Processes of any user with the mark in their command line."""
    alive = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if MARK.encode() in (entry / "cmdline").read_bytes():
                    alive.append(entry.name)
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    return alive


@pytest.fixture(autouse=True)
def _nothing_survives() -> Iterator[None]:
    yield
    assert marked() == []


def test_a_harmless_program_reads_files_and_stdin() -> None:
    done = run_sandboxed(
        "import helper, sys\nprint(helper.double(int(input())), open('sub/x').read())\n"
        "print('ü', file=sys.stderr)",
        stdin="21\n",
        files={"helper.py": "def double(x): return 2 * x", "sub/x": b"data"},
        limits=SMALL,
    )
    assert (done.verdict, done.exit_code, done.ok) == ("ok", 0, True)
    assert (done.stdout, done.stderr, done.reason) == ("42 data\n", "ü\n", "")
    assert done.seconds > 0


def test_a_command_and_its_exit_status() -> None:
    done = run_sandboxed(["sh", "-c", "cat; echo oops >&2; exit 3"], stdin="hi", limits=SMALL)
    assert (done.verdict, done.exit_code, done.stdout) == ("failed", 3, "hi")
    assert done.reason == "exit status 3: oops"


@pytest.mark.parametrize(
    ("program", "verdict", "reason"),
    [
        ("while True: pass", "timeout", "longer than 0.3 s"),
        ("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass", "processes", "8 proc"),
        ("x = bytearray(10 * 2**30)", "memory", "256 MiB"),
        ("while True: print('x' * 1000)", "output", "10000 bytes"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "signal", "SIGTERM"),
        ("import ctypes; ctypes.string_at(0)", "signal", "SIGSEGV"),
        ("import nosuch", "failed", "ModuleNotFoundError"),
    ],
)
def test_evil_programs_get_their_verdict(program: str, verdict: str, reason: str) -> None:
    done = run_sandboxed(program, limits=SHORT if verdict in ("timeout", "processes") else SMALL)
    assert done.verdict == verdict, done
    assert reason in done.reason


def test_memory_is_counted_over_all_processes(isolated: Isolation) -> None:
    done = run_sandboxed(
        "import os, time\nfor _ in range(4):\n  if os.fork() == 0: break\n"
        "x = bytearray(100 * 2**20)\nx[::4096] = b'x' * len(x[::4096])\ntime.sleep(60)",
        limits=SMALL,
    )
    assert (done.verdict, done.exit_code) == ("memory", None)


def test_cpu_time_is_a_limit_of_its_own() -> None:
    limits = SMALL.model_copy(update={"cpu_seconds": 1, "wall_seconds": 60})
    done = run_sandboxed("while True: pass", limits=limits)
    assert (done.verdict, done.reason) == ("timeout", "used more than 1 s of CPU")


def test_long_output_is_cut_and_said_so() -> None:
    done = run_sandboxed("print('x' * 20_000)", limits=SMALL)
    assert (done.verdict, done.cut) == ("output", True)
    assert done.stdout == "x" * 10_000 + "\n… [cut after 10000 bytes]"


def test_nothing_outside_can_be_read_or_written(isolated: Isolation, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    project = Path(run_module.__file__)
    done = run_sandboxed(
        "import os, sys\n"
        "for path in sys.stdin.read().split():\n"
        "    for act in (os.stat, lambda p: open(p, 'r+')):\n"
        "        try: act(path); print('REACHED', path)\n"
        "        except OSError: pass\n"
        "for path in ('/evil', '/usr/evil', '/dev/evil', '/proc/sys/kernel/hostname'):\n"
        "    try: open(path, 'w'); print('WROTE', path)\n"
        "    except OSError: pass\n"
        "print(os.listdir('.'), os.getuid() != 0)",
        stdin=f"{secret} {project} {project.parents[2] / 'pyproject.toml'} /etc/passwd "
        f"{Path.home() / '.bashrc'} /root/.bashrc /var/log",
        limits=SMALL,
    )
    assert done.stdout == "['main.py'] True\n"
    assert secret.read_text() == "key"


def test_there_is_no_network(isolated: Isolation) -> None:
    done = run_sandboxed(
        "import socket\n"
        "print([name for _, name in socket.if_nameindex()])\n"
        "socket.create_connection(('127.0.0.1', 80), 1)",
        limits=SMALL,
    )
    assert done.stdout == "['lo']\n"
    assert "Network is unreachable" in done.reason


def test_no_variable_of_ours_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "not-for-you")
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    done = run_sandboxed(["sh", "-c", "env; cat /proc/1/environ"], limits=SMALL)
    assert "not-for-you" not in done.stdout + done.stderr
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert "TZ" in names
    assert not {"HF_HUB_OFFLINE", "WANDB_API_KEY", "PYTEST_CURRENT_TEST"} & names


def test_no_process_outlives_its_program() -> None:
    command = f"setsid sh -c 'while :; do sleep 9; done # {MARK}' & setsid sleep 60 & echo bye"
    done = run_sandboxed(["sh", "-c", command], limits=SMALL)
    assert (done.verdict, done.stdout) == ("ok", "bye\n")


@pytest.mark.parametrize("isolation", ["preferred", "off"])
def test_the_sandbox_ends_with_its_caller(isolation: str, tmp_path: Path) -> None:
    caller = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from pretrain_core.sandbox import Limits, run_sandboxed\n"
            f"run_sandboxed(['sh', '-c', 'while :; do sleep 9; done # ' + {MARK!r}],"
            f" limits=Limits(wall_seconds=60, isolation={isolation!r}))",
        ],
        # A killed caller cannot tidy up: what it leaves lies here.
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    # The caller's own command line bears the mark too; only a second process is the program.
    wait_until(lambda: len(set(marked()) - {str(caller.pid)}) > 0)
    caller.kill()
    caller.wait()
    wait_until(lambda: marked() == [])


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_other_processes_cannot_be_seen_or_killed(isolated: Isolation) -> None:
    done = run_sandboxed(
        "import os\nprint(sorted(int(p) for p in os.listdir('/proc') if p.isdigit()))\n"
        "for pid in (1, os.getppid(), -1):\n  try: os.kill(pid, 9)\n  except OSError: print('no')",
        limits=SMALL,
    )
    assert done.stdout == "[1, 2]\nno\nno\nno\n"


def test_no_namespace_in_the_namespace(isolated: Isolation) -> None:
    done = run_sandboxed(
        "import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))", limits=SMALL
    )
    assert done.stdout == "-1\n"


def test_files_have_a_total_limit(isolated: Isolation) -> None:
    limits = SMALL.model_copy(update={"file_bytes": 2**20})
    done = run_sandboxed(
        "for i in range(40): open(str(i), 'wb').write(bytes(2**16))", limits=limits
    )
    assert "No space left" in done.reason


def test_many_threads_run_sandboxes_at_once() -> None:
    gate = threading.Semaphore(3)

    def square(number: int) -> Outcome:
        assert gate.acquire(blocking=False), "more at a time than allowed"
        try:
            return run_sandboxed(f"print({number} ** 2)", limits=SMALL)
        finally:
            gate.release()

    done = bounded_map(square, range(6), workers=3)
    assert [outcome.stdout for outcome in done] == [f"{n**2}\n" for n in range(6)]


def test_the_first_error_of_many_is_raised() -> None:
    def fail(number: int) -> int:
        if number == 2:
            raise KeyError(number)
        return number

    with pytest.raises(KeyError):
        bounded_map(fail, range(5), workers=2)


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", ""])
def test_file_names_stay_inside(name: str) -> None:
    with pytest.raises(InputError, match="relative path"):
        run_sandboxed(["true"], files={name: ""}, limits=SMALL)


def test_a_missing_command_is_an_error_not_a_verdict() -> None:
    with pytest.raises(SandboxUnavailable, match="no-such-command"):
        run_sandboxed(["no-such-command"], limits=SMALL)


class TestWithoutNamespaces:
    """The fall-back: limits hold, and what is open is said."""

    OFF = SMALL.model_copy(update={"isolation": "off", "wall_seconds": 0.5})

    def shell(self, command: str) -> Outcome:
        return run_sandboxed(["sh", "-c", command], limits=self.OFF)

    def test_it_names_what_is_open(self) -> None:
        done = self.shell("pwd; ls -A; id -u")
        assert {"files", "network", "processes", "ipc", "disk"} <= set(done.isolation.missing)
        assert ("process_limit" in done.isolation.missing) != ROOT
        assert "switched off" in done.isolation.reason
        folder, *listed, user = done.stdout.split()
        assert listed == []
        assert not Path(folder).exists()
        assert (int(user) > FIRST_USER) == ROOT

    @pytest.mark.parametrize(
        ("command", "verdict"),
        [("while :; do :; done", "timeout"), ("yes", "output"), ("kill -9 $$", "signal")],
    )
    def test_limits_hold(self, command: str, verdict: str) -> None:
        assert self.shell(command).verdict == verdict

    @pytest.mark.skipif(not ROOT, reason="only root can give the bomb a user of its own")
    def test_a_fork_bomb_is_bounded_and_swept(self) -> None:
        done = self.shell("b() { b | b & }; b; sleep 9")
        assert done.verdict in ("timeout", "processes")

    @pytest.mark.skipif(not ROOT, reason="only root can give the program a user of its own")
    def test_a_shell_that_cannot_fork_hit_the_limit(self) -> None:
        done = self.shell("while :; do sleep 9 & done")
        assert (done.verdict, done.exit_code) == ("processes", 2)

    def test_no_process_outlives_its_program(self) -> None:
        done = self.shell(f"setsid sh -c 'while :; do sleep 9; done # {MARK}' & echo bye")
        assert (done.verdict, done.stdout) == ("ok", "bye\n")


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Isolation]]:
    """A kernel that allows no namespaces."""

    class Refused:
        def __init__(self, *_: object, **__: object) -> None:
            raise SandboxUnavailable("the sandbox cannot start: unshare: not permitted")

    run_module._kernel_isolation.cache_clear()
    monkeypatch.setattr(run_module, "Launch", Refused)
    yield lambda: isolation_of(SMALL)
    run_module._kernel_isolation.cache_clear()


def test_a_kernel_without_namespaces_is_said_once(
    refusing: Callable[[], Isolation], caplog: pytest.LogCaptureFixture
) -> None:
    assert "network" in refusing().missing
    assert refusing().reason.endswith("not permitted")
    assert len([r for r in caplog.records if "not fully isolated" in r.message]) == 1
    required = SMALL.model_copy(update={"isolation": "required"})
    with pytest.raises(SandboxUnavailable, match="isolation=preferred"):
        run_sandboxed("print(1)", limits=required)
