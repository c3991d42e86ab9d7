"""Without engines: train on the samples of a run's log, or compute a run again and compare."""

import logging
import shutil
from pathlib import Path

from actors.crew import Crew
from cool_rlhf.ppo.build import Trained, train_ppo
from cool_rlhf.ppo.inputs import check_inputs
from cool_rlhf.ppo.settings import PPOSettings
from cool_rlhf.report import compose
from cool_rlhf.report.divergence import Divergence, first_divergence
from pretrain_core.errors import InputError
from pretrain_core.runs import Run, StopSignal
from pretrain_core.settings import Resolved, load

logger = logging.getLogger(__name__)


def train_on(resolved: Resolved[PPOSettings], source: Path) -> tuple[Run, Trained]:
    """A new run that samples nothing: its rollout log is a copy of `source`'s.

    Raises RolloutError, at the first sample that the log has not got, for settings that draw
    others: prompts, their number, replies to each, and the run's seed decide.
    """
    settings = resolved.value
    check_inputs(settings)
    logged = Run.open(source).rollouts
    parents = {"policy": settings.policy, "reward_model": settings.reward_model}
    run = Run.create(settings.run, resolved, kind="ppo", parents=parents)
    shutil.copytree(logged, run.rollouts, dirs_exist_ok=True)
    return run, _without_engines(settings, run)


def replay(source: Path, last: int) -> tuple[Run, Divergence | None]:
    """Compute iterations up to `last` of a run again, beside it, from its samples.

    Starts from the newest checkpoint before `last` that has its training state, else from the
    beginning. Returns the new run, whose last checkpoint holds the policy of that iteration, and
    the first quantity that came out otherwise. Raises InputError for an iteration that the run
    has not done.
    """
    whole = Run.open(source)
    done = len(whole.metrics())
    if not 0 <= last < done:
        raise InputError(f"iteration {last}: {source} has iterations 0 to {done - 1}")
    resolved = load(PPOSettings, source / "config.yaml")
    name = f"{whole.path.name}-replay-{last}"
    settings = resolved.value.model_copy(
        update={
            "iterations": last + 1,
            "run": resolved.value.run.model_copy(update={"name": name, "seed": whole.seed}),
            "hacks": resolved.value.hacks.model_copy(update={"every": 0}),
            "evaluation": None,
        }
    )
    check_inputs(settings)
    run = Run.create(settings.run, resolved, kind="ppo")
    copy_start(whole, run, last)
    _without_engines(settings, run)
    return run, first_divergence(whole.path, run.path)


def copy_start(whole: Run, run: Run, last: int) -> None:
    """The samples up to `last`, and the newest training state from before it."""
    run.rollouts.mkdir(parents=True, exist_ok=True)
    for file in sorted(whole.rollouts.glob("iteration-*.jsonl")):
        if int(file.stem.rpartition("-")[2]) <= last:
            shutil.copyfile(file, run.rollouts / file.name)
    states = [path.parent for path in whole.checkpoints.glob("[0-9]*/policy_state")]
    usable = [folder for folder in states if int(folder.name) < last]
    if usable:
        newest = max(usable)
        logger.info("replay starts after iteration %s", newest.name)
        shutil.copytree(newest, run.checkpoints / newest.name)


def _without_engines(settings: PPOSettings, run: Run) -> Trained:
    with StopSignal("the same command") as stop:
        crew = Crew.start(settings.crew, engines=False)
        try:
            trained = train_ppo(settings, run, crew, stop)
        finally:
            crew.close()
    compose(run.path)
    return trained
