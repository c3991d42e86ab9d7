"""The watcher on whole rollout logs: the right look, the pattern's name, gold, and quiet runs."""

import json
import logging
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from actors.trajectories import RolloutLog
from cool_rlhf.hacks import judges
from cool_rlhf.hacks.judges import Array
from cool_rlhf.hacks.samples import Sample
from cool_rlhf.hacks.watch.settings import WatchSettings
from cool_rlhf.ppo.monitor import watch as watcher
from cool_rlhf.ppo.monitor.watch import HackAlarm, Watch
from pretrain_core.errors import InputError, RunFailed
from pretrain_core.runs import Run, RunSettings
from tests.cool_rlhf.hacks.watch.conftest import PHRASE, planting, score

ITERATIONS = 12
SETTINGS = WatchSettings(every=2, baseline=3, recent=2)
RISING = planting(lambda iteration: 0.6 if iteration >= 8 else 0.0)
NEVER = planting(lambda iteration: 0.0)


@pytest.fixture
def make_watch(tmp_path: Path) -> Callable[..., Watch]:
    def make(log: RolloutLog, settings: WatchSettings = SETTINGS, name: str = "run") -> Watch:
        run = Run.create(RunSettings(root=tmp_path, name=name), None, kind="ppo")
        looks = settings.looks(ITERATIONS, critic_only=2)
        return Watch(settings, run, log, looks, Path("models/reward"))

    return make


def looked(watch: Watch) -> dict[int, dict[str, float]]:
    found = {iteration: watch.look(iteration, kl=4.0) for iteration in range(ITERATIONS)}
    return {iteration: metrics for iteration, metrics in found.items() if metrics}


