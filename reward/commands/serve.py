"""`cool-rlhf reward serve`: one model over HTTP until Ctrl-C."""

import signal
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pretrain_core.settings import load
from reward.commands.evaluate import Model

console = Console(highlight=False)


def serve(
    model: Model,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="settings to change, as key=value", show_default=False),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML settings file")] = None,
) -> None:
    """Serve a reward model over HTTP: batching, deadlines, hot swap; docs/service.md."""
    from reward.registry import resolve_model
    from reward.service.access import Tokens
    from reward.service.application import start
    from reward.service.settings import ServiceSettings

    settings = load(ServiceSettings, config, overrides or []).value
    tokens = Tokens.of_environment()
    stop = threading.Event()
    folder = resolve_model(model)
    with start(settings, folder, tokens.access) as service:
        _say("serving", f"{service.url} (OpenAPI: {service.url}/docs)")
        _say("model", f"{folder}, version {service.version}, {settings.replicas} replicas")
        generated = {"COOL_RLHF_REWARD_TOKEN": tokens.score} | {
            "COOL_RLHF_REWARD_ADMIN_TOKEN": tokens.admin
        }
        for variable, token in generated.items():
            shown = f"{token} (new, shown this once)" if variable in tokens.generated else "as set"
            _say(variable, shown)
        _say("stop", "Ctrl-C")
        _wait(stop)
    _say("stopped", service.url)


def _say(name: str, value: str) -> None:
    console.print(f"{name}: {value}", markup=False, soft_wrap=True)


def _wait(stop: threading.Event) -> None:
    """Until SIGINT or SIGTERM."""

    def handle(number: int, frame: Any) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # A wait without a limit would not let Python run the handler.
        while not stop.wait(1.0):
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
