"""The run directory: configuration, manifest, metrics, phases and log of one piece of work."""

from __future__ import annotations

import datetime
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from pretrain_core.runs import logs, trackers
from pretrain_core.runs.files import (
    RunError,
    append_line,
    cut_torn_line,
    read_json,
    read_lines,
    rewrite_lines,
    write_json,
    write_text,
)
from pretrain_core.runs.lineage import command_line, git_state, hardware, hash_artefact, versions
from pretrain_core.settings import Resolved, Settings, from_environment
from pretrain_core.settings.document import read
from pretrain_core.settings.secrets import find_secret

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_FORMAT = 1
# Set in the driver of a submitted Ray job, whose working directory is a temporary copy.
_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


class RunSettings(Settings):
    """Where a run writes, its seed, and which trackers it feeds."""

    root: Path = from_environment("COOL_RLHF_RUNS", Path("runs"))
    name: str | None = None
    seed: int = 1234
    wandb: trackers.WandbMode = "off"
    tensorboard: bool = False


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")


def _is_empty(path: Path) -> bool:
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def _folder_for(settings: RunSettings, kind: str) -> Path:
    if os.environ.get(_RAY_JOB) and not settings.root.is_absolute():
        raise RunError(
            f"run.root is {str(settings.root)!r}: inside a Ray job the working directory is a "
            "temporary copy; give an absolute run.root or set COOL_RLHF_RUNS"
        )
    if settings.name is not None:
        path = settings.root / settings.name
        if not _is_empty(path):
            raise RunError(
                f"{path}: a run of this name exists; choose another run.name or resume that run"
            )
        return path
    stem = f"{kind}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 10_000))
    return next(settings.root / name for name in names if _is_empty(settings.root / name))


def _config_text(resolved: Resolved[Any]) -> str:
    secret = find_secret(resolved.value.model_dump(mode="json"))
    if secret is not None:
        raise RunError(
            f"{'.'.join(secret)}: looks like a secret, and the configuration is saved; "
            "read it from the environment instead"
        )
    return resolved.to_yaml()


