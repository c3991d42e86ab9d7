"""Reward functions of the user's own: called as TRL calls them, never hanging, never half right."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pretrain_core.chat import Message
from pretrain_core.errors import InputError
from reward.compose import ComposeSettings, RewardComposer
from reward.conditions import Conditions
from reward.verifiers.function import FunctionVerifier, RewardFunctionSettings
from reward.verifiers.sample import GraderFailed, Sample

PROMPT = [Message(role="user", content="How long?")]
LENGTH = """
print("loaded")

def reward(prompts, completions, condition, reference, **kwargs):
    print("asked")
    assert prompts[0][0]["content"] == "How long?"
    return [None if r == "?" else min(len(c[0]["content"]), 10) / 10
            for c, r in zip(completions, reference)]
"""
Make = Callable[..., FunctionVerifier]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made = []

    def build(source: str, **settings: object) -> FunctionVerifier:
        file = tmp_path / "mine.py"
        file.write_text(source)
        made.append(FunctionVerifier(RewardFunctionSettings(file=file, **settings)))
        return made[-1]

    yield build
    for verifier in made:
        verifier.close()


def samples(*replies: str, reference: str | None = None) -> list[Sample]:
    return [Sample(PROMPT, reply, "helpful", reference) for reply in replies]


def test_all_replies_in_one_call_and_its_prints_do_not_disturb(make: Make) -> None:
    verifier = make(LENGTH)
    verdicts = verifier.grade(samples("12345", "", "1234567890123"))
    assert [(v.score, v.passed) for v in verdicts] == [(0.5, True), (0.0, False), (1.0, True)]
    assert not verifier.grade(samples("x", reference="?"))[0].judged
    assert verifier.verify(PROMPT, "123", None).score == pytest.approx(0.3)
    assert verifier.grade([]) == []


def test_scores_of_another_scale_are_mapped_and_others_refused(make: Make) -> None:
    source = (
        "def reward(completions, **_):\n    return [float(c[0]['content']) for c in completions]"
    )
    verifier = make(source, low=-2, high=2)
    assert [v.score for v in verifier.grade(samples("-2", "0", "2"))] == [0.0, 0.5, 1.0]
    for wrong in ("2.5", "nan"):
        with pytest.raises(GraderFailed, match=r"reply 1 is (2\.5|nan), not in \[-2, 2\]: set low"):
            verifier.grade(samples("0", wrong))


def test_a_wrong_number_of_scores_is_an_error(make: Make) -> None:
    with pytest.raises(GraderFailed, match="1 scores for 2 replies"):
        make("def reward(**_):\n    return [1.0]").grade(samples("a", "b"))


def test_an_error_names_file_line_and_cause_and_the_next_call_starts_anew(make: Make) -> None:
    source = """
def reward(completions, **_):
    if completions[0][0]["content"] == "bad":
        raise KeyError("no such answer")
    return [1.0 for _ in completions]
"""
    verifier = make(source)
    with pytest.raises(GraderFailed, match=r"mine\.py.*line 4.*KeyError: 'no such answer'"):
        verifier.grade(samples("bad"))
    assert verifier.grade(samples("good"))[0].score == 1.0


def test_a_function_that_hangs_is_ended(make: Make) -> None:
    source = "import time\n\ndef reward(**_):\n    time.sleep(600)"
    verifier = make(source, seconds=0.5)
    begun = time.monotonic()
    with pytest.raises(GraderFailed, match=r"reward took longer than 0\.5 s"):
        verifier.grade(samples("a"))
    assert time.monotonic() - begun < 60


def test_its_part_may_be_left_out_where_it_fails(make: Make) -> None:
    verifier = make("def reward(**_):\n    raise OSError('down')", on_failure="unjudged")
    (verdict,) = verifier.grade(samples("a"))
    assert not verdict.judged
    assert "OSError: down" in verdict.reason


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def other(): ...", "has no attribute 'reward'"),
        ("def reward(:", "SyntaxError"),
    ],
)
def test_what_cannot_be_loaded_is_refused_at_once(make: Make, source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(source)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        FunctionVerifier(RewardFunctionSettings(file=tmp_path / "none.py"))


def test_a_composer_asks_it_once_for_the_samples_that_it_counts_for(
    tmp_path: Path, conditions: Conditions
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def reward(condition, **_):\n    return [len(condition) / 10 for _ in condition]"
    )
    settings = ComposeSettings.model_validate(
        {
            "verifiers": {"mine": {"kind": "function", "file": str(file)}},
            "weights": {"bright": {"rm": 1, "verifiers": {"mine": 1}}},
        }
    )
    with RewardComposer(settings, conditions) as composer:
        asked = [Sample([], "a", "bright"), Sample([], "b", "dark"), Sample([], "c", "bright")]
        verdicts = composer.judge(asked)
    # Two of the three: each had the length of the call.
    assert [v["mine"].score if v else None for v in verdicts] == [0.2, None, 0.2]
