"""What a sandboxed program may use, and what came of it."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from pretrain_core.errors import RunFailed
from pretrain_core.settings import Settings

Ending = Literal["ok", "failed", "timeout", "memory", "processes", "output", "signal"]
"""`ok`: exit status 0; `failed`: any other; the rest: which limit or signal ended the program."""

Part = Literal["files", "network", "processes", "ipc", "process_limit", "disk", "memory_total"]
"""A part of the machine that a program may be able to reach, or a limit that may not hold."""


class SandboxUnavailable(RunFailed):
    """The sandbox cannot be set up as demanded; says what the kernel refused."""


class Limits(Settings):
    """Bounds of one run in the sandbox."""

    wall_seconds: float = Field(10.0, gt=0, le=3600)
    cpu_seconds: int = Field(10, gt=0, le=3600, description="per process")
    memory_mib: int = Field(512, ge=32, description="per process, and for all of them together")
    processes: int = Field(16, ge=1, le=4096, description="at the same time, threads counted")
    output_bytes: int = Field(2**20, ge=0, description="stdout and stderr, each")
    file_bytes: int = Field(2**24, ge=4096, description="per file, and for all files together")
    isolation: Literal["required", "preferred", "off"] = Field(
        "preferred",
        description="namespaces: refuse to run without, use them where the kernel allows, or never",
    )


@dataclass(frozen=True)
class Isolation:
    """How far a program is cut off: `missing` parts are not isolated, `reason` says why."""

    missing: tuple[Part, ...] = ()
    reason: str = ""

    @property
    def full(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing


@dataclass(frozen=True)
class Outcome:
    """The end of one sandboxed run.

    `exit_code` is None where a signal or a limit ended the program. Output is text (bytes that are
    no UTF-8 are replaced), at most `Limits.output_bytes` of each stream; `cut` says that there was
    more. `reason` is one sentence, empty if all went well.
    """

    verdict: Ending
    exit_code: int | None
    stdout: str
    stderr: str
    seconds: float
    isolation: Isolation
    reason: str = ""
    cut: bool = False

    @property
    def ok(self) -> bool:
        """Whether the program ended by itself with status 0."""
        return self.verdict == "ok"