class Run:
    """One run directory, open for reading and writing. Use `create`, `open` or `latest_run`."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.seed: int = int(manifest["seed"])
        self._trackers: list[trackers.Tracker] | None = None
        self._log: logging.Handler | None = None
        self._open_phases: list[str] = []

    @classmethod
    def create(
        cls,
        settings: RunSettings,
        resolved: Resolved[Any] | None,
        *,
        kind: str,
        parents: Mapping[str, Path] | None = None,
    ) -> Run:
        """Make a new run directory; `parents` are the artefacts it starts from, hashed here.

        Raises RunError when the directory exists and is not empty, a parent is missing, or a
        tracker is not installed.
        """
        trackers.check_available(settings.wandb, settings.tensorboard)
        path = _folder_for(settings, kind)
        config = _config_text(resolved) if resolved is not None else None
        manifest: dict[str, Any] = {
            "format": _FORMAT,
            "kind": kind,
            "name": path.name,
            "seed": settings.seed,
            "started": _now(),
            "command": command_line(),
            "parents": {
                name: {"path": str(parent), "sha256": hash_artefact(parent)}
                for name, parent in (parents or {}).items()
            },
            "versions": versions(),
            "git": git_state(),
            "hardware": hardware(),
            "trackers": {"wandb": settings.wandb, "tensorboard": settings.tensorboard},
        }
        # Filled aside and renamed: a kill never leaves a directory that is half a run.
        aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
        aside.mkdir(parents=True)
        if config is not None:
            write_text(aside / "config.yaml", config)
        write_json(aside / MANIFEST, manifest)
        os.rename(aside, path)
        run = cls(path, manifest)
        run.begin()
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open an existing run; nothing is written until `begin`, `log`, `phase` or `record`.

        Raises RunError when the directory is no run.
        """
        path = Path(path)
        if not (path / MANIFEST).is_file():
            raise RunError(f"{path}: no run directory (it has no {MANIFEST})")
        manifest = read_json(path / MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
            raise RunError(f"{path / MANIFEST}: not a manifest of format {_FORMAT}")
        return cls(path, manifest)

    def begin(self) -> None:
        """Attach `log.txt`; called by `create`, and by the first write to an opened run."""
        if self._log is None:
            self._log = logs.attach(self.path / "log.txt")
            for name in ("metrics.jsonl", "phases.jsonl"):
                if cut_torn_line(self.path / name):
                    logger.warning("%s: a torn last line was dropped", self.path / name)

    def close(self) -> None:
        """Finish the trackers and detach `log.txt`; the run can be used again afterwards."""
        started, self._trackers = self._trackers or [], None
        try:
            for tracker in started:
                tracker.close()
        finally:
            if self._log is not None:
                logs.detach(self._log)
                self._log = None

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _subfolder(self, name: str) -> Path:
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def checkpoints(self) -> Path:
        """The folder of training states and exported models."""
        return self._subfolder("checkpoints")

    @property
    def rollouts(self) -> Path:
        """The folder of the rollout log."""
        return self._subfolder("rollouts")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of a step to `metrics.jsonl` and to the trackers.

        Raises RunError for a negative step or a value that is no number.
        """
        if step < 0:
            raise RunError(f"metrics of step {step}: steps count from 0")
        values = {key: _number(key, value) for key, value in metrics.items()}
        self.begin()
        row = {key: _written(value) for key, value in values.items()}
        append_line(self.path / "metrics.jsonl", {"step": step, **row})
        if self._trackers is None:
            chosen = self.manifest["trackers"]
            self._trackers = trackers.start_trackers(
                self.path, chosen["wandb"], chosen["tensorboard"], self._tracked_config()
            )
        for tracker in self._trackers:
            tracker.log(step, values)

    def _tracked_config(self) -> dict[str, Any]:
        path = self.path / "config.yaml"
        return {**self.manifest, **(read(path, str(path)).plain() if path.exists() else {})}

    def truncate_metrics(self, last_step: int) -> None:
        """Drop the rows after `last_step`: the steps that a resumed run will do again."""
        path = self.path / "metrics.jsonl"
        rows = read_lines(path)
        kept = [row for row in rows if row["step"] <= last_step]
        if len(kept) < len(rows):
            logger.info("%s: %d rows after step %d dropped", path, len(rows) - len(kept), last_step)
            rewrite_lines(path, kept)

    def metrics(self) -> list[dict[str, float]]:
        """Return all logged rows, each with its `step`."""
        return read_metrics(self.path)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the wall time of a block into `phases.jsonl`; phases may nest."""
        self.begin()
        row: dict[str, object] = {"name": name, "started": _now()}
        if self._open_phases:
            row["inside"] = self._open_phases[-1]
        self._open_phases.append(name)
        begun = time.monotonic()
        try:
            yield
        except BaseException as error:
            row["ended_by"] = type(error).__name__
            raise
        finally:
            self._open_phases.pop()
            row["seconds"] = round(time.monotonic() - begun, 3)
            append_line(self.path / "phases.jsonl", row)

    def record(self, **facts: Any) -> None:
        """Merge facts into `manifest.json`, atomically; raises RunError for a secret."""
        secret = find_secret(facts)
        if secret is not None:
            raise RunError(f"{'.'.join(secret)}: looks like a secret and is not written down")
        # Another handle of this run may have recorded since.
        self.manifest = {**read_json(self.path / MANIFEST), **facts}
        write_json(self.path / MANIFEST, self.manifest)


def _number(key: str, value: object) -> float:
    if key == "step":
        raise RunError("a metric cannot be named 'step'")
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise RunError(f"metric {key!r}: expected a number, got {value!r}") from error


def _written(value: float) -> float | str:
    # JSON knows no NaN; as text it survives every reader.
    return value if math.isfinite(value) else str(value)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the rows of a run directory's `metrics.jsonl`; raises RunError when it is broken."""
    return [
        {key: int(value) if key == "step" else float(value) for key, value in row.items()}
        for row in read_lines(path / "metrics.jsonl")
    ]


def latest_run(root: str | Path, kind: str | None = None) -> Run:
    """Return the newest run under `root` (of that kind); raises RunError when there is none."""
    root = Path(root)
    # Dotted folders are runs that were killed while being made.
    folders = sorted(file.parent for file in root.glob(f"[!.]*/{MANIFEST}"))
    found = [Run.open(folder) for folder in folders]
    fitting = [run for run in found if kind is None or run.manifest["kind"] == kind]
    if not fitting:
        kinds = ", ".join(sorted({str(run.manifest["kind"]) for run in found})) or "no run at all"
        raise RunError(f"{root}: no {kind or ''} run to resume; found {kinds}".replace("  ", " "))
    return max(fitting, key=lambda run: str(run.manifest["started"]))
