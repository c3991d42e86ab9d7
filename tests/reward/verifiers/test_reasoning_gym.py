import json
from collections.abc import Iterator

import pytest

from pretrain_core.errors import InputError
from reward.verifiers import reasoning_gym as module
from reward.verifiers.reasoning_gym import (
    ReasoningGymSettings,
    ReasoningGymVerifier,
    reasoning_gym_prompts,
)


@pytest.fixture(scope="module")
def gym() -> Iterator[ReasoningGymVerifier]:
    verifier = ReasoningGymVerifier(ReasoningGymSettings(seconds=10))
    yield verifier
    verifier.close()


def test_tasks_come_from_the_seed() -> None:
    first = reasoning_gym_prompts("basic_arithmetic", 3, 1)
    assert first == reasoning_gym_prompts("basic_arithmetic", 3, 1)
    assert first != reasoning_gym_prompts("basic_arithmetic", 3, 2)
    assert [record["id"] for record in first] == [f"basic_arithmetic-1-{n}" for n in range(3)]


def test_only_the_full_score_passes(gym: ReasoningGymVerifier) -> None:
    record = reasoning_gym_prompts("basic_arithmetic", 1, 1)[0]
    answer = json.loads(record["reference"])["answer"]
    for reply in (
        answer,
        f"I add. <answer> {answer} </answer>",
        f"<answer>0</answer>\n<answer>{answer}</answer>",
    ):
        assert gym.verify([], reply, record["reference"]).score == 1.0
    # The library pays for naming the answer among others; that is kept only on demand.
    hedged = gym.verify([], f"{answer} or 7 or 8", record["reference"])
    assert (hedged.score, hedged.passed) == (0.0, False)
    assert "score 0.166667" in hedged.reason


def test_the_consolation_for_any_number_is_none(gym: ReasoningGymVerifier) -> None:
    record = reasoning_gym_prompts("power_function", 1, 1)[0]
    partial = ReasoningGymVerifier(ReasoningGymSettings(seconds=10, partial=True))
    try:
        for verifier in (gym, partial):
            verdict = verifier.verify([], "123456", record["reference"])
            assert (verdict.score, verdict.passed) == (0.0, False)
            assert "score 0.01" in verdict.reason
        arithmetic = reasoning_gym_prompts("basic_arithmetic", 1, 1)[0]["reference"]
        kept = partial.verify([], f"{json.loads(arithmetic)['answer']} or 7", arithmetic)
        assert (kept.score, kept.passed) == (pytest.approx(2 / 7), False)
    finally:
        partial.close()


def test_an_answer_that_is_evaluated_harms_nobody(gym: ReasoningGymVerifier) -> None:
    record = reasoning_gym_prompts("spiral_matrix", 1, 1)[0]
    verdict = gym.verify([], "[__import__('os')._exit(0)]", record["reference"])
    assert (verdict.score, verdict.passed) == (0.0, False)
    assert "cannot be scored" in verdict.reason


@pytest.mark.parametrize("reference", [None, "7", "{", '{"answer": "1"}', '{"metadata": {}}'])
def test_without_an_entry_it_does_not_judge(
    gym: ReasoningGymVerifier, reference: str | None
) -> None:
    assert gym.verify([], "7", reference).score is None


def test_bad_tasks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no task 'basic'; it has"):
        reasoning_gym_prompts("basic", 1, 1)
    with pytest.raises(InputError, match="its own answer fails"):
        reasoning_gym_prompts("graph_color", 1, 1)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"cool-rlhf\[verifiers\]"):
        ReasoningGymVerifier(ReasoningGymSettings())
