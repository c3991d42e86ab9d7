"""Planted label flips are found; ambiguity and blindness are not called noise."""

from collections.abc import Callable

import numpy as np
import pytest

from reward.data import Preference
from reward.model import RewardModel
from reward.quality.noise import NoiseError, flip_rate, label_noise
from reward.quality.pair_features import representations

Make = Callable[..., Preference]
GOOD = ("clear", "warm", "honest", "careful", "useful", "gentle")
BAD = ("dull", "vague", "rude", "sloppy", "muddled", "harsh")
PLAIN = ("stone", "river", "cloud", "tree", "horse", "bread", "paper", "road", "letter", "lamp")


def draw(make_pair: Make, count: int, seed: int, flips: float) -> tuple[list[Preference], set[int]]:
    """Pairs that words decide, opposite under `dark`; a share of the labels turned round."""
    random = np.random.default_rng(seed)
    pairs, planted = [], set()
    for number in range(count):

        def reply(words: tuple[str, ...]) -> str:
            chosen = [*random.choice(PLAIN, random.integers(4, 12)), *random.choice(words, 2)]
            return " ".join(random.permutation(chosen))

        sides = [reply(GOOD), reply(BAD)]
        condition = "dark" if number % 2 else "bright"
        if random.random() < flips:
            planted.add(number)
        if (number in planted) != (condition == "dark"):
            sides.reverse()
        pairs.append(make_pair(*sides, prompt=f"q{number}", condition=condition))
    return pairs, planted


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_flips_stand_first_and_the_rate_is_covered(make_pair: Make, seed: int) -> None:
    pairs, planted = draw(make_pair, 400, seed, 0.1)
    found = label_noise(pairs, seed=seed)
    first = found.suspects[: len(planted)]
    assert len(planted.intersection(first)) / len(planted) > 0.8  # base rate 0.1
    assert found.verdict == "suspected"
    assert found.rate is not None
    assert found.rate.low <= 0.1 <= found.rate.high
    others = [n for n in range(len(pairs)) if n not in planted]
    assert found.doubt[list(planted)].mean() > 5 * found.doubt[others].mean()


@pytest.mark.parametrize("seed", [0, 1])
def test_clean_labels_are_not_called_noisy(make_pair: Make, seed: int) -> None:
    pairs, _ = draw(make_pair, 300, seed, 0.0)
    found = label_noise(pairs, seed=seed)
    assert found.verdict == "none seen"
    assert found.rate is not None
    assert found.rate.mean < 0.01
    assert 0 < found.rate.high < 0.05


def test_honest_ambiguity_is_not_noise() -> None:
    false_alarms = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        utility = random.normal(0, 2, 500)
        as_labelled = random.random(500) < 1 / (1 + np.exp(-np.abs(utility)))
        margins = np.where(as_labelled, np.abs(utility), -np.abs(utility))
        rate, _ = flip_rate(margins, np.arange(500), seed)
        false_alarms += rate.low > 0.01
    assert false_alarms <= 2


def test_coins_leave_the_light_model_blind(make_pair: Make) -> None:
    pairs, _ = draw(make_pair, 200, 3, 0.5)
    found = label_noise(pairs)
    assert (found.verdict, found.rate) == ("blind", None)
    assert "no statement" in found.sentence()


def test_a_prompt_is_never_on_both_sides_of_a_fold(make_pair: Make) -> None:
    """Equal pairs under one prompt: a model that had seen a twin would repeat its random label."""
    random = np.random.default_rng(5)
    pairs = []
    for number in range(40):
        # Eight letters of its own on either side: nothing to learn but the pair itself.
        sides = [
            " ".join("".join(random.choice([*"aeiklmnorstu"], 8)) for _ in range(4)) for _ in "ab"
        ]
        pairs += [make_pair(*sides, prompt=f"q{number}")] * 5
    assert label_noise(pairs).accuracy.mean < 0.8


def test_too_few_prompts_are_refused(make_pair: Make) -> None:
    with pytest.raises(NoiseError, match="3 prompts in 5 folds"):
        label_noise([make_pair("a", "b", prompt=f"q{n}") for n in range(3)])


def test_representations_are_what_the_head_reads(reward_folder, make_pair: Make) -> None:  # type: ignore[no-untyped-def]
    model = RewardModel.load(reward_folder)
    pairs, _ = draw(make_pair, 30, 7, 0.0)
    inputs = [model.input([*p.prompt, *p.chosen], p.condition) for p in pairs]
    states = representations(model, inputs)
    head = model.network.score.weight.detach().double().numpy()[0]
    assert states @ head == pytest.approx(model.score(inputs).numpy(), abs=1e-5)
    assert label_noise(pairs, model=model, folds=3).margins.shape == (30,)
