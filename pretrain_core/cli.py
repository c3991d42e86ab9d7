"""The command line of the base layer: `pretrain-core`.

Heavy imports stay inside the commands, so that `--help` and errors in settings come at once.
"""

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

from pretrain_core.errors import InputError

if TYPE_CHECKING:
    from pretrain_core.runs import Run
    from pretrain_core.settings import Resolved
    from pretrain_core.train.settings import FitSettings

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Pre-training and supervised fine-tuning, usable alone or by torchrun.",
)
convert_app = typer.Typer(no_args_is_help=True, help="Models in and out (Hugging Face, GGUF).")
config_app = typer.Typer(
    no_args_is_help=True, help="Settings: check them, show where they are from."
)
eval_app = typer.Typer(no_args_is_help=True, help="Measure a model.")
data_app = typer.Typer(no_args_is_help=True, help="Look at training data.")
app.add_typer(convert_app, name="convert", rich_help_panel="Models")
app.add_typer(eval_app, name="eval", rich_help_panel="Models")
app.add_typer(data_app, name="data", rich_help_panel="Data and settings")
app.add_typer(config_app, name="config", rich_help_panel="Data and settings")

Kind = Literal["train", "sft"]
Layout = Literal["llama", "internlm2"]
Config = Annotated[str, typer.Argument(help="YAML file or packaged preset (configs/…).")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings to change: key.sub=VALUE …", metavar="KEY=VALUE"),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continue run.name, or the newest run of this kind."),
]


@app.command("train", rich_help_panel="Training")
def train_command(config: Config, overrides: Overrides = None, resume: Resume = False) -> None:
    """Pre-train on text or a token store; ends with an exported model folder."""
    _work("train", config, overrides or [], resume)


@app.command("sft", rich_help_panel="Training")
def sft_command(config: Config, overrides: Overrides = None, resume: Resume = False) -> None:
    """Fine-tune on conversations (JSONL {"messages": […]}); ends with an exported model folder."""
    _work("sft", config, overrides or [], resume)


@convert_app.command("import")
def import_command(
    source: Annotated[str, typer.Argument(help="Llama or InternLM2 folder, or `smollm2`.")],
    folder: Annotated[Path, typer.Argument(help="New model folder, for `init` in settings.")],
) -> None:
    """Bring a foreign model in: checked weight by weight, written as a Llama folder."""
    from pretrain_core.convert import import_smollm2

    if source == "smollm2":
        _must_be_new(folder)
        done = import_smollm2(folder)
        out.print(f"made: {done} (SmolLM2-135M-Instruct from its package)")
    else:
        _convert(Path(source), folder, "llama")


@convert_app.command("export")
def export_command(
    source: Annotated[Path, typer.Argument(help="Run, checkpoint or model folder.")],
    folder: Annotated[Path, typer.Argument(help="New model folder.")],
    layout: Annotated[Layout, typer.Option(help="Names of the weights.")] = "llama",
) -> None:
    """Write weights as a Hugging Face folder, under Llama's or InternLM2's names."""
    _convert(source, folder, layout)


@config_app.command("check")
def check_command(kind: Kind, config: Config, overrides: Overrides = None) -> None:
    """Say whether a settings file is good, without starting anything."""
    from pretrain_core.settings import check

    out.print(check(_schema(kind), config, overrides or []), markup=False)


@config_app.command("show")
def show_command(kind: Kind, config: Config, overrides: Overrides = None) -> None:
    """Print the resolved settings, each value with its origin."""
    from pretrain_core.settings import show

    out.print(show(_schema(kind), config, overrides or []), markup=False)


@eval_app.command("perplexity")
def perplexity_command(
    model: Annotated[Path, typer.Argument(help="Model folder, run or checkpoint.")],
    store: Annotated[Path, typer.Argument(help="Token store (.tokens).")],
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens of the store to use.")] = 65_536,
    length: Annotated[int, typer.Option(min=2, help="Tokens per window.")] = 512,
) -> None:
    """Loss per token (nats) and perplexity on a held-out store."""
    from pretrain_core.data.store import TokenStore
    from pretrain_core.evaluate import evaluate_loss

    report = evaluate_loss(model, TokenStore.open(store), max_tokens, length)
    out.print(
        f"loss {report.loss:.4f} nats/token, perplexity {report.perplexity:.2f}, "
        f"{report.tokens:,} targets, windows of {length}"
    )


@data_app.command("peek")
def peek_command(
    source: Annotated[Path, typer.Argument(help="Token store, or JSONL of conversations.")],
    tokenizer: Annotated[Path, typer.Option(help="Tokenizer or model folder.")],
    first: Annotated[int, typer.Option(min=0, help="First document, from 0.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Documents to show.")] = 3,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to show of each.")] = 200,
) -> None:
    """Show documents as the model sees them: learned tokens green, context dim."""
    from pretrain_core.data.peek import peek
    from pretrain_core.train.pretrain import load_tokenizer

    words = load_tokenizer(tokenizer)
    for title, pieces in peek(source, words, first, count, tokens):
        out.print(Text(title, style="bold"))
        out.print(Text.assemble(*((text, "green" if learn else "dim") for text, learn in pieces)))


