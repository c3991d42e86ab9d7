import pytest

from reward.verifiers.code import CodeSettings, CodeVerifier
from reward.verifiers.fences import fences, last_fence, without_fences

TESTS = """
def double(x): return 2 * x
assert add(1, 2) == 3
assert add(0, 0) == 0
assert double(add(1, 1)) == 4
"""
CASES = '[{"stdin": "1 2", "stdout": "3\\n"}, {"stdin": "1 5", "stdout": "7"}]'


def verdict_of(program: str, tests: str | None = TESTS, **settings: object) -> tuple[object, str]:
    verifier = CodeVerifier(CodeSettings.model_validate({"seconds": 1.0} | settings))
    found = verifier.verify([], f"Here:\n```python\n{program}\n```\nDone.", tests)
    return found.score, found.reason


def test_the_score_is_the_share_of_tests_passed() -> None:
    assert verdict_of("def add(a, b): return a + b") == (1.0, "3 of 3 tests passed")
    score, reason = verdict_of("def add(a, b): return a * b")
    assert score == pytest.approx(1 / 3)
    assert "first failure: AssertionError" in reason
    assert verdict_of("def add(a, b): return a * b", scoring="all")[0] == 0.0
    assert verdict_of("def add(a, b): return a + b", scoring="all")[0] == 1.0


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os._exit(0)", "ended before its test"),
        ("raise SystemExit(0)", "ended before its test"),
        ("x =", "SyntaxError"),
        ("print('3 of 3 tests passed')", "NameError"),
        ("def add(a, b): return bytearray(10**11)", "MemoryError"),
        ("import os\nos.kill(0, 9)", "ended before its test (status -9)"),
        ("while True: print('x' * 10**6)", "took longer"),
    ],
)
def test_no_way_round_the_tests(program: str, reason: str) -> None:
    score, why = verdict_of(program, "assert add(1, 2) == 3", seconds=0.3)
    assert score == 0.0
    assert reason in why


def test_an_endless_test_costs_only_itself() -> None:
    score, reason = verdict_of("def add(a, b):\n  while a: pass\n  return a + b", seconds=0.2)
    assert score == pytest.approx(1 / 3)
    assert "took longer than 0.2 s" in reason


def test_whole_programs_are_compared_outside_the_sandbox() -> None:
    assert verdict_of("print(sum(map(int, input().split())))", CASES)[0] == 0.5
    score, reason = verdict_of("print(input(), input())", CASES)
    assert (score, "EOFError" in reason) == (0.0, True)


@pytest.mark.parametrize("tests", [None, "", "x = 1", "assert (", "[]", '[{"stdin": 1}]'])
def test_without_usable_tests_it_does_not_judge(tests: str | None) -> None:
    score, reason = verdict_of("def add(a, b): return a + b", tests)
    assert score is None
    assert "tests" in reason


def test_a_reply_without_a_program_is_wrong() -> None:
    verdict = CodeVerifier(CodeSettings()).verify([], "Use a + b.", TESTS)
    assert (verdict.score, verdict.reason) == (0.0, "no fenced Python program in the reply")


def test_fences() -> None:
    reply = "a\n```python\nx\n```\nb\n~~~\ny\n~~~\n````md\n```\nz\n```\n````\n```python\nopen"
    assert [(f.tag, f.body) for f in fences(reply)] == [
        ("python", "x\n"),
        ("", "y\n"),
        ("md", "```\nz\n```\n"),
    ]
    assert last_fence(reply, "python") == "x\n"
    assert last_fence(reply, "rust") == "y\n"
    assert last_fence("no block", "python") is None
    assert without_fences("a\n```\nb\n```\nc") == "a\n\nc"
