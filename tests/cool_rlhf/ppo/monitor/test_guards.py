"""Each guard is tripped once."""

from dataclasses import replace

import pytest
import torch

from actors.batch import Experience, Sequences
from actors.trajectories import Trajectory
from cool_rlhf.ppo.algorithm import ActionGrid
from cool_rlhf.ppo.batch import Batch
from cool_rlhf.ppo.monitor.guards import GuardError, Guards, logprob_gap
from cool_rlhf.ppo.monitor.measure import length_metrics
from cool_rlhf.ppo.settings import GuardSettings
from pretrain_core.chat import Message

MESSAGES = (Message(role="user", content="q"), Message(role="assistant", content="a"))


def batch(engine_gap: float = 0.0, kl: float = 0.0, raw: bool = True) -> Batch:
    """Two samples of one prompt token and two actions; the second sample carries the gap."""
    trajectories = tuple(
        Trajectory(
            id=name,
            iteration=0,
            sample=0,
            prompt_id=name,
            messages=MESSAGES,
            tokens=[1, 2, 3],
            is_action=[False, True, True],
            policy_version=[-1, 0, 0],
            behaviour_logprobs=[0.0, -1.0, -1.0],
            raw_logprobs=[0.0, -1.0 - gap, -1.0 - gap] if raw else None,
            finish_reason="stop",
            condition="helpful",
            seed=0,
            engine="vllm",
        )
        for name, gap in (("good", 0.0), ("bad", engine_gap))
    )
    sequences = Sequences.pack([(t.tokens, t.is_action) for t in trajectories])
    old = torch.tensor([0.0, -1.0, -1.0] * 2)
    return Batch(
        trajectories=trajectories,
        experience=Experience(("good", "bad"), sequences, old, old, old),
        grid=ActionGrid.of(sequences),
        scores=torch.zeros(2),
        totals=torch.zeros(2),
        rm_version="v1",
        reference_logprobs=old - torch.tensor([0.0, kl / 2, kl / 2] * 2),
        entropy=torch.zeros(6),
        rewards=torch.zeros(6),
    )


def test_a_healthy_batch_passes() -> None:
    guards = Guards(GuardSettings())
    guards.check_batch(batch())
    guards.check_updates({"policy/first_ratio": 1.0})
    assert logprob_gap(batch(engine_gap=0.4)) == pytest.approx(0.2)
    assert logprob_gap(batch(raw=False)) is None


def test_engine_with_other_weights_stops_the_run_and_names_the_sample() -> None:
    with pytest.raises(GuardError, match=r"by 0\.2500.*sample bad"):
        Guards(GuardSettings()).check_batch(batch(engine_gap=0.5))


def test_tokens_that_are_too_old_stop_the_run() -> None:
    later = replace(batch(), policy_version=2)
    Guards(GuardSettings(), max_staleness=2).check_batch(later)
    with pytest.raises(GuardError, match="sample good has tokens that are 2 versions"):
        Guards(GuardSettings(), max_staleness=1).check_batch(later)


def test_the_engine_is_compared_on_tokens_of_the_present_weights_alone() -> None:
    made = replace(batch(engine_gap=0.4), policy_version=1)
    assert logprob_gap(made) is None
    good, bad = made.trajectories
    mixed = bad.model_copy(update={"policy_version": [-1, 0, 1]})
    assert logprob_gap(replace(made, trajectories=(good, mixed))) == pytest.approx(0.4)
    assert made.staleness.tolist() == [0, 1, 1, 0, 1, 1]


def test_a_ratio_off_one_stops_the_run() -> None:
    with pytest.raises(GuardError, match=r"1\.0300"):
        Guards(GuardSettings()).check_updates({"policy/first_ratio": 1.03})


def test_reward_and_length_are_correlated_within_conditions() -> None:
    made = batch()
    assert "guard/length_correlation" not in length_metrics(made)
    longer = Sequences.pack([([1, 2, 3], [False, True, True]), ([1, 2], [False, True])])
    other = replace(made, grid=ActionGrid.of(longer), totals=torch.tensor([1.0, 3.0]))
    assert length_metrics(other)["guard/length_correlation"] == pytest.approx(-1.0)
    apart = tuple(
        t.model_copy(update={"condition": name})
        for t, name in zip(other.trajectories, ("helpful", "harmless"), strict=True)
    )
    assert length_metrics(replace(other, trajectories=apart)) == {}
