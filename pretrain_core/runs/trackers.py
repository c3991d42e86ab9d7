"""Optional sinks of metrics beside metrics.jsonl: wandb and TensorBoard, imported lazily."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from pretrain_core.runs.files import RunError

logger = logging.getLogger(__name__)

WandbMode = Literal["off", "offline", "auto"]


class Tracker(Protocol):
    """Something that takes metrics of a step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class WandbTracker:
    """wandb, offline unless `auto` finds WANDB_API_KEY in the environment."""

    def __init__(self, folder: Path, mode: WandbMode, config: Mapping[str, Any]) -> None:
        import wandb

        online = mode == "auto" and bool(os.environ.get("WANDB_API_KEY"))
        if mode == "auto" and not online:
            logger.info("WANDB_API_KEY is not set: wandb writes offline, under %s", folder)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "cool-rlhf"),
                name=folder.name,
                dir=str(folder),
                mode="online" if online else "offline",
                config=dict(config),
                resume="allow",
                # Its own metadata would copy the command line, secrets and all.
                settings=wandb.Settings(silent=True, console="off", x_disable_meta=True),
            )
        except (wandb.Error, OSError, TimeoutError) as error:
            raise RunError(
                f"wandb could not start: {error}; set run.wandb to offline or off"
            ) from error
        # Our own step: after a resume steps are logged again, which wandb's counter refuses.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **metrics})

    def close(self) -> None:
        self._run.finish()


class TensorBoardTracker:
    """TensorBoard event files under `tensorboard/`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(log_dir=str(folder / "tensorboard"))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        self._writer.close()


def check_available(wandb: WandbMode, tensorboard: bool) -> None:
    """Raise RunError, before work starts, when a tracker is asked for but not installed."""
    wanted = {"wandb": wandb != "off", "tensorboard": tensorboard}
    for name, asked in wanted.items():
        if asked and importlib.util.find_spec(name) is None:
            raise RunError(f"run.{name} is on, but the package {name!r} is not installed")


def start_trackers(
    folder: Path, wandb: WandbMode, tensorboard: bool, config: Mapping[str, Any]
) -> list[Tracker]:
    """Start the trackers that the run asks for."""
    trackers: list[Tracker] = []
    if wandb != "off":
        trackers.append(WandbTracker(folder, wandb, config))
    if tensorboard:
        trackers.append(TensorBoardTracker(folder))
    return trackers
