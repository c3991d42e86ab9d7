"""Ctrl-C, and the progress line."""

import io
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from pretrain_core.runs import Progress, Stopped, StopSignal

COMMAND = "cool-rlhf online resume runs/a --with a-long-tail " + "x" * 120


def test_the_first_signal_asks_the_second_interrupts(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopSignal(COMMAND) as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "once more" in capfd.readouterr().err


def test_the_resume_command_stands_on_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    stop = StopSignal(COMMAND)
    with stop, pytest.raises(Stopped) as caught:
        stop.announce()
    assert caught.value.code == 130
    assert f"  {COMMAND}\n" in capfd.readouterr().err


def test_a_stopped_process_exits_with_130() -> None:
    code = (
        "import os, signal\nfrom pretrain_core.runs import StopSignal\n"
        "with StopSignal(['a b', 'c']) as stop:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    if stop.requested: stop.announce()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert "'a b' c" in done.stderr


def test_outside_of_the_main_thread_nothing_is_installed() -> None:
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with StopSignal("x") as stop:
            stop.request()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_time_left_counts_only_this_process() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(10, "ppo", first=4, stream=stream, clock=clock)
    clock.now = 6.0
    progress.update(4, **{"objective/kl": 0.01234567, "engine": "vllm"})
    line = stream.getvalue()
    assert line.startswith("ppo 5/10")
    assert "0:06 spent, 0:30 left" in line
    assert line.rstrip().endswith("objective/kl 0.01235  engine vllm")


def test_the_time_left_is_never_more_than_the_work_may_take() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(1000, "pretrain", stream=stream, clock=clock, max_seconds=60, interval=0)
    for step, now in enumerate((10.0, 20.0)):
        clock.now = now
        progress.update(step)
    assert "0:20 spent, 0:40 left" in stream.getvalue()


def test_lines_are_rate_limited_but_first_and_last_are_shown() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(100, "ppo", stream=stream, clock=clock, interval=10)
    for step in range(60):
        clock.now += 1
        progress.update(step)
    progress.close()
    progress.close()
    shown = [int(number) for number in re.findall(r"ppo (\d+)/100", stream.getvalue())]
    assert shown == [1, 11, 21, 31, 41, 51, 60]


def test_a_terminal_line_is_rewritten() -> None:
    stream = Terminal()
    progress = Progress(2, "ppo", stream=stream)
    progress.update(0)
    progress.update(1)
    progress.close()
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().count("\r") == 2
