import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pretrain_core.chat import Message
from reward import compose
from reward.compose import CannotCompose, ComposedScore, ComposeSettings, RewardComposer
from reward.conditions import Conditions, UnknownCondition
from reward.verifiers import Verdict, Verifier, unjudged
from reward.verifiers.sample import Sample

TWO = {"brief": {"kind": "length", "most": 2, "fall": 4}, "json": {"kind": "json"}}
Compose = Callable[..., RewardComposer]


def scored(composer: RewardComposer, *replies: tuple[str, float, str]) -> list[ComposedScore]:
    """Of (reply, raw score of the reward model, condition)."""
    samples = [Sample([], reply, condition) for reply, _, condition in replies]
    verdicts = composer.judge(samples)
    return [
        composer.compose(sample, rm_score, found)
        for sample, (_, rm_score, _), found in zip(samples, replies, verdicts, strict=True)
    ]


@pytest.fixture
def composer(conditions: Conditions) -> Compose:
    def make(weights: dict[str, object], **settings: object) -> RewardComposer:
        document = {"verifiers": TWO, "weights": weights} | settings
        return RewardComposer(ComposeSettings.model_validate(document), conditions)

    return make


class Scripted:
    """A verifier that reads its score from the reply; `?` cannot be judged."""

    def verify(self, prompt: Sequence[Message], reply: str, reference: str | None) -> Verdict:
        return unjudged("unreadable") if reply == "?" else Verdict(float(reply), False, "read")

    def close(self) -> None:
        pass


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, composer: Compose) -> Compose:
    def build(settings: object) -> Verifier:
        return Scripted()

    monkeypatch.setattr(compose, "build_verifier", build)
    return composer


def test_known_totals(composer: Compose) -> None:
    weights = {"bright": {"rm": 1, "verifiers": {"brief": 2, "json": 1}}}
    with composer(weights) as both:
        scores = scored(
            both, ("[1]", 2.0, "bright"), ("a b c", 2.0, "bright"), ("a b c", -7.5, "dark")
        )
    # Scores of 1, ¾ and 0 lie at 5, 2.5 and −5 of the band.
    assert [score.total for score in scores] == [
        pytest.approx((2 + 2 * 5 + 5) / 4),
        pytest.approx((2 + 2 * 2.5 - 5) / 4),
        -7.5,
    ]
    assert scores[1].parts == {"rm": 2.0, "brief": 0.75, "json": 0.0}
    assert scores[1].reasons["brief"] == "3 words, expected 0 to 2"
    assert scores[2].parts == {"rm": -7.5}


def test_what_cannot_be_judged_is_left_out_of_the_mean(scripted: Compose) -> None:
    weights = {"bright": {"rm": 1, "verifiers": {"brief": 3, "json": 0}}}
    renormalised, judged = scored(scripted(weights), ("?", 2.0, "bright"), ("0", 2.0, "bright"))
    assert (renormalised.total, renormalised.parts) == (2.0, {"rm": 2.0, "brief": None})
    assert renormalised.reasons == {"brief": "unreadable"}
    assert judged.total == pytest.approx((2 - 15) / 4)
    with pytest.raises(CannotCompose, match=r"^brief cannot judge: unreadable"):
        scored(scripted(weights, unjudged="fail"), ("?", 2.0, "bright"))


def test_nothing_left_to_judge_by_is_an_error(scripted: Compose) -> None:
    only = scripted({"bright": {"rm": 0, "verifiers": {"brief": 1}}})
    assert scored(only, ("1", 0.0, "bright"))[0].total == 5.0
    with pytest.raises(CannotCompose, match=r"nothing that counts under bright.*unreadable"):
        scored(only, ("?", 0.0, "bright"))


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_never_passed_on(composer: Compose, score: float) -> None:
    with pytest.raises(CannotCompose, match="score is"):
        scored(composer({}), ("a", score, "default"))


@given(
    st.floats(-5, 5),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 10)), min_size=1, max_size=5),
    st.floats(0.01, 10),
)
def test_the_total_stays_in_the_band_and_grows_with_each_part(
    rm: float, parts: list[tuple[float, float]], weight: float
) -> None:
    names = {f"v{n}": value for n, value in enumerate(parts)}
    document = {
        "verifiers": {name: {"kind": "json"} for name in names},
        "weights": {
            "default": {"rm": weight, "verifiers": {n: w for n, (_, w) in names.items()}},
        },
    }
    made = RewardComposer(ComposeSettings.model_validate(document), Conditions([]))

    def total(scores: dict[str, float]) -> float:
        verdicts = {name: Verdict(score, False, "") for name, score in scores.items()}
        return made.compose(Sample([], ""), rm, verdicts).total

    scores = {name: score for name, (score, _) in names.items()}
    found = total(scores)
    assert -5 - 1e-9 <= found <= 5 + 1e-9
    assert total(scores | {"v0": 1.0}) >= found - 1e-9


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"default": {"verifiers": {"brif": 1}}}, "no verifier 'brif'"),
        ({"default": {"rm": 0}}, "above 0"),
        ({"default": {"verifiers": {"brief": -1}}}, "≥ 0"),
        ({"default": {"rm": "nan"}}, "finite"),
    ],
)
def test_bad_weights_are_refused(weights: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ComposeSettings.model_validate({"verifiers": TWO, "weights": weights})


def test_weights_of_an_unknown_condition_are_refused(composer: Compose) -> None:
    with pytest.raises(UnknownCondition, match="brigth"):
        composer({"brigth": {"rm": 1}})
