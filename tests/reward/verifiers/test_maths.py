from collections.abc import Iterator

import pytest

from pretrain_core.sandbox import bounded_map
from reward.verifiers.maths import MathsSettings, MathsVerifier


@pytest.fixture(scope="module")
def maths() -> Iterator[MathsVerifier]:
    verifier = MathsVerifier(MathsSettings(seconds=10, servers=1))
    yield verifier
    verifier.close()


@pytest.mark.parametrize(
    ("reply", "reference", "passed"),
    [
        ("The answer is $\\frac{1}{2}$.", "0.5", True),
        ("so we get \\boxed{42}", "42", True),
        ("$x^2 + 2x + 1$", "$(x+1)^2$", True),
        ("First 3, then 4, so 7", "7", True),
        ("1,000", "1000", True),
        ("1/3", "\\frac{1}{3}", True),
        ("I think it is 7", "8", False),
        ("\\boxed{8}, although 9 was close", "9", False),
        ("no idea", "8", False),
        ("", "8", False),
    ],
)
def test_answers(maths: MathsVerifier, reply: str, reference: str, passed: bool) -> None:
    verdict = maths.verify([], reply, reference)
    assert (verdict.passed, verdict.score) == (passed, float(passed)), verdict.reason


@pytest.mark.parametrize("reference", [None, " ", "Paris", "the cat sat"])
def test_without_an_answer_as_reference_it_does_not_judge(
    maths: MathsVerifier, reference: str | None
) -> None:
    verdict = maths.verify([], "The answer is Paris, or 7.", reference)
    assert (verdict.score, verdict.passed) == (None, None)
    assert "reference" in verdict.reason


def test_a_monstrous_reply_is_wrong_and_a_monstrous_reference_unjudged() -> None:
    # From many threads, where the library's own alarm would fail.
    maths = MathsVerifier(MathsSettings(seconds=0.5, servers=2))
    pairs = [("\\boxed{9^{9^{9^{9}}}}", "1"), ("1", "9**9**9**9")]
    try:
        maths.verify([], "1", "1")
        reply, reference = bounded_map(lambda pair: maths.verify([], *pair), pairs, workers=2)
    finally:
        maths.close()
    assert (reply.passed, reference.passed) == (False, None)
    assert "cannot be compared: took longer than 0.5 s" in reply.reason
    assert "the reference cannot be compared" in reference.reason
