"""One PPO run from settings to report: what `cool-rlhf ppo` does."""

from pathlib import Path

from actors.crew import Crew
from cool_rlhf.ppo.build import Trained, train_ppo
from cool_rlhf.ppo.inputs import check_inputs
from cool_rlhf.ppo.settings import PPOSettings
from cool_rlhf.report import compose
from pretrain_core.runs import Run, StopSignal
from pretrain_core.settings import Resolved


def run_ppo(resolved: Resolved[PPOSettings], resume: Path | None = None) -> tuple[Run, Trained]:
    """Check everything, start the actors, train, write the report."""
    settings = resolved.value
    check_inputs(settings)
    if resume is not None:
        run = Run.open(resume)
    else:
        parents = {"policy": settings.policy, "reward_model": settings.reward_model}
        run = Run.create(settings.run, resolved, kind="ppo", parents=parents)
    with StopSignal(f"cool-rlhf ppo --resume {run.path}") as stop:
        with run.phase("start actors"):
            crew = Crew.start(settings.crew)
        try:
            with run.phase("ppo"):
                trained = train_ppo(settings, run, crew, stop)
        finally:
            crew.close()
    compose(run.path)
    return run, trained
