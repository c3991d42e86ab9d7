"""What a round won over the SFT model, by the gold signal."""

from typing import Any

import pytest

from cool_rlhf.online.summary import gold_gain, gold_wins


def evaluation(scores: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "samples": [
            {"id": f"{condition}/{row}", "condition": condition, "gold": gold}
            for condition, row_scores in scores.items()
            for row, gold in enumerate(row_scores)
        ]
    }


def test_wins_are_counted_by_condition_and_a_tie_is_half() -> None:
    before = evaluation({"brief": [0.0, 0.0, 0.0, 0.0], "detailed": [1.0, 1.0]})
    after = evaluation({"brief": [9.0, 0.1, 0.0, -0.1], "detailed": [0.0, 0.9]})
    after["samples"].reverse()
    wins = gold_wins(before, after, seed=0)
    assert list(wins) == ["brief", "detailed"]
    assert (wins["brief"].mean, wins["brief"].n) == (0.625, 4)
    assert (wins["detailed"].mean, wins["detailed"].high) == (0.0, 0.0)
    # One large gain makes a mean, not a majority.
    assert gold_gain(before, after, seed=0).mean == pytest.approx(7.9 / 6)
