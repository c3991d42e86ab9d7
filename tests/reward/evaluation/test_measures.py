"""Conflicts, calibration and length bias against values worked out by hand."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.card import Calibration, RewardModelError
from reward.data import Preference
from reward.evaluation import EvaluationError, PairScores
from reward.evaluation.calibration import cross_fitted, fit_calibration, reliability, sigmoid
from reward.evaluation.conflicts import conflict_matrix
from reward.evaluation.length import length_bias
from reward.evaluation.scoring import pair_keys

Maker = Callable[..., Preference]


def scores(margins: list[float] | np.ndarray) -> PairScores:
    return PairScores(np.array(margins, dtype=float), np.zeros(len(margins)))


def test_the_conflict_matrix_counts_opposite_verdicts(make_pair: Maker) -> None:
    records, margins = [], []
    for n in range(4):
        records.append(make_pair(f"a{n}", f"b{n}", condition="bright"))
        # Labels conflict on three of four pairs, the model's preferences on one of four.
        sides = (f"a{n}", f"b{n}") if n == 0 else (f"b{n}", f"a{n}")
        records.append(make_pair(*sides, condition="dark"))
        margins += [1.0, 1.0 if n in (0, 1) else -1.0]
    records.append(make_pair("x", "y", condition="bright"))
    [found] = conflict_matrix(records, scores([*margins, 1.0]))
    assert (found.first, found.second, found.labels.n) == ("bright", "dark", 4)
    assert (found.labels.mean, found.model.mean) == (0.75, 0.25)
    assert found.followed == pytest.approx(1 / 3)


def test_divided_annotators_count_by_chance_and_one_condition_makes_no_matrix(
    make_pair: Maker,
) -> None:
    divided = [
        make_pair("a", "b", condition="bright", annotator="x"),
        make_pair("b", "a", condition="bright", annotator="y"),
        make_pair("a", "b", condition="dark"),
    ]
    [found] = conflict_matrix(divided, scores([1.0, -1.0, 1.0]))
    assert (found.labels.mean, found.model.mean) == (0.5, 0.0)
    assert conflict_matrix(divided[:2], scores([1.0, -1.0])) == []


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    sure = np.log(0.8 / 0.2)
    found = reliability(np.array([sure] * 6 + [-sure] * 4))
    assert found.error.mean == pytest.approx(0.2)
    [only] = found.bins
    assert (only.n, only.accuracy) == (10, 0.6)
    assert only.confidence == pytest.approx(0.8)
    assert found.log_loss.mean == pytest.approx(-0.6 * np.log(0.8) - 0.4 * np.log(0.2))


def overconfident(factor: float, count: int = 4000) -> np.ndarray:
    """Margins whose frequencies are σ(margin / factor)."""
    draw = np.random.default_rng(3)
    honest = np.abs(draw.normal(0, 1.5, count))
    right = draw.random(count) < sigmoid(honest)
    return factor * np.where(right, honest, -honest)


def test_the_scale_that_made_the_scores_is_found_and_mends_them() -> None:
    margins = overconfident(4.0)
    found = fit_calibration(PairScores(margins + 1.5, np.full(len(margins), 1.5)))
    assert found.scale == pytest.approx(0.25, rel=0.1)
    assert found.centre == pytest.approx(1.5 + margins.mean() / 2)
    raw = reliability(margins)
    calibrated = reliability(cross_fitted(margins, list(range(len(margins)))))
    assert raw.error.low > 0.1 > 5 * raw.noise
    assert calibrated.error.mean < 2.5 * calibrated.noise
    assert calibrated.log_loss.high < raw.log_loss.low


def test_cross_fitting_never_sees_a_records_own_pair() -> None:
    margins = overconfident(1.0, 200)
    keys = [n // 2 for n in range(200)]
    before = cross_fitted(margins, keys) / margins
    changed = margins.copy()
    changed[:2] = -8.0
    after = cross_fitted(changed, keys) / changed
    assert after[:2] == pytest.approx(before[:2])
    assert (after[2:] < before[2:]).any()


def test_scores_that_cannot_be_calibrated_are_refused() -> None:
    with pytest.raises(EvaluationError, match="all 3 pairs rightly"):
        fit_calibration(scores([1.0, 2.0, 3.0]))
    with pytest.raises(EvaluationError, match="do not score higher"):
        fit_calibration(scores([1.0, -2.0]))
    with pytest.raises(EvaluationError, match="too few"):
        cross_fitted(np.array([1.0, -1.0]), [0, 1])
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(RewardModelError, match="calibrate anew"):
            Calibration(scale, 0.0, 1)


@given(
    st.floats(1e-3, 1e3),
    st.floats(-100, 100),
    st.lists(st.floats(-50, 50), min_size=2, max_size=9),
)
def test_a_calibration_keeps_the_order_of_scores(
    scale: float, centre: float, raw: list[float]
) -> None:
    calibrated = Calibration(scale, centre, 1).apply(np.array(sorted(raw)))
    assert (np.diff(calibrated) >= 0).all()


def test_a_model_that_pays_for_length_is_found_out(make_pair: Maker) -> None:
    records = [make_pair("x" * (9 + n), "y" * 5, prompt=str(n)) for n in range(6)]
    records += [make_pair("x" * 3, "y" * (9 + n), prompt=f"b{n}") for n in range(4)]
    difference = np.array([4.0 + n for n in range(6)] + [-6.0 - n for n in range(4)])
    found = length_bias(records, scores(difference / 10), pair_keys(records))
    assert found.longer_chosen is not None
    assert found.longer_rejected is not None
    assert found.correlation is not None
    assert (found.longer_chosen.mean, found.longer_rejected.mean) == (1.0, 0.0)
    assert (found.longer_chosen.n, found.longer_rejected.n) == (6, 4)
    assert found.longer_wins.mean == 0.6
    assert found.correlation.mean == pytest.approx(1.0)
    assert [y for _, y in found.curve] == sorted(y for _, y in found.curve)
    swapped = length_bias(
        [make_pair("y" * 5, "x" * 9), make_pair("a", "b")], scores([-0.4, 0.0]), [0, 1]
    )
    assert swapped.correlation is not None
    assert swapped.correlation.mean == pytest.approx(1.0)
    assert swapped.longer_chosen is None
    assert swapped.longer_wins.mean == 0.25


def test_a_model_blind_to_length_has_no_correlation(make_pair: Maker) -> None:
    draw = np.random.default_rng(0)
    records = [
        make_pair("x" * int(a), "y" * int(b), prompt=str(n))
        for n, (a, b) in enumerate(draw.integers(1, 80, (400, 2)))
    ]
    found = length_bias(records, scores(draw.normal(0.3, 1, 400)), pair_keys(records))
    assert found.correlation is not None
    assert not found.correlation.excludes_zero
