"""Run directories: configuration, lineage, metrics, progress, clean stops."""

from pretrain_core.runs.files import RunError, read_json, write_json
from pretrain_core.runs.lineage import hash_file, hash_folder
from pretrain_core.runs.progress import Progress
from pretrain_core.runs.run import Run, RunSettings, latest_run
from pretrain_core.runs.stop import Stopped, StopSignal
from pretrain_core.runs.warn import warn_once

__all__ = [
    "Progress",
    "Run",
    "RunError",
    "RunSettings",
    "StopSignal",
    "Stopped",
    "hash_file",
    "hash_folder",
    "latest_run",
    "read_json",
    "warn_once",
    "write_json",
]
