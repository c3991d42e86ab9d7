"""`cool-rlhf hacks …`: find reward hacks in samples, and patch the reward model."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cool_rlhf.tables import print_table

console = Console(highlight=False)
Overrides = Annotated[
    list[str] | None, typer.Argument(help="settings to change, e.g. target_rise=0.2")
]
Gold = Annotated[
    str | None,
    typer.Option(help="verifiers (YAML, or a kind), labels (JSONL), or a second model"),
]
app = typer.Typer(
    help="Reward hacks: found in the samples of two policies, and patched.",
    no_args_is_help=True,
)


@app.callback()
def hacks() -> None:
    """Reward hacks: found in the samples of two policies, and patched."""


@app.command()
def detect(
    early: Annotated[
        str,
        typer.Option(
            help='JSONL of {"prompt", "reply"}, and id, condition, reference; or a dump: '
            "trl:DIR@0-20, verl:DIR@1-10, openrlhf:FILE, run:DIR@0-3"
        ),
    ],
    late: Annotated[str, typer.Option(help="the same prompts, answered by the later policy")],
    reward: Annotated[
        str, typer.Option(help="reward model: folder, cache:NAME, registry:NAME or a service's URL")
    ],
    out: Annotated[Path, typer.Option(help="folder for hacks.json, report.html and pairs.jsonl")],
    gold: Gold = None,
    config: Annotated[Path | None, typer.Option(help="settings of the detector")] = None,
    overrides: Overrides = None,
) -> None:
    """Name what the late policy learnt to be paid for: hack, improvement, candidate or harmless."""
    from cool_rlhf.hacks.detect import detect as find
    from cool_rlhf.hacks.judges import gold_judge, reward_judge
    from cool_rlhf.hacks.output import write_detection
    from cool_rlhf.hacks.page import rows
    from cool_rlhf.hacks.plugins import read_source
    from cool_rlhf.hacks.samples import compare
    from cool_rlhf.hacks.settings import HackSettings
    from pretrain_core.settings import load

    settings = load(HackSettings, config, overrides or []).value
    comparison = compare(
        read_source(early), read_source(late), settings.least_common, settings.same_prompts
    )
    with (
        reward_judge(reward) as judge,
        gold_judge(gold) if gold else nullcontext() as truth,
    ):
        detection = find(comparison, judge, truth, settings)
    for note in write_detection(out, detection, settings):
        console.print(note)
    print_table(console, f"{detection.prompts} prompts", rows(detection))
    console.print(f"report: {out / 'report.html'}", soft_wrap=True)
    if any(finding.verdict == "hack" for finding in detection.findings):
        console.print(f"pairs to review: {out / 'pairs.jsonl'}", soft_wrap=True)
    if detection.stopped:
        console.print(f"[red]partial result:[/red] {detection.stopped}")
        raise typer.Exit(1)


@app.command()
def patch(
    pairs: Annotated[Path, typer.Argument(help="pattern pairs, as `hacks detect` writes them")],
    reward: Annotated[
        str, typer.Option(help="the parent: folder, cache:NAME or registry:NAME", metavar="PARENT")
    ],
    old: Annotated[Path, typer.Option(help="preferences that the parent was trained on")],
    held_out: Annotated[Path, typer.Option(help="preferences of their kind, for the gate alone")],
    out: Annotated[Path, typer.Option(help="folder for rm/, patch.json, report.html")],
    hacks: Annotated[
        Path | None,
        typer.Option(help="what `hacks detect` found; default: hacks.json beside PAIRS"),
    ] = None,
    legitimate: Annotated[
        Path | None, typer.Option(help="preferences whose better side rightly has the pattern")
    ] = None,
    anchors: Annotated[Path | None, typer.Option(help="samples without any hack")] = None,
    early: Annotated[Path | None, typer.Option(help="samples, for the best-of-n probe")] = None,
    late: Annotated[Path | None, typer.Option(help="samples, for the best-of-n probe")] = None,
    gold: Gold = None,
    recalibrate: Annotated[
        bool, typer.Option("--recalibrate", help="also with the parent's mean and spread, in DIR")
    ] = False,
    register: Annotated[str | None, typer.Option(help="name in the registry")] = None,
    promote: Annotated[
        bool, typer.Option("--promote", help="registry:NAME then means the child, if it passes")
    ] = False,
    registry: Annotated[str, typer.Option(help="folder of the registry")] = "cache:reward-registry",
    service: Annotated[
        str | None, typer.Option(help="URL of a service to swap to the child, if it passes")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="settings of patch and gate")] = None,
    overrides: Overrides = None,
) -> None:
    """Teach a reward model not to pay for a hack; exit status 1 unless it passes the gate."""
    from cool_rlhf.hacks.judges import gold_judge
    from cool_rlhf.hacks.patch.release import Release, finish
    from cool_rlhf.hacks.patch.run import PatchRunSettings, run_patch
    from cool_rlhf.hacks.patch.texts import PatchFiles
    from pretrain_core.runs import StopSignal
    from pretrain_core.settings import load
    from reward.errors import RewardTrainingStopped
    from reward.registry import resolve_model

    settings = load(PatchRunSettings, config, overrides or []).value
    beside = pairs.with_name("hacks.json")
    found = hacks or (beside if beside.is_file() else None)
    files = PatchFiles(pairs, old, held_out, legitimate, anchors, early, late, found)
    release = Release(register, promote, service, registry)
    parent = resolve_model(reward)
    with (
        gold_judge(gold) if gold else nullcontext() as truth,
        StopSignal(["cool-rlhf", *sys.argv[1:]]) as stop,
    ):
        try:
            result = run_patch(
                parent, files, out, settings, gold=truth, recalibrate=recalibrate, stop=stop
            )
        except RewardTrainingStopped as stopped:
            console.print(str(stopped))
            stop.announce()
    for line in finish(out, result, release):
        console.print(line, soft_wrap=True, markup=False)
    print_table(console, f"gate: {result.gate.verdict}", result.gate.rows())
    console.print(f"report: {out / 'report.html'}", soft_wrap=True)
    if not result.through:
        raise typer.Exit(1)