def main() -> None:
    """Entry point: an error of the user's is one line and exit code 1."""
    from pretrain_core.runs import RunError
    from pretrain_core.settings import SettingsError
    from pretrain_core.train.trainer import NonFiniteError

    try:
        app(prog_name="pretrain-core")
    except (InputError, SettingsError, RunError, NonFiniteError) as error:
        err.print(Text.assemble(("error: ", "bold red"), str(error)))
        sys.exit(1)


def _schema(kind: Kind) -> "type[FitSettings]":
    from pretrain_core.sft.finetune import SftSettings
    from pretrain_core.train.settings import TrainSettings

    return TrainSettings if kind == "train" else SftSettings


def _work(kind: Kind, config: str, overrides: list[str], resume: bool) -> None:
    from pretrain_core.runs import StopSignal
    from pretrain_core.settings import load

    function: Callable[..., Path]
    if kind == "train":
        from pretrain_core.train import train as function
    else:
        from pretrain_core.sft import sft as function
    resolved = load(_schema(kind), config, overrides)
    _require_inputs(resolved.value)
    with _run(kind, resolved, resume) as run:
        command = _resume_command(kind, config, overrides, run)
        with StopSignal(command) as stop:
            folder = function(resolved.value, run, stop=stop, announce=_print_plan)
        if run is not None:
            _summary(run, folder)


def _require_inputs(settings: Any) -> None:
    """Refuse missing inputs before a run directory is made; names the key."""
    data = settings.data.model_dump()
    named = [("init", settings.init)]
    named += [(f"data.{key}", data.get(key)) for key in ("store", "held_out", "sources")]
    for key, value in named:
        for path in value if isinstance(value, tuple) else (value,):
            if path is not None and not path.exists():
                raise InputError(f"{key}: {path}: no such file; set it as {key}=PATH")


@contextmanager
def _run(kind: Kind, resolved: "Resolved[Any]", resume: bool) -> "Iterator[Run | None]":
    """The run of rank 0, made or opened; None on other ranks."""
    from pretrain_core.runs import Run, latest_run
    from pretrain_core.train.weights import find_weights

    if os.environ.get("RANK", "0") != "0":
        yield None
        return
    settings = resolved.value.run
    if not resume:
        init = resolved.value.init
        parents = {} if init is None else {"init": find_weights(init)}
        run = Run.create(settings, resolved, kind=kind, parents=parents)
    elif settings.name is not None:
        run = Run.open(settings.root / settings.name)
    else:
        run = latest_run(settings.root, kind)
    with run:
        out.print(f"run: {run.path}", markup=False)
        yield run


def _resume_command(kind: Kind, config: str, overrides: Sequence[str], run: "Run | None") -> str:
    if run is None:
        return ""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    start = ["pretrain-core"]
    if ranks > 1:
        start = ["torchrun", "--standalone", f"--nproc-per-node={ranks}", "-m", "pretrain_core"]
    kept = [item for item in overrides if not item.startswith(("run.name=", "run.root="))]
    place = [f"run.root={run.path.parent}", f"run.name={run.path.name}"]
    return shlex.join([*start, kind, config, *kept, *place, "--resume"])


def _print_plan(lines: Sequence[str]) -> None:
    for line in lines:
        key, _, value = line.partition(": ")
        _row(key, value)


def _row(key: str, value: str) -> None:
    # No table: it would fold paths and commands, which must survive copy and paste.
    out.print(Text.assemble((f"{key:<14}", "bold"), value))


def _summary(run: "Run", folder: Path) -> None:
    result: dict[str, Any] = run.manifest.get("result", {})
    _row("made", str(folder))
    if "steps" in result:
        speed = f"median {result['tokens_per_second']:,.0f} tok/s"
        _row("how", f"{result['steps']:,} steps, {result['tokens']:,} tokens, {speed}")
        _row("train loss", f"{result['train_loss']:.4f} (mean of the last 10 steps)")
    if "held_out_loss" in result:
        targets = f"{result['held_out_tokens']:,} targets"
        _row("held-out loss", f"{result['held_out_loss']:.4f} nats/token over {targets}")
    if run.manifest.get("quarantined"):
        _row("quarantined", str(run.manifest["quarantine"]))
    following = f"pretrain-core sft configs/sft/tiny.yaml init={folder} data.sources=[FILE.jsonl]"
    if run.manifest["kind"] == "sft":
        following = f"cool-rlhf chat {folder}"
    _row("next", following)


def _must_be_new(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: exists and is not empty; choose a new folder")


def _convert(source: Path, folder: Path, layout: Layout) -> None:
    from pretrain_core.convert import export_internlm2, export_llama
    from pretrain_core.train.pretrain import load_tokenizer
    from pretrain_core.train.weights import find_tokenizer, find_weights, read_weights

    _must_be_new(folder)
    weights = find_weights(source)
    export = export_llama if layout == "llama" else export_internlm2
    export(read_weights(weights), load_tokenizer(find_tokenizer(weights)), folder)
    out.print(f"made: {folder} ({layout} names, from {weights})", markup=False)
