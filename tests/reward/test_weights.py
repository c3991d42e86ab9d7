from collections import defaultdict
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.data import Preference
from reward.weights import prompt_weights


@given(prompts=st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_every_prompt_weighs_the_same_and_the_mean_is_one(
    make_pair: Callable[..., Preference], prompts: list[int]
) -> None:
    pairs = [make_pair(f"a{n}", "b", prompt=f"q{key}") for n, key in enumerate(prompts)]
    weights = prompt_weights(pairs)
    sums: dict[int, float] = defaultdict(float)
    for key, weight in zip(prompts, weights, strict=True):
        sums[key] += weight
    assert sum(weights) == pytest.approx(len(pairs))
    assert list(sums.values()) == pytest.approx([len(pairs) / len(sums)] * len(sums))


def test_known_weights(make_pair: Callable[..., Preference]) -> None:
    pairs = [make_pair("a", "b", prompt=p, condition=c) for p, c in (("x", None), ("x", "code"))]
    assert prompt_weights([*pairs, make_pair("a", "b", prompt="y")]) == [0.75, 0.75, 1.5]
    assert prompt_weights([]) == []
