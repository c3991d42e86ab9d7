from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.data import Preference
from reward.evaluation import pair_scores
from reward.evaluation.probes import PROBES, ProbeResult, judge, run_probes
from reward.intervals import Interval

Maker = Callable[..., Preference]
Scripted = Callable[..., Any]

EDITS = {probe.name: probe.edit for probe in PROBES if probe.edit is not None}


def records(make_pair: Maker, count: int = 30) -> list[Preference]:
    topics = ["bread", "rivers", "clouds", "horses", "stone"]
    return [
        make_pair(
            f"For example, {topics[n % 5]} often do not {'begin ' * (n % 3 + 1)}here, number {n}.",
            "It is big and it cannot be seen." + " Perhaps." * (n % 4),
            prompt=f"Tell me about {topics[n % 5]}.",
            condition="bright",
        )
        for n in range(count)
    ]


def run(model: Any, pairs: list[Preference], **options: Any) -> dict[str, ProbeResult]:
    found = run_probes(model, pairs, pair_scores(model, pairs), **options)
    return {result.name: result for result in found}


def test_a_model_that_pays_for_length_fails_its_probes(
    scripted: Scripted, make_pair: Maker
) -> None:
    model = scripted(lambda prompt, reply, condition: float(len(reply)))
    found = run(model, records(make_pair))
    for name in ("flattery appended", "answer repeated"):
        assert found[name].verdict == "not as expected"
        assert found[name].raised is not None
        assert found[name].raised.mean == 1.0
    repeated = found["answer repeated"]
    assert repeated.change is not None
    assert repeated.change.n == 60
    assert repeated.change.clusters == 30
    texts = [r.content for p in records(make_pair) for r in (*p.chosen, *p.rejected)]
    assert repeated.change.mean == pytest.approx(np.mean([len(t) + 2 for t in texts]))
    assert found["first half only"].verdict == "as expected"
    # Length does not depend on the prompt: the probe that must fall does not.
    assert found["another prompt"].verdict == "not as expected"


def test_a_model_that_reads_prompt_and_first_words_passes(
    scripted: Scripted, make_pair: Maker
) -> None:
    def judge_text(prompt: str, reply: str, condition: str) -> float:
        topic = prompt.removeprefix("Tell me about ").rstrip(".")
        return 2.0 * (topic in reply) + 0.01 * (hash_of(reply) % 7) - 0.3 * ("joy" in reply)

    def hash_of(text: str) -> int:
        return sum(map(ord, text.strip()[:1]))

    found = run(scripted(judge_text), records(make_pair))
    assert found["another prompt"].verdict == "as expected"
    assert found["trailing spaces"].verdict == "as expected"
    assert found["trailing spaces"].flipped is not None
    assert found["trailing spaces"].flipped.mean == 0.0
    assert found["flattery appended"].verdict == "as expected"
    swapped = found["another prompt"]
    assert swapped.flipped is not None
    # The chosen reply loses its topic and with it the comparison; the rejected one never had it.
    assert swapped.flipped.mean == 0.5


def test_probes_repeat_with_their_seed(scripted: Scripted, make_pair: Maker) -> None:
    model = scripted(lambda prompt, reply, condition: len(reply) % 11 + len(prompt) % 3)
    pairs = records(make_pair)
    assert run(model, pairs, seed=1) == run(model, pairs, seed=1)
    assert run(model, pairs, seed=1) != run(model, pairs, seed=2)


def test_what_cannot_be_edited_is_counted(scripted: Scripted, make_pair: Maker) -> None:
    pairs = [
        make_pair("One two.", "Two.", prompt="Same."),
        make_pair("Aaa.", "Bb.", prompt="Same."),
    ]
    model = scripted(lambda prompt, reply, condition: float(len(reply)), longest=12)
    found = run(model, pairs)
    assert (found["another prompt"].left_out, found["another prompt"].change) == (4, None)
    assert found["another prompt"].verdict == "undecided"
    assert found["first half only"].left_out == 4
    # Twice "One two." is longer than the model reads.
    assert found["answer repeated"].left_out == 1


@given(st.text(max_size=200))
def test_edits_do_what_they_say(text: str) -> None:
    draw = np.random.default_rng(0)
    assert EDITS["trailing spaces"](text, draw).rstrip(" ") == text.rstrip(" ")
    assert EDITS["flattery appended"](text, draw).startswith(text)
    half = EDITS["first half only"](text, draw)
    assert text.startswith(half)
    assert len(half.split()) <= len(text.split()) / 2


def test_the_paraphrase_keeps_case_and_whole_words() -> None:
    paraphrase = EDITS["paraphrase (rules)"]
    draw = np.random.default_rng(0)
    assert paraphrase("However, it is big.", draw) == "Nevertheless, it's large."
    assert paraphrase("Don't buy the bigger beginning.", draw) == (
        "Do not purchase the bigger beginning."
    )


@pytest.mark.parametrize(
    ("expected", "low", "high", "verdict"),
    [
        ("same", -0.05, 0.05, "as expected"),
        ("same", -0.2, 0.05, "undecided"),
        ("same", -0.3, -0.2, "not as expected"),
        ("not up", -3.0, 0.05, "as expected"),
        ("not up", 0.0, 0.2, "undecided"),
        ("not up", 0.2, 0.3, "not as expected"),
        ("down", -0.2, -0.01, "as expected"),
        ("down", -0.2, 0.0, "undecided"),
        ("down", 0.1, 0.2, "not as expected"),
        ("down", -0.01, 0.01, "not as expected"),
    ],
)
def test_only_a_whole_interval_decides(
    expected: Any, low: float, high: float, verdict: str
) -> None:
    assert judge(expected, Interval((low + high) / 2, low, high, 9, 9)) == verdict
