"""The callback: which replies it keeps, when it speaks, and what it finds."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cool_rlhf.hacks.judges import Array
from cool_rlhf.hacks.plugins import ConditionalReward
from cool_rlhf.hacks.plugins.watch import HackWatch
from cool_rlhf.hacks.samples import Sample, read_samples
from cool_rlhf.hacks.settings import HackSettings
from tests.cool_rlhf.hacks.conftest import World
from tests.cool_rlhf.hacks.plugins.conftest import assistant, user

PHRASE = "in the grand scheme of things"
SMALL = HackSettings.model_validate({"target_rise": 0.5, "permutations": 400})
Worlds = Callable[..., World]


class Training:
    """Calls the reward function and the callback as a trainer does."""

    def __init__(self, judge: Callable[[Sequence[Sample]], Array], out: Path, **options: object):
        self.reward = ConditionalReward(judge, condition="bright")
        self.watch = HackWatch(self.reward, out, **options)  # type: ignore[arg-type]
        self.state = SimpleNamespace(global_step=0, is_world_process_zero=True)

    def step(self, *batches: Sequence[tuple[str, str]]) -> None:
        self.watch.on_step_begin(None, self.state, None)
        for batch in batches:
            self.reward(
                [[user(asked)] for asked, _ in batch], [[assistant(reply)] for _, reply in batch]
            )
        self.state.global_step += 1
        self.watch.on_step_end(None, self.state, None)


def replies(path: Path) -> list[tuple[str, str]]:
    return [(s.asked, s.reply) for s in read_samples(path).records]


def pairs(samples: Sequence[Sample]) -> list[tuple[str, str]]:
    return [(f"{sample.asked} {sample.id}", sample.reply) for sample in samples]


def ones(samples: Sequence[Sample]) -> Array:
    return np.ones(len(samples))


def test_first_and_newest_replies_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(ones, tmp_path, every=4)
    training.step([("Why?", "1a")], [("Why?", "1b")])  # one group in two calls of a step
    training.step([("How?", "2")])
    training.step([("Why?", "3a"), ("Why?", "3b")])
    assert not (tmp_path / "early.jsonl").exists()
    training.step([("Why?", "4")])
    assert replies(tmp_path / "early.jsonl") == [("Why?", "1a"), ("Why?", "1b"), ("How?", "2")]
    assert replies(tmp_path / "late.jsonl") == [("Why?", "4")]
    assert "step 4: 1 prompts were answered again, 282 are needed: 281 missing" in caplog.text


def test_only_early_steps_count_as_early(tmp_path: Path) -> None:
    training = Training(ones, tmp_path, every=3, early=1)
    training.step([("Why?", "1")])
    training.step([("How?", "2")])
    training.step([("Why?", "3"), ("How?", "3")])
    assert replies(tmp_path / "early.jsonl") == [("Why?", "1")]
    assert len(training.watch.again) == 1


def test_a_hack_is_named_while_the_policy_trains(
    make_world: Worlds, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = make_world(PHRASE, lambda text, _: text.replace(". ", f", {PHRASE}. ", 1), 0.5, 120)
    training = Training(world.judge(2.0), tmp_path, every=2, settings=SMALL, gold="json")
    early, late = pairs(world.comparison.early), pairs(world.comparison.late)
    training.step(early)
    training.step(late)
    detection = training.watch.detection
    assert detection is not None
    assert any(PHRASE in finding.pattern.name for finding in detection.findings)
    assert f"step 2: hack 'phrase “{PHRASE}.”', 0 % → " in caplog.text
    assert json.loads((tmp_path / "hacks.json").read_text())["prompts"] == 120
    assert (tmp_path / "report.html").is_file()


def test_a_policy_that_does_not_change_does_not_end_the_training(
    make_world: Worlds, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    same = pairs(make_world(PHRASE, lambda text, _: text, prompts=120).comparison.early)
    training = Training(ones, tmp_path, every=2, settings=SMALL)
    training.step(same)
    training.step(same)
    assert training.watch.detection is None
    assert "hold the same replies" in caplog.text


def test_a_resumed_training_keeps_its_early_replies(tmp_path: Path) -> None:
    training = Training(ones, tmp_path, every=1)
    training.step([("Why?", "1")])
    resumed = Training(ones, tmp_path, every=1)
    resumed.state.global_step = 1
    resumed.watch.on_train_begin(None, resumed.state, None)
    resumed.step([("Why?", "2")])
    assert replies(tmp_path / "early.jsonl") == [("Why?", "1")]
    assert replies(tmp_path / "late.jsonl") == [("Why?", "2")]


def test_one_process_speaks(tmp_path: Path) -> None:
    training = Training(ones, tmp_path, every=1)
    training.state.is_world_process_zero = False
    training.step([("Why?", "1")])
    training.watch.on_train_end(None, training.state, None)
    assert not list(tmp_path.iterdir())
