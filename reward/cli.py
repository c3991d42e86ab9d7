"""`cool-rlhf reward …`: train, evaluate and apply conditional reward models."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field
from rich.console import Console

from pretrain_core.cache import InputPath
from pretrain_core.runs import Run, RunSettings, StopSignal
from pretrain_core.settings import load
from reward.commands.data import data_app
from reward.commands.evaluate import Model, benchmark, calibrate, evaluate, evaluate_models
from reward.commands.registry import app as registry_app
from reward.commands.registry import export
from reward.commands.route import route_app
from reward.commands.serve import serve
from reward.commands.verify import verify
from reward.registry import ModelPath, resolve_model
from reward.settings import RewardTrainSettings

app = typer.Typer(
    help="Conditional reward models: one model, the preference chosen by a system prompt.",
    no_args_is_help=True,
)
app.command()(verify)
app.command("eval")(evaluate)
app.command()(calibrate)
app.command()(benchmark)
app.command()(export)
app.add_typer(registry_app, name="registry")
app.add_typer(data_app, name="data")
app.add_typer(route_app, name="route")
app.command()(serve)
console = Console(highlight=False)

Overrides = Annotated[
    list[str] | None, typer.Argument(help="settings to change, as key=value", show_default=False)
]


class RewardCommandSettings(RewardTrainSettings):
    """What `reward train` needs beside the recipe."""

    base: ModelPath = Field(
        description="SFT folder (fresh head), or reward model (continued; also registry:NAME)"
    )
    preferences: InputPath = Field(description="JSONL in TRL's conversational preference format")
    held_out: InputPath | None = Field(
        None, description="preferences to report accuracy on afterwards"
    )
    conditions: InputPath | None = Field(
        None, description="registry file; default: the packaged one"
    )
    out: InputPath | None = Field(None, description="default: `model` in the run directory")
    run: RunSettings = RunSettings()


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="settings file, e.g. configs/reward/tiny.yaml")],
    overrides: Overrides = None,
) -> None:
    """Train a reward model on preferences and save it with its conditions."""
    from reward.conditions import Conditions
    from reward.data import read_preferences
    from reward.trainer import RewardTrainingStopped, train_reward

    resolved = load(RewardCommandSettings, config, overrides or [])
    settings = resolved.value
    conditions = Conditions.load(settings.conditions)
    data = read_preferences(settings.preferences, conditions)
    console.print(f"{settings.preferences}: {data.summary()}")
    if not data.records:
        raise typer.BadParameter(f"{settings.preferences} holds no usable preference")
    recipe = RewardTrainSettings(
        **{f: getattr(settings, f) for f in RewardTrainSettings.model_fields}
    )
    run = _open_run(settings, resolved)
    run.record(quarantined=[vars(record) for record in data.quarantined])
    out = settings.out or run.path / "model"
    resume = ["cool-rlhf", "reward", "train", config, *(overrides or [])]
    with run, StopSignal([*resume, *_same_run(run, overrides)]) as stop, run.phase("reward"):
        try:
            train_reward(
                recipe,
                base=settings.base,
                train=data.records,
                out=out,
                conditions=conditions,
                run=run,
                parents={"preferences": settings.preferences},
                seed=settings.run.seed,
                stop=stop,
            )
        except RewardTrainingStopped as stopped:
            console.print(str(stopped))
            stop.announce()
    console.print(f"reward model: {out}")
    if settings.held_out is not None:
        evaluate_models([out], settings.held_out, run.path / "accuracy.json")
    console.print(f"next: cool-rlhf reward eval {out} PREFERENCES")


@app.command()
def score(
    model: Model,
    conversations: Annotated[
        Path, typer.Argument(help='JSONL of {"messages": […], "condition"?} ending with a reply')
    ],
    out: Annotated[Path | None, typer.Option(help="JSONL of scores; default: the terminal")] = None,
) -> None:
    """Raw scores of conversations, with the version of the model that gave them."""
    from reward.conditions import UnknownCondition
    from reward.inputs import RewardInputError
    from reward.model import RewardModel

    loaded = RewardModel.load(resolve_model(model))
    rows = read_conversations(conversations)
    inputs = []
    for number, row in rows:
        try:
            inputs.append(loaded.input(row["messages"], row.get("condition")))
        except (RewardInputError, UnknownCondition, ValueError) as error:
            raise typer.BadParameter(f"{conversations}:{number}: {error}") from error
    scores = loaded.score(inputs).tolist()
    lines = [
        json.dumps(
            {"line": number, "id": row.get("id"), "score": value, "rm_version": loaded.version}
        )
        for (number, row), value in zip(rows, scores, strict=True)
    ]
    if out is None:
        for line in lines:
            console.print(line, markup=False, soft_wrap=True)
    else:
        out.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        console.print(f"{len(lines)} scores: {out}")


def read_conversations(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line, record) of a JSONL file of conversations; names the first malformed line."""
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise typer.BadParameter(f"{path}:{number}: not JSON: {error.msg}") from error
        if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
            raise typer.BadParameter(f'{path}:{number}: expected {{"messages": […]}}')
        rows.append((number, row))
    if not rows:
        raise typer.BadParameter(f"{path}: no conversations")
    return rows


def _open_run(settings: RewardCommandSettings, resolved: Any) -> Run:
    """The named run if it was stopped before, else a new one."""
    named = settings.run.root / settings.run.name if settings.run.name else None
    if named is not None and (named / ".model.training").exists():
        run = Run.open(named)
        console.print(f"continuing {named}")
        return run
    parents = {"base": settings.base, "preferences": settings.preferences}
    return Run.create(settings.run, resolved, kind="reward", parents=parents)


def _same_run(run: Run, overrides: list[str] | None) -> list[str]:
    """The override that makes a repeated command continue this run, unless it is there."""
    given = any(override.startswith("run.name=") for override in overrides or [])
    return [] if given else [f"run.name={run.path.name}"]
