"""`cool-rlhf reward verify`: verdicts of verifiers on the replies of a file."""

import json
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field
from rich.console import Console
from rich.table import Table

from pretrain_core.settings import Settings, load
from reward.conditions import DEFAULT
from reward.verifiers.registry import KINDS, VerifierSettings, build_verifier
from reward.verifiers.replies import Reply, read_replies
from reward.verifiers.sample import Sample, judged
from reward.verifiers.verdict import Verdict, Verifier

console = Console(highlight=False)


class VerifyCommandSettings(Settings):
    """Verifiers by name."""

    verifiers: dict[str, VerifierSettings] = Field({}, description="name → settings of a verifier")
    workers: int = Field(4, ge=1, description="verifications at the same time")


def verify(
    file: Annotated[
        Path, typer.Argument(help='JSONL of {"messages"} or {"prompt", "reply"}, and "reference"?')
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="settings to change, e.g. verifiers.length.most=100"),
    ] = None,
    verifier: Annotated[
        list[str] | None,
        typer.Option(help=f"a name in the settings, or one of {', '.join(KINDS)}; repeatable"),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="settings file with `verifiers`")] = None,
    out: Annotated[
        Path | None, typer.Option(help="JSONL of verdicts; default: the terminal")
    ] = None,
) -> None:
    """Check replies by rule: mathematical answers, JSON, format, code, language, length."""
    wanted = verifier or []
    kinds = [f"verifiers.{name}.kind={name}" for name in wanted if name in KINDS]
    if config is not None:
        named = load(VerifyCommandSettings, config).value.verifiers
        kinds = [kind for kind in kinds if kind.split(".")[1] not in named]
    settings = load(VerifyCommandSettings, config, [*kinds, *(overrides or [])]).value
    chosen = wanted or list(settings.verifiers)
    for name in chosen:
        if name not in settings.verifiers:
            known = ", ".join(dict.fromkeys([*settings.verifiers, *KINDS]))
            raise typer.BadParameter(f"no verifier {name!r}; there are: {known}")
    if not chosen:
        raise typer.BadParameter(f"name a verifier: --verifier {'|'.join(KINDS)}")
    if not file.is_file():
        raise typer.BadParameter(f"{file}: no such file")
    replies, quarantined = read_replies(file)
    for line, reason in quarantined.items():
        console.print(f"{file}:{line}: set aside: {reason}", markup=False, soft_wrap=True)
    if not replies:
        raise typer.BadParameter(f"{file}: no replies to verify")
    verdicts = {
        name: _verdicts(build_verifier(settings.verifiers[name]), replies, settings.workers)
        for name in chosen
    }
    _write(replies, verdicts, out)
    console.print(_table(verdicts))
    if quarantined:
        console.print(f"{len(quarantined)} records set aside")


def _verdicts(verifier: Verifier, replies: list[Reply], workers: int) -> list[Verdict]:
    samples = [
        Sample(reply.prompt, reply.text, reply.condition or DEFAULT, reply.reference)
        for reply in replies
    ]
    try:
        return judged(verifier, samples, workers)
    finally:
        verifier.close()


def _write(replies: list[Reply], verdicts: dict[str, list[Verdict]], out: Path | None) -> None:
    rows = [
        json.dumps(
            {"line": reply.line, "id": reply.id, "verifier": name} | vars(found[number]),
            ensure_ascii=False,
        )
        for number, reply in enumerate(replies)
        for name, found in verdicts.items()
    ]
    if out is None:
        for row in rows:
            console.print(row, markup=False, soft_wrap=True)
        return
    out.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    console.print(f"{len(rows)} verdicts: {out}")


def _table(verdicts: dict[str, list[Verdict]]) -> Table:
    table = Table("verifier", "replies", "passed", "failed", "not judged", "mean score")
    for name, found in verdicts.items():
        scores = [verdict.score for verdict in found if verdict.score is not None]
        passed = sum(1 for verdict in found if verdict.passed)
        mean = f"{sum(scores) / len(scores):.3f}" if scores else "-"
        counts = (len(found), passed, len(scores) - passed, len(found) - len(scores))
        table.add_row(name, *map(str, counts), mean)
    return table
