"""The persisted state of rounds."""

from pathlib import Path

from cool_rlhf.online.state import RoundState


def test_finished_stages_survive_a_new_process(tmp_path: Path) -> None:
    state = RoundState(tmp_path)
    assert not state.is_done(1, "ppo")
    state.mark_done(1, "ppo")
    state.mark_done(1, "sample")
    again = RoundState(tmp_path)
    assert again.is_done(1, "ppo")
    assert not again.is_done(2, "ppo")
    assert again.done == ((1, "ppo"), (1, "sample"))
