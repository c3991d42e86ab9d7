"""A demo on a slow machine says so."""

from cool_rlhf.demo.run import cut_short


def test_a_reward_model_that_was_ended_by_its_seconds_is_named() -> None:
    training = {"ended_by": "time", "seconds": 90.2, "steps": 76, "planned_steps": 298}
    said = cut_short(training)
    assert said is not None
    assert "90 s after 76 of 298 steps" in said
    assert cut_short({**training, "ended_by": "data"}) is None
    assert cut_short({}) is None
