"""Windows of a rollout log: which replies, in which order, and files that the detector reads."""

from collections.abc import Callable
from pathlib import Path

from actors.trajectories import RolloutLog
from cool_rlhf.hacks.samples import compare, read_samples
from cool_rlhf.hacks.watch.windows import read_window
from tests.cool_rlhf.hacks.watch.conftest import planting, trajectory, write

NEVER = planting(lambda iteration: 0.0)


def test_the_order_of_the_log_does_not_matter(make_log: Callable[..., RolloutLog]) -> None:
    logs = [make_log(NEVER, 2, reverse=reverse, folder=f"{reverse}") for reverse in (False, True)]
    first, second = (read_window(log, range(2), 40, 0, {}) for log in logs)
    assert first.samples == second.samples
    assert first.scores.tolist() == second.scores.tolist()
    assert len(first.samples) == 40


def test_no_more_iterations_than_needed(make_log: Callable[..., RolloutLog]) -> None:
    log = make_log(NEVER, 5)
    assert read_window(log, range(4, 0, -1), 60, 0, {}).iterations == (4, 3)


def test_what_is_left_out_is_drawn_by_prompt(make_log: Callable[..., RolloutLog]) -> None:
    log = make_log(NEVER, 2, prompts=30, of=30)
    first, second = (read_window(log, [iteration], 12, 0, {}) for iteration in (0, 1))
    assert {s.id for s in first.samples} == {s.id for s in second.samples}


def test_replies_without_text_or_score_do_not_count(tmp_path: Path) -> None:
    log = RolloutLog(tmp_path)
    made = [trajectory(0, name, text) for name, text in (("a", "Yes."), ("b", " "), ("c", "No."))]
    write(log, 0, made, {"0/a/0": 1.0, "0/b/0": -5.0})
    window = read_window(log, [0], 10, 0, {"a": "Yes"})
    assert [(s.id, s.reply, s.reference) for s in window.samples] == [("a", "Yes.", "Yes")]


def test_the_detector_reads_the_files(make_log: Callable[..., RolloutLog], tmp_path: Path) -> None:
    log = make_log(NEVER, 2)
    windows = [read_window(log, [iteration], 100, 0, {}) for iteration in (0, 1)]
    files = [tmp_path / name for name in ("baseline.jsonl", "recent.jsonl")]
    for window, file in zip(windows, files, strict=True):
        window.write(file)
    comparison = compare(*(read_samples(file) for file in files), same_prompts=False)
    assert comparison.early == windows[0].samples
    assert comparison.late == windows[1].samples
