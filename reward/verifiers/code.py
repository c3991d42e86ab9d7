"""Does the reply's Python program pass its tests? Everything runs in the sandbox."""

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pretrain_core.chat import Message
from pretrain_core.sandbox import Limits, Outcome, run_sandboxed
from pretrain_core.settings import Settings
from reward.verifiers.fences import last_fence
from reward.verifiers.verdict import Verdict, unjudged, wrong

_HARNESS = Path(__file__).parent / "judges" / "assertions.py"
_START_SECONDS = 2.0


class CodeSettings(Settings):
    """The last fenced Python block of the reply, run against the tests in the reference."""

    kind: Literal["code"] = "code"
    scoring: Literal["share", "all"] = Field(
        "share", description="share of the tests passed, or all or nothing"
    )
    seconds: float = Field(2.0, gt=0, le=60, description="of one test")
    packages: bool = Field(
        False,
        description="give programs our installed packages, not only Python's standard library",
    )
    limits: Limits = Field(
        Limits(memory_mib=256), description="of one program; its wall time comes from `seconds`"
    )


class _Case(BaseModel):
    """One test of a whole program: what it reads, what it must print."""

    model_config = ConfigDict(extra="forbid")

    stdin: str = ""
    stdout: str


_CASES = TypeAdapter(list[_Case])


@dataclass(frozen=True)
class _Assertions:
    """Python tests: the statements before and between them, and one source per test."""

    setup: str
    tests: list[str]


class CodeVerifier:
    """Two kinds of reference: JSON `[{"stdin", "stdout"}, …]`, or Python with `assert` lines."""

    def __init__(self, settings: CodeSettings) -> None:
        self.settings = settings

    def verify(self, prompt: Sequence[Message], reply: str, reference: str | None) -> Verdict:
        """Score by the tests passed; unjudged without usable tests."""
        if reference is None or not reference.strip():
            return unjudged("no tests to run")
        try:
            tests = _read_tests(reference)
        except ValueError as error:
            return unjudged(f"the reference holds no tests: {error}")
        program = last_fence(reply, "python", "py", "python3")
        if program is None:
            return wrong("no fenced Python program in the reply")
        if isinstance(tests, _Assertions):
            problems = self._run_assertions(program, tests)
        else:
            problems = [self._run_case(program, case) for case in tests]
        return self._verdict(problems)

    def close(self) -> None:
        """Nothing to end."""

    def _verdict(self, problems: list[str]) -> Verdict:
        failed = [problem for problem in problems if problem]
        passed = len(problems) - len(failed)
        score = passed / len(problems)
        if self.settings.scoring == "all":
            score = float(not failed)
        first = f"; first failure: {failed[0][:200]}" if failed else ""
        return Verdict(score, not failed, f"{passed} of {len(problems)} tests passed{first}")

    def _run_case(self, program: str, case: _Case) -> str:
        outcome = self._run(program, case.stdin, self.settings.seconds, {})
        if not outcome.ok:
            return outcome.reason
        if outcome.cut:
            return "printed too much"
        printed, expected = _lines(outcome.stdout), _lines(case.stdout)
        return "" if printed == expected else f"printed {outcome.stdout[:80]!r}"

    def _run_assertions(self, program: str, tests: _Assertions) -> list[str]:
        """One sandbox for all tests of a program, one fork for each."""
        task = {
            "program": program,
            "setup": tests.setup,
            "tests": tests.tests,
            "seconds": self.settings.seconds,
        }
        seconds = self.settings.seconds * len(tests.tests) + _START_SECONDS
        outcome = self._run(_harness(), json.dumps(task), seconds, {})
        if not outcome.ok or outcome.cut:
            return [outcome.reason or "no result"] * len(tests.tests)
        problems: list[str] = json.loads(outcome.stdout)
        return problems

    def _run(self, source: str, stdin: str, seconds: float, files: dict[str, str]) -> Outcome:
        update = {"wall_seconds": min(3600.0, seconds), "cpu_seconds": max(1, round(seconds))}
        limits = self.settings.limits.model_copy(update=update)
        packages = self.settings.packages
        return run_sandboxed(source, stdin=stdin, files=files, limits=limits, packages=packages)


@cache
def _harness() -> str:
    return _HARNESS.read_text()


def _read_tests(reference: str) -> _Assertions | list[_Case]:
    """Raises ValueError for a reference that is neither kind."""
    if reference.lstrip().startswith("["):
        try:
            cases = _CASES.validate_json(reference)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        if not cases:
            raise ValueError("an empty list")
        return cases
    try:
        body = ast.parse(reference).body
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno}: {error.msg}") from error
    # A bare call is a test too: `check(candidate)` raises where it fails.
    is_test = [isinstance(node, ast.Assert) or _is_call(node) for node in body]
    pairs = list(zip(body, is_test, strict=True))
    tests = [ast.unparse(node) for node, test in pairs if test]
    if not tests:
        raise ValueError("no assert and no call at its top level")
    setup = "\n".join(ast.unparse(node) for node, test in pairs if not test)
    return _Assertions(setup, tests)


def _is_call(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
