"""An online run from settings to report: what `cool-rlhf online run` and `resume` do."""

from pathlib import Path

from cool_rlhf.online.context import Context
from cool_rlhf.online.fast_path import check_prompts
from cool_rlhf.online.rounds import run_rounds
from cool_rlhf.online.settings import OnlineSettings
from cool_rlhf.online.summary import write_summary
from cool_rlhf.report import compose
from pretrain_core.runs import Run, StopSignal
from pretrain_core.settings import Resolved, load


def parents_of(settings: OnlineSettings) -> dict[str, Path]:
    """What a run of rounds starts from."""
    given = {
        "sft": settings.sft,
        "reward_model": settings.reward_model,
        "preferences": settings.preferences,
        "prompts": settings.prompts.path,
    }
    return {name: path for name, path in given.items() if path is not None}


def create_run(resolved: Resolved[OnlineSettings]) -> Run:
    """A fresh run directory with the lineage of what the run starts from."""
    settings = resolved.value
    return Run.create(settings.run, resolved, kind="online", parents=parents_of(settings))


def resume_run(path: Path) -> tuple[Run, OnlineSettings]:
    """An existing run with the settings saved in it."""
    return Run.open(path), load(OnlineSettings, path / "config.yaml").value


def continue_rounds(run: Run, settings: OnlineSettings) -> list[list[str]]:
    """Run what is left, write summary and report; returns the metric × stage table."""
    context = Context(settings, run)
    check_prompts(context)
    try:
        with StopSignal(f"cool-rlhf online resume {run.path}") as stop:
            run_rounds(context, stop)
    finally:
        context.close()
    table = write_summary(context)
    compose(run.path)
    return table
