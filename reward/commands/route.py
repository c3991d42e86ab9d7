"""`cool-rlhf reward route …`: train, apply and evaluate the router from queries to conditions."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pretrain_core.runs.files import rewrite_lines, write_json

route_app = typer.Typer(help="Router: which condition a query is read under.", no_args_is_help=True)
console = Console(highlight=False)

Router = Annotated[Path, typer.Argument(help="router folder", show_default=False)]
Registry = Annotated[Path | None, typer.Option(help="registry file; default: the packaged one")]


@route_app.command()
def train(
    out: Annotated[Path, typer.Argument(help="folder to write")],
    data: Annotated[
        list[Path] | None,
        typer.Argument(help='JSONL of {"text" | "prompt", "condition"}; default: own templates'),
    ] = None,
    conditions: Registry = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="below: fall-back")] = 0.5,
    fallback: Annotated[str, typer.Option(help="condition of queries one cannot tell")] = "default",
    queries: Annotated[int, typer.Option(min=20, help="drawn per condition from templates")] = 200,
    seed: int = 0,
) -> None:
    """Train a router and report on queries that it was not trained on."""
    from reward.conditions import Conditions
    from reward.conditions.router import train_router
    from reward.conditions.templates import draw_queries

    registry = Conditions.load(conditions)
    if data:
        examples = [example for file in data for example in _examples(file, registry)]
    else:
        console.print("no data given: queries drawn from templates; weak beyond such queries")
        examples = [e for e in draw_queries(queries, seed) if e.condition in registry]
    router, report = train_router(
        examples, registry, threshold=threshold, fallback=fallback, seed=seed
    )
    router.save(out, report)
    _print(report)
    console.print(f"router: {out}")
    console.print(f"next: cool-rlhf reward route apply {out} IN OUT")


@route_app.command("apply")
def apply_(
    router: Router,
    source_file: Annotated[Path, typer.Argument(metavar="IN", help="JSONL of prompts or pairs")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="JSONL to write")],
    default: Annotated[
        str | None, typer.Option(help="the data set's condition: asked before the router")
    ] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    conditions: Registry = None,
) -> None:
    """Give every record its one condition: its own field, else --default, else the router's."""
    from reward.conditions import Conditions, UnknownCondition
    from reward.conditions.router import Router, choose
    from reward.conditions.routing import RoutingError

    registry = Conditions.load(conditions)
    loaded = Router.load(router)
    if threshold is not None:
        loaded = replace(loaded, threshold=threshold)
    rows: list[dict[str, Any]] = []
    aside: list[dict[str, Any]] = []
    chosen_by: Counter[str] = Counter()
    for line, record in _records(source_file, aside):
        try:
            routed = choose(record, default, loaded)
            registry.get(routed.condition)
        except (RoutingError, UnknownCondition) as error:
            aside.append({"line": line, "reason": str(error)})
            continue
        chosen_by[routed.by] += 1
        rows.append({**record, "condition": routed.condition})
    rewrite_lines(out, rows)
    listed = ", ".join(f"{n} by {by}" for by, n in chosen_by.items()) or "none"
    console.print(f"{len(rows)} records: {out} (condition: {listed})")
    _set_aside(out, aside)
    table = Table("condition", "records")
    for name, count in Counter(row["condition"] for row in rows).most_common():
        table.add_row(name, str(count))
    console.print(table)


@route_app.command()
def evaluate(
    router: Router,
    data: Annotated[Path, typer.Argument(help='JSONL of {"text" | "prompt", "condition"}')],
    conditions: Registry = None,
    out: Annotated[Path | None, typer.Option(help="write the report as JSON")] = None,
) -> None:
    """Accuracy, calibration and confusion matrix on queries of known condition."""
    from reward.conditions import Conditions
    from reward.conditions.router import Router, evaluate_router

    report = evaluate_router(Router.load(router), _examples(data, Conditions.load(conditions)))
    _print(report)
    if out is not None:
        write_json(out, report)
        console.print(f"report: {out}")


def _records(path: Path, aside: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    from reward.readers import Row, rows_of

    found = []
    for row in rows_of(path):
        if isinstance(row, Row) and isinstance(row.record, dict):
            found.append((row.line, row.record))
        else:
            reason = "not an object" if isinstance(row, Row) else row.reason
            aside.append({"line": row.line, "reason": reason})
    return found


def _examples(path: Path, conditions: Any) -> list[Any]:
    """Labelled queries; records without a query or a known condition are counted and named."""
    from reward.conditions import UnknownCondition
    from reward.conditions.router import choose
    from reward.conditions.routing import Example, RoutingError, query_text

    aside: list[dict[str, Any]] = []
    examples = []
    for line, record in _records(path, aside):
        try:
            routed = choose(record)
            examples.append(Example(query_text(record), conditions.get(routed.condition).name))
        except (RoutingError, UnknownCondition) as error:
            aside.append({"line": line, "reason": str(error)})
    if aside:
        first = f"line {aside[0]['line']}: {aside[0]['reason']}"
        console.print(f"{path}: {len(aside)} records left out ({first})")
    if not examples:
        raise typer.BadParameter(f"{path}: no query with a condition")
    return examples


def _set_aside(out: Path, aside: list[dict[str, Any]]) -> None:
    if aside:
        file = out.with_name(out.name.removesuffix(".jsonl") + ".quarantined.jsonl")
        rewrite_lines(file, aside)
        console.print(f"{len(aside)} records left out: {file}")


def _print(report: dict[str, Any]) -> None:
    sure = report["accuracy_when_sure"]
    console.print(
        f"{report['queries']} held-out queries: accuracy {report['accuracy']:.3f}, "
        f"{'-' if sure is None else f'{sure:.3f}'} where sure, "
        f"{report['fallback_share']:.1%} to the fall-back, "
        f"calibration error {report['calibration_error']:.3f}"
    )
    names, counts = report["confusion"]["names"], report["confusion"]["counts"]
    numbers = [str(number) for number in range(1, len(names) + 1)]
    table = Table("true \\ found", *numbers, title="confusion matrix")
    for number, name, row in zip(numbers, names, counts, strict=True):
        table.add_row(f"{number} {name}", *(str(n) if n else "·" for n in row))
    console.print(table)
