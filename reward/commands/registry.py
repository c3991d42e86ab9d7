"""`cool-rlhf reward registry …` and `reward export`: keep reward models, and give them away."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pretrain_core.runs import read_json
from reward.registry import DEFAULT_ROOT, Registry, RegistryError, names, resolve_model

app = typer.Typer(help="Versions of reward models, promoted and rolled back.", no_args_is_help=True)
console = Console(highlight=False)

Name = Annotated[str, typer.Argument(help="name in the registry", show_default=False)]
Root = Annotated[str, typer.Option("--registry", help="folder of the registry")]
Metrics = Annotated[Path | None, typer.Option(help="JSON of `reward eval --out` of this model")]
Reason = Annotated[str, typer.Option(help="kept in the journal")]


@app.command()
def register(
    folder: Annotated[Path, typer.Argument(help="reward-model folder", show_default=False)],
    name: Annotated[str, typer.Option(help="name to register it under")],
    data: Annotated[
        list[Path] | None, typer.Option(help="a file it was trained on, hashed; repeatable")
    ] = None,
    metrics: Metrics = None,
    gate: Annotated[Path | None, typer.Option(help="JSON with the gate's verdict")] = None,
    registry: Root = DEFAULT_ROOT,
) -> None:
    """Copy a model into the registry as the next version of a name."""
    from reward.card import read_card
    from reward.model_card import check_metrics

    measured = _object(metrics)
    if metrics is not None:
        check_metrics(read_card(folder), measured)
    version = Registry(name, registry).register(
        folder,
        data={path.name: path for path in data or []},
        metrics=measured,
        gate=_object(gate),
    )
    console.print(f"{name} version {version.number} ({version.rm_version})")
    console.print(f"next: cool-rlhf reward registry promote {name} {version.number}")


@app.command("list")
def list_versions(registry: Root = DEFAULT_ROOT) -> None:
    """All names with their versions."""
    table = Table("name", "version", "model", "accuracy", "gate", "registered", "")
    for name in names(registry):
        entry = Registry(name, registry)
        promoted = entry.promoted
        for version in entry.versions.values():
            table.add_row(
                name,
                str(version.number),
                version.rm_version,
                _accuracy(version.metrics),
                str(version.gate.get("verdict", "–")),
                version.registered,
                "promoted" if version.number == promoted else "",
            )
    console.print(table)


@app.command()
def show(
    name: Name,
    version: Annotated[int | None, typer.Argument(help="default: the promoted one")] = None,
    registry: Root = DEFAULT_ROOT,
) -> None:
    """Lineage of a version and the journal of its name; checks the files' hashes."""
    entry = Registry(name, registry)
    found = entry.get(version)
    table = Table("", "", title=f"{name} version {found.number}")
    rows = [
        ("path", str(entry.path(found.number))),
        ("model", found.rm_version),
        ("conditions", found.conditions_hash),
        ("registered", found.registered),
        ("accuracy", _accuracy(found.metrics)),
        *((f"parent {key}", value) for key, value in found.parents.items()),
        *((f"data {key}", value) for key, value in found.data.items()),
        *((f"gate {key}", str(value)) for key, value in found.gate.items()),
        *((f"file {key}", value) for key, value in found.files.items()),
    ]
    for row in rows:
        table.add_row(*row)
    console.print(table)
    journal = Table("time", "event", "version", "reason", title="journal")
    for event in entry.events():
        number = event["number"] if "number" in event else event["version"]["number"]
        journal.add_row(event["time"], event["event"], str(number), event.get("reason", ""))
    console.print(journal)


@app.command()
def promote(
    name: Name,
    version: Annotated[int, typer.Argument(help="number of the version")],
    reason: Reason = "",
    registry: Root = DEFAULT_ROOT,
) -> None:
    """Make a version the one that registry:NAME means."""
    found = Registry(name, registry).promote(version, reason)
    console.print(f"{name}: version {found.number} ({found.rm_version}) is promoted")


@app.command()
def rollback(name: Name, reason: Reason = "", registry: Root = DEFAULT_ROOT) -> None:
    """Go back to the version that was promoted before."""
    found = Registry(name, registry).rollback(reason)
    console.print(f"{name}: back to version {found.number} ({found.rm_version})")


def export(
    model: Annotated[str, typer.Argument(help="reward-model folder, or registry:NAME[@VERSION]")],
    out: Annotated[Path, typer.Argument(help="new folder")],
    metrics: Metrics = None,
    vllm: Annotated[bool, typer.Option("--vllm", help="compare with vLLM's scores too")] = False,
) -> None:
    """A Hugging Face folder with model card and chat template, its scores compared with ours."""
    from reward.export import export_reward_model

    measured = None if metrics is None else _object(metrics)
    export_reward_model(resolve_model(model), out, measured, vllm=vllm)
    programs = "transformers and vLLM" if vllm else "transformers"
    console.print(f"{out}: scores agree with {programs} within 1e-4")


def _object(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise RegistryError(f"{path}: expected a JSON object")
    return content


def _accuracy(metrics: Any) -> str:
    groups = metrics.get("accuracy", {}).get("all", {})
    return next(
        (f"{i['mean']:.3f} [{i['low']:.3f}, {i['high']:.3f}]" for i in groups.values()), "–"
    )
