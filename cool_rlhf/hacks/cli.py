"""`cool-rlhf hacks …`: find reward hacks in samples, and patch the reward model."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cool_rlhf.tables import print_table

console = Console(highlight=False)
app = typer.Typer(
    help="Reward hacks: found in the samples of two policies, told from improvements.",
    no_args_is_help=True,
)


@app.callback()
def hacks() -> None:
    """Reward hacks: found in the samples of two policies, told from improvements."""


@app.command()
def detect(
    early: Annotated[
        Path, typer.Option(help='JSONL of {"prompt", "reply"}, and id, condition, reference')
    ],
    late: Annotated[Path, typer.Option(help="the same prompts, answered by the later policy")],
    reward: Annotated[
        str, typer.Option(help="reward model: folder, cache:NAME, registry:NAME or a service's URL")
    ],
    out: Annotated[Path, typer.Option(help="folder for hacks.json, report.html and pairs.jsonl")],
    gold: Annotated[
        str | None,
        typer.Option(help="verifiers (YAML, or a kind), labels (JSONL), or a second model"),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="settings of the detector")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings to change, e.g. target_rise=0.2")
    ] = None,
) -> None:
    """Name what the late policy learnt to be paid for: hack, improvement, candidate or harmless."""
    from contextlib import nullcontext

    from cool_rlhf.hacks.detect import detect as find
    from cool_rlhf.hacks.judges import gold_judge, reward_judge
    from cool_rlhf.hacks.page import as_json, as_page, rows
    from cool_rlhf.hacks.pairs import write_pairs
    from cool_rlhf.hacks.samples import compare, read_samples
    from cool_rlhf.hacks.settings import HackSettings
    from pretrain_core.runs import write_json
    from pretrain_core.runs.files import write_text
    from pretrain_core.settings import load

    settings = load(HackSettings, config, overrides or []).value
    comparison = compare(
        read_samples(early), read_samples(late), settings.least_common, settings.same_prompts
    )
    with (
        reward_judge(reward) as judge,
        gold_judge(gold) if gold else nullcontext() as truth,
    ):
        detection = find(comparison, judge, truth, settings)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "hacks.json", as_json(detection, settings))
    write_text(out / "report.html", as_page(detection, settings, "Reward hacks"))
    few = write_pairs(out / "pairs.jsonl", detection.findings, settings.seed)
    for note in [*detection.notes, *few]:
        console.print(note)
    print_table(console, f"{detection.prompts} prompts", rows(detection))
    console.print(f"report: {out / 'report.html'}", soft_wrap=True)
    if any(finding.verdict == "hack" for finding in detection.findings):
        console.print(f"pairs to review: {out / 'pairs.jsonl'}", soft_wrap=True)
    if detection.stopped:
        console.print(f"[red]partial result:[/red] {detection.stopped}")
        raise typer.Exit(1)
