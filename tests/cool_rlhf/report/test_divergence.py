"""Two runs part at the first quantity that differs, in the order in which it is computed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.rollout.no_engine import NoEngine
from actors.rollout.requests import Request, RolloutError, SamplingSettings
from actors.trajectories import RolloutLog, Score, Trajectory
from cool_rlhf.report.divergence import first_divergence

Change = Callable[[Trajectory], Trajectory]


def a_trajectory(iteration: int, name: str) -> Trajectory:
    return Trajectory.model_validate(
        {
            "id": f"{iteration}/{name}/0",
            "iteration": iteration,
            "sample": 0,
            "prompt_id": name,
            "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "tokens": [1, 2, 3],
            "is_action": [False, True, True],
            "policy_version": [-1, 0, 0],
            "behaviour_logprobs": [0.0, -1.0, -1.0],
            "finish_reason": "stop",
            "condition": "helpful",
            "seed": 0,
            "engine": "hf",
        }
    )


def a_run(
    folder: Path,
    change: Change = lambda t: t,
    score: float = 1.0,
    names: tuple[str, ...] = ("p", "q"),
    **metrics: float,
) -> Path:
    """Three iterations; in the second one, samples, scores or metrics may be others."""
    log = RolloutLog(folder / "rollouts")
    rows = []
    for iteration in range(3):
        odd = iteration == 1
        for name in names if odd else ("p", "q"):
            made = a_trajectory(iteration, name)
            log.append(change(made) if odd and name == "q" else made)
        value = score if odd else 1.0
        scored = {f"{iteration}/p/0": Score(value=value, rm_version="v")}
        log.append_scores(iteration, "reward_model", scored)
        row = {"step": iteration, "objective/kl": 2.0, "loss/value_avg": 3.0, "actor/lr": 0.1}
        changed = {key.replace("__", "/"): v for key, v in metrics.items()}
        rows.append(row | {"timing_s/rollout": 1.0} | (changed if odd else {}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return a_run(tmp_path / "first")


def other_token(trajectory: Trajectory) -> Trajectory:
    return trajectory.model_copy(update={"tokens": [1, 2, 9]})


def test_equal_runs_do_not_part_and_times_do_not_count(run: Path, tmp_path: Path) -> None:
    other = a_run(tmp_path / "second", timing_s__rollout=9.0, only__here=1.0)
    assert first_divergence(run, other) is None


def test_samples_come_before_scores_and_scores_before_metrics(run: Path, tmp_path: Path) -> None:
    everything = a_run(tmp_path / "a", other_token, score=2.0, objective__kl=5.0)
    assert str(first_divergence(run, everything)) == "iteration 1: token 2 of 1/q/0: 3 and 9"
    scores = a_run(tmp_path / "b", score=2.0, objective__kl=5.0)
    assert str(first_divergence(run, scores)) == (
        "iteration 1: score reward_model of 1/p/0: 1.0 and 2.0"
    )


def test_metrics_part_in_the_order_of_an_iteration(run: Path, tmp_path: Path) -> None:
    other = a_run(tmp_path / "a", actor__lr=0.2, objective__kl=5.0, loss__value_avg=4.0)
    assert str(first_divergence(run, other)) == "iteration 1: objective/kl: 2.0 and 5.0"
    later = a_run(tmp_path / "b", actor__lr=0.2, loss__value_avg=4.0)
    assert str(first_divergence(run, later)) == "iteration 1: loss/value_avg: 3.0 and 4.0"


def test_a_missing_sample_and_a_longer_one_are_named(run: Path, tmp_path: Path) -> None:
    fewer = a_run(tmp_path / "a", names=("p",))
    assert str(first_divergence(run, fewer)) == "iteration 1: sample 1/q/0: there and missing"

    def longer(trajectory: Trajectory) -> Trajectory:
        return trajectory.model_copy(
            update={
                "tokens": [1, 2, 3, 4],
                "is_action": [False, True, True, True],
                "policy_version": [-1, 0, 0, 0],
                "behaviour_logprobs": [0.0, -1.0, -1.0, -1.0],
            }
        )

    other = a_run(tmp_path / "b", longer)
    assert str(first_divergence(run, other)) == "iteration 1: tokens of 1/q/0: 3 and 4"


def test_without_engines_a_sample_that_the_log_has_not_got_is_named() -> None:
    asked = [Request("4/p/0", [1], 0)]
    with pytest.raises(RolloutError, match="1 samples are not in the log, such as '4/p/0'"):
        NoEngine().generate(asked, SamplingSettings(), [])
    assert list(NoEngine().generate([], SamplingSettings(), [])) == []
