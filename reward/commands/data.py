"""`cool-rlhf reward data …`: convert preference files, and check what is in them."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from pretrain_core.runs.files import rewrite_lines, write_json
from reward.readers import READERS

data_app = typer.Typer(help="Preference files: convert and check.", no_args_is_help=True)
console = Console(highlight=False)

Format = Annotated[str, typer.Option(help=f"auto, {', '.join(READERS)}")]
Registry = Annotated[Path | None, typer.Option(help="registry file; default: the packaged one")]
DefaultCondition = Annotated[
    str | None, typer.Option(help="for records without a condition of their own")
]
Source = Annotated[str | None, typer.Option(help="for records without a source of their own")]
Pairs = Annotated[
    Literal["all", "adjacent"], typer.Option(help="pairs of a ranking or an unpaired prompt")
]
Split = Annotated[str | None, typer.Option(help="split of a dataset folder")]


@data_app.command()
def convert(
    source_file: Annotated[Path, typer.Argument(metavar="IN", help="file or dataset folder")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="JSONL to write")],
    format: Format = "auto",
    condition: DefaultCondition = None,
    source: Source = None,
    pairs: Pairs = "all",
    split: Split = None,
    conditions: Registry = None,
) -> None:
    """Write any known preference format as TRL's; what is set aside goes to a file beside it."""
    from reward.data import write_preferences

    found = _read(source_file, conditions, format, condition, source, pairs, split)
    console.print(f"{source_file}: read as {found.format}: {found.why}")
    aside = out.with_name(out.name.removesuffix(".jsonl") + ".quarantined.jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)
    if found.quarantined:
        rewrite_lines(aside, [vars(record) for record in found.quarantined])
        console.print(f"{len(found.quarantined)} quarantined: {aside}")
    else:
        aside.unlink(missing_ok=True)
    if not found.records:
        raise typer.BadParameter(f"{source_file} holds no usable preference: {found.summary()}")
    write_preferences(out, found.records)
    console.print(f"{len(found.records)} preferences: {out}")
    console.print(f"next: cool-rlhf reward data check {out}")


@data_app.command()
def check(
    files: Annotated[list[Path], typer.Argument(help="files or dataset folders")],
    format: Format = "auto",
    condition: DefaultCondition = None,
    source: Source = None,
    pairs: Pairs = "all",
    split: Split = None,
    conditions: Registry = None,
    model: Annotated[
        Path | None, typer.Option(help="reward model: tokens, max_length, noise by its states")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="tokenizer folder, for tokens")] = None,
    max_length: Annotated[int | None, typer.Option(help="tokens of one whole input")] = None,
    folds: Annotated[int, typer.Option(help="folds of the label-noise estimate; 0: none")] = 5,
    top: Annotated[int, typer.Option(help="most doubted labels to list")] = 10,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="write the report as JSON")] = None,
) -> None:
    """What is in preference files: counts, lengths, duplicates, contradictions, label noise."""
    from reward.model import RewardModel
    from reward.quality.noise import label_noise
    from reward.quality.report import check as report_on

    scorer = RewardModel.load(model) if model is not None else None
    registry = scorer.conditions if scorer is not None else None
    ruler = _ruler(scorer, tokenizer, max_length, conditions)
    sets = [
        (str(file), _read(file, conditions, format, condition, source, pairs, split, registry))
        for file in files
    ]
    report = report_on(sets, ruler, seed)
    for title, header, rows in report.tables():
        _print(title, header, rows)
    content = report.as_dict()
    if folds:
        records = [record for _, found in sets for record in found.records]
        origins = [origin for _, found in sets for origin in found.origins]
        noise = label_noise(records, folds=folds, seed=seed, model=scorer)
        console.print(f"label noise: {noise.sentence()}")
        suspects = [
            {
                "record": origins[index],
                "id": records[index].id,
                "condition": records[index].condition,
                "margin": float(noise.margins[index]),
                "doubt": float(noise.doubt[index]) if noise.rate is not None else None,
                "chosen": _beginning(records[index].chosen),
                "rejected": _beginning(records[index].rejected),
            }
            for index in noise.suspects[:top]
        ]
        content["noise"] = {**noise.as_dict(), "suspects": suspects}
        rows = [
            [Path(s["record"]).name, f"{s['margin']:.2f}", s["chosen"], s["rejected"]]
            for s in suspects
        ]
        _print(
            "labels that the light model doubts most",
            ["record", "margin", "chosen", "rejected"],
            rows,
        )
    if out is not None:
        write_json(out, content)
        console.print(f"report: {out}")


def _read(
    path: Path,
    conditions: Path | None,
    format: str,
    condition: str | None,
    source: str | None,
    pairs: Literal["all", "adjacent"],
    split: str | None,
    registry: Any = None,
) -> Any:
    from reward.conditions import Conditions
    from reward.data import read_preferences

    if registry is None or conditions is not None:
        registry = Conditions.load(conditions)
    return read_preferences(
        path,
        registry,
        format,
        condition=condition,
        source=source,
        pairs=pairs,
        split=split,
    )


def _ruler(
    model: Any, tokenizer: Path | None, max_length: int | None, conditions: Path | None
) -> Any:
    from reward.conditions import Conditions
    from reward.quality.report import Ruler

    if model is not None:
        if tokenizer is not None:
            raise typer.BadParameter("--model brings its own tokenizer: leave --tokenizer out")
        stated = model.conditions if model.card.use_condition else None
        return Ruler(model.tokenizer, max_length or model.card.max_length, stated)
    if tokenizer is None:
        if max_length is not None:
            raise typer.BadParameter("--max-length counts tokens: give --tokenizer or --model too")
        return Ruler()
    from transformers import AutoTokenizer

    return Ruler(AutoTokenizer.from_pretrained(tokenizer), max_length, Conditions.load(conditions))


def _beginning(messages: Any, length: int = 80) -> str:
    text = " ".join(" ".join(message.content for message in messages).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def _print(title: str, header: list[str], rows: list[list[str]]) -> None:
    from rich.text import Text

    table = Table(*header, title=title)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