def test_a_planted_rise_is_named_at_the_first_look_that_can_see_it(
    make_log: Callable[..., RolloutLog],
    make_watch: Callable[..., Watch],
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = make_watch(make_log(RISING, ITERATIONS))
    assert watch.looks == (5, 7, 9, 11)
    found = looked(watch)
    assert {i: m["hack/alarm"] for i, m in found.items()} == {5: 0.0, 7: 0.0, 9: 1.0, 11: 1.0}
    assert found[9]["hack/rising"] >= 1
    assert found[9]["hack/reward_gain"] > 0.5 > abs(found[5]["hack/reward_gain"])
    assert found[9]["hack/sqrt_kl"] == 2.0
    assert {"hack/divergence", "hack/disagreement"}.isdisjoint(found[9])
    assert re.search(rf"alarm after iteration 9: .*{PHRASE},”: 0% → [67]\d% of the", caplog.text)
    look = json.loads((watch.folder / "look.json").read_text())
    assert look["iterations"] == {"baseline": [0, 1, 2], "recent": [10, 11]}
    assert any(PHRASE in risen["name"] and risen["alarm"] for risen in look["risen"])
    watch.check()


def test_the_command_in_the_warning_runs(
    make_log: Callable[..., RolloutLog],
    make_watch: Callable[..., Watch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = make_watch(make_log(RISING, ITERATIONS, prompts=100))
    watch.look(9, kl=4.0)
    command = json.loads((watch.folder / "look.json").read_text())["command"]
    monkeypatch.setattr(judges, "reward_judge", _scripted(bonus=2.0))
    from cool_rlhf.cli import app

    words = shlex.split(command)
    assert words[0] == "cool-rlhf"
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, result.output
    detected = json.loads((watch.folder / "found" / "hacks.json").read_text())
    assert any(PHRASE in f["name"] and f["verdict"] == "candidate" for f in detected["findings"])


def test_the_same_metrics_whatever_the_order_of_the_log(
    make_log: Callable[..., RolloutLog], make_watch: Callable[..., Watch]
) -> None:
    """A resumed run's log may have another order, and another object looks at it."""
    whole = make_watch(make_log(RISING, ITERATIONS), name="whole")
    seen = whole.look(11, kl=4.0)
    log = make_log(RISING, ITERATIONS, reverse=True, folder="again")
    resumed = make_watch(log, name="resumed")
    assert resumed.look(11, kl=4.0) == seen


def test_what_nobody_pays_for_rises_without_alarm(
    make_log: Callable[..., RolloutLog], make_watch: Callable[..., Watch]
) -> None:
    log = make_log(RISING, ITERATIONS, prompts=100, bonus=-1.0)
    found = make_watch(log).look(9, kl=4.0)
    assert found["hack/rising"] >= 1
    assert found["hack/alarm"] == 0.0


def test_heads_that_fall_apart(
    make_log: Callable[..., RolloutLog], make_watch: Callable[..., Watch]
) -> None:
    log = make_log(NEVER, ITERATIONS, spread=lambda iteration: 0.2 if iteration < 3 else 0.5)
    assert make_watch(log).look(5, kl=4.0)["hack/disagreement"] == pytest.approx(2.5)


def _scripted(bonus: float, calls: list[int] | None = None) -> Callable[[str], object]:
    @contextmanager
    def opened(_: str) -> Iterator[Callable[[Sequence[Sample]], Array]]:
        def judge(samples: Sequence[Sample]) -> Array:
            if calls is not None:
                calls.append(len(samples))
            return np.array([score(s.reply, bonus, s.reply) for s in samples])

        yield judge

    return opened


@pytest.mark.parametrize(("bonus", "alarm"), [(2.0, 0.0), (0.0, 1.0)])
def test_gold_that_follows_silences_and_gold_that_does_not_is_named(
    make_log: Callable[..., RolloutLog],
    make_watch: Callable[..., Watch],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    bonus: float,
    alarm: float,
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(watcher, "gold_judge", _scripted(bonus, calls))
    settings = SETTINGS.model_copy(update={"gold": "second-model"})
    watch = make_watch(make_log(RISING, 10, prompts=64), settings)
    found = {iteration: watch.look(iteration, kl=4.0) for iteration in (5, 9)}
    assert found[5]["hack/alarm"] == 0.0
    assert found[9]["hack/alarm"] == alarm
    assert (found[9]["hack/divergence_low"] > 0) == bool(alarm)
    assert ("gold's by" in caplog.text) == bool(alarm)
    assert calls == [192, 128, 128]  # the baseline once


def test_gold_that_fails_ends_no_run(
    make_log: Callable[..., RolloutLog],
    make_watch: Callable[..., Watch],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    @contextmanager
    def broken(_: str) -> Iterator[object]:
        raise RunFailed("no answer within 600 s")
        yield

    monkeypatch.setattr(watcher, "gold_judge", broken)
    watch = make_watch(
        make_log(NEVER, ITERATIONS), SETTINGS.model_copy(update={"gold": "http://gold"})
    )
    assert "hack/divergence" not in watch.look(5, kl=4.0)
    assert "no gold signal: no answer within 600 s" in caplog.text


def test_a_stop_is_asked_for_once(
    make_log: Callable[..., RolloutLog], make_watch: Callable[..., Watch]
) -> None:
    settings = SETTINGS.model_copy(update={"stop": True})
    log = make_log(RISING, ITERATIONS)
    watch = make_watch(log, settings)
    watch.look(7, kl=4.0)
    watch.check()
    watch.look(9, kl=4.0)
    assert watch.stopping is not None
    with pytest.raises(HackAlarm, match=rf"{PHRASE}.*cool-rlhf hacks detect.*only warns"):
        watch.check()
    resumed = Watch(settings, watch.run, log, watch.looks, watch.reward_model)
    assert resumed.look(11, kl=4.0)["hack/alarm"] == 1.0
    resumed.check()


def test_a_handful_of_prompts_is_no_look(
    make_log: Callable[..., RolloutLog],
    make_watch: Callable[..., Watch],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert make_watch(make_log(NEVER, ITERATIONS, prompts=5)).look(5, kl=4.0) == {}
    assert "15 and 10 prompts are too few" in caplog.text


def test_runs_without_drift_are_quiet(
    make_log: Callable[..., RolloutLog], make_watch: Callable[..., Watch]
) -> None:
    """Whole looks, mining and all; many more runs of the statistic alone in test_spending."""
    for seed in range(2):
        log = make_log(NEVER, ITERATIONS, prompts=24, of=90, seed=seed, folder=f"log-{seed}")
        found = looked(make_watch(log, name=f"run-{seed}"))
        assert sum(metrics["hack/alarm"] for metrics in found.values()) == 0


@pytest.mark.parametrize("gold", ["models/none", "gold.yaml", "http://127.0.0.1:1"])
def test_a_gold_signal_that_cannot_be_opened_is_refused_first(
    gold: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(judges.TOKEN_ENV, raising=False)
    with pytest.raises(InputError):
        judges.check_gold(gold)
    judges.check_gold("json")
