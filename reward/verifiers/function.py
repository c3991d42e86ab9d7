"""A reward function of the user's own, called as TRL calls its reward functions."""

import json
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Literal, NoReturn

from pydantic import Field

from pretrain_core.cache import InputPath
from pretrain_core.chat import Message
from pretrain_core.errors import InputError
from reward.verifiers.sample import GraderFailed, Sample, ScaleSettings, graded
from reward.verifiers.verdict import Verdict

_CHILD = Path(__file__).parent / "judges" / "function.py"
_LAST_WORDS = 4


class FunctionSettings(ScaleSettings):
    """A Python file's function: `prompts`, `completions` (lists of messages each), `condition` and
    `reference` in, a list of numbers out; None for a reply that it cannot judge."""

    kind: Literal["function"] = "function"
    file: InputPath = Field(description="Python file; its folder can be imported from")
    name: str = Field("reward", description="of the function in it")
    seconds: float = Field(60.0, gt=0, description="for one call, with all replies of an iteration")
    start_seconds: float = Field(120.0, gt=0, description="for the file's imports")


class FunctionVerifier:
    """Calls the function in a process of its own, which is ended when it takes too long.

    Raises InputError for a file or function that cannot be loaded.
    """

    def __init__(self, settings: FunctionSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        if not settings.file.is_file():
            raise InputError(f"{settings.file}: no such file")
        try:
            self._start()
        except GraderFailed as error:
            raise InputError(str(error)) from error

    def verify(self, prompt: Sequence[Message], reply: str, reference: str | None) -> Verdict:
        """Judge one reply."""
        return self.grade([Sample(prompt, reply, reference=reference)])[0]

    def grade(self, samples: Sequence[Sample]) -> list[Verdict]:
        """Judge all replies in one call; raises GraderFailed."""
        return graded(self._call, samples, self.settings)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()

    def _call(self, samples: Sequence[Sample]) -> Sequence[object]:
        arguments = {
            "prompts": [[message.as_dict() for message in s.prompt] for s in samples],
            "completions": [[{"role": "assistant", "content": s.reply}] for s in samples],
            "condition": [s.condition for s in samples],
            "reference": [s.reference for s in samples],
        }
        with self._lock:
            if self._process is None:
                self._start()
            assert self._process is not None
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(json.dumps(arguments) + "\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                self._fail("ended between two calls")
            answer = self._answer(self.settings.seconds)
        scores: Sequence[object] = answer["scores"]
        return scores

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_CHILD), str(self.settings.file), self.settings.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._lines: Queue[str] = Queue()
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._readers = [
            _reading(self._process.stdout, self._lines.put, lambda: self._lines.put("")),
            _reading(self._process.stderr, self._heard, lambda: None),
        ]
        self._answer(self.settings.start_seconds)

    def _heard(self, line: str) -> None:
        # Traces underline what failed; that says nothing in one line.
        if line.strip(" ~^\n"):
            self._last_words.append(line.strip())

    def _answer(self, seconds: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=seconds)
        except Empty:
            self._fail(f"took longer than {seconds:g} s")
        if not line:
            self._readers[1].join(timeout=1)
            self._fail("ended: " + " ".join(self._last_words))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _fail(self, how: str) -> NoReturn:
        """Raises GraderFailed; the next call starts anew."""
        self._stop()
        raise GraderFailed(f"{self.settings.file}: {self.settings.name} {how}")

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for reader in self._readers:
                reader.join()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


def _reading(stream: Any, each: Any, at_end: Any) -> threading.Thread:
    """A thread that takes in all lines of a stream."""

    def read() -> None:
        for line in stream:
            each(line)
        at_end()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread
