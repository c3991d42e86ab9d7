"""Actors killed while a real run is under way: it goes on by itself, to the same weights."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from actors.crew import Crew
from actors.group import Group
from actors.placement import RaySession, RoleResources
from actors.rollout.no_engine import NoEngine
from cool_rlhf.ppo.build import train_ppo
from cool_rlhf.ppo.debug.replay import copy_start
from cool_rlhf.ppo.settings import PPOSettings
from cool_rlhf.report.divergence import first_divergence
from pretrain_core.errors import RunFailed
from pretrain_core.runs import Run, StopSignal
from pretrain_core.settings import load
from tests.cool_rlhf.conftest import Artefacts
from tests.cool_rlhf.processes import SHORT

NANO = [
    *SHORT,
    "iterations=6",
]


@pytest.fixture(scope="module")
def settings(artefacts: Artefacts) -> Iterator[PPOSettings]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COOL_RLHF_CACHE", str(artefacts.cache))
        yield load(PPOSettings, "configs/ppo/tiny.yaml", NANO).value


@pytest.fixture(scope="module")
def crew(settings: PPOSettings, ray_session: RaySession) -> Iterator[Crew]:
    made = Crew(settings.crew, ray_session.borrowed(), engines=True)
    yield made
    made.close()


def trained(settings: PPOSettings, crew: Crew, folder: Path, name: str) -> Run:
    run = Run.create(
        settings.run.model_copy(update={"root": folder, "name": name}), None, kind="ppo"
    )
    with StopSignal("cool-rlhf ppo --resume …") as stop:
        train_ppo(settings, run, crew, stop)
    return run


def reproducible(run: Run) -> list[dict[str, float]]:
    volatile = ("timing_s/", "perf/")
    return [{k: v for k, v in row.items() if not k.startswith(volatile)} for row in run.metrics()]


def process_of(group: Group) -> int:
    pid: int = group.only(0, "ping").result()
    return pid


def kill(crew: Crew, role: str) -> None:
    """SIGKILL to the process that has the role by now."""
    os.kill(process_of(getattr(crew, role).group), signal.SIGKILL)


def when(ready: Callable[[], bool], do: Callable[[], None]) -> threading.Thread:
    """A thread that acts once something is so."""

    def wait() -> None:
        while not ready():
            time.sleep(0.001)
        do()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def killed(settings: PPOSettings, crew: Crew, folder: Path, kills: Mapping[int, str]) -> Run:
    """A run whose roles are killed once samples of an iteration are there."""
    log = folder / "killed/rollouts"
    threads = []
    for iteration, role in kills.items():
        file = log / f"iteration-{iteration:06d}.jsonl"
        threads.append(when(file.exists, partial(kill, crew, role)))
    run = trained(settings, crew, folder, "killed")
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    return run


def undisturbed_and_killed(
    settings: PPOSettings, crew: Crew, folder: Path, kills: Mapping[int, str]
) -> tuple[Run, Run]:
    """The same run twice, the second time with deaths."""
    whole = trained(settings, crew, folder, "whole")
    return whole, killed(settings, crew, folder, kills)


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_an_engine_that_is_killed_is_started_again_and_changes_nothing(
    settings: PPOSettings,
    crew: Crew,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = settings.model_copy(update={"iterations": 3})
    with caplog.at_level(logging.WARNING):
        whole, other = undisturbed_and_killed(short, crew, tmp_path, {1: "rollout"})
    assert "start again" in caplog.text
    assert reproducible(other) == reproducible(whole)
    assert first_divergence(whole.path, other.path) is None

    # Time travel: the same run again from its samples alone, with no engine to ask.
    again = Run.create(
        short.run.model_copy(update={"root": tmp_path, "name": "again"}), None, kind="ppo"
    )
    copy_start(whole, again, last=2)
    with monkeypatch.context() as patch, StopSignal("") as stop:
        patch.setattr(crew, "rollout", NoEngine())
        train_ppo(short, again, crew, stop)
    assert len(again.metrics()) == 3
    assert first_divergence(whole.path, again.path) is None
    assert "sync/probe_gap" not in again.metrics()[-1]


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_trainers_that_are_killed_go_back_to_the_checkpoint_and_change_nothing(
    settings: PPOSettings, crew: Crew, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kills = {1: "rollout", 3: "policy"}
    with caplog.at_level(logging.WARNING):
        whole, other = undisturbed_and_killed(settings, crew, tmp_path, kills)
    assert "from the newest checkpoint" in caplog.text
    assert reproducible(other) == reproducible(whole)
    weights = [
        load_file(run.checkpoints / "000005/policy/model.safetensors") for run in (whole, other)
    ]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_roles_in_one_process_learn_as_those_apart_and_die_together(
    settings: PPOSettings, crew: Crew, ray_session: RaySession, tmp_path: Path
) -> None:
    apart = trained(settings, crew, tmp_path, "apart")
    together = settings.crew.model_copy(update={"colocated": RoleResources()})
    hosted = Crew(together, ray_session.borrowed(), engines=True)
    try:
        run = killed(settings, hosted, tmp_path, {3: "reference"})
    finally:
        hosted.close()
    assert reproducible(run) == reproducible(apart)
    assert first_divergence(apart.path, run.path) is None


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_async_goes_on_after_deaths_and_learns_from_no_token_that_is_too_old(
    artefacts: Artefacts,
    ray_session: RaySession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("COOL_RLHF_CACHE", str(artefacts.cache))
    ahead = load(PPOSettings, "configs/ppo/async-tiny.yaml", NANO).value
    crew = Crew(ahead.crew, ray_session.borrowed(), engines=True)
    with caplog.at_level(logging.WARNING):
        rows = killed(ahead, crew, tmp_path, {2: "rollout", 5: "policy"}).metrics()
    crew.close()
    assert caplog.text.count("from the newest checkpoint") == 2
    assert [row["step"] for row in rows] == list(range(6))
    assert max(row["rollout/staleness_max"] for row in rows) == ahead.layout.max_staleness == 1


def test_what_dies_again_and_again_ends_the_run_with_its_cause(
    settings: PPOSettings, crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarts: list[int] = []

    def restart() -> None:
        restarts.append(1)

    def dies(*_: object, **__: object) -> None:
        os.kill(process_of(crew.scorer.group), signal.SIGKILL)
        crew.scorer.group.only(0, "ping").result()

    monkeypatch.setattr(crew, "restart", restart)
    monkeypatch.setattr("cool_rlhf.ppo.trainer.Trainer.train", dies)
    crew.models = crew.models or object()  # type: ignore[assignment]
    with pytest.raises(RunFailed, match="scorer rank 0 failed"):
        trained(settings, crew, tmp_path, "again")
    assert len(restarts) == settings.crew.restarts
