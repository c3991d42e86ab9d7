"""What becomes of a judged child: registered, and only through the gate promoted and served."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cool_rlhf.hacks.patch.page import as_page
from cool_rlhf.hacks.patch.run import PAGE, PatchResult, write_record
from cool_rlhf.hacks.patch.settings import PatchError
from pretrain_core.runs.files import write_text
from reward.registry import DEFAULT_ROOT, Registry
from reward.service.access import ADMIN_VARIABLE


@dataclass(frozen=True)
class Release:
    """Where a child may go. Raises PatchError for a promotion without a name, or no admin token."""

    register: str | None = None
    promote: bool = False
    service: str | None = None
    registry: str = DEFAULT_ROOT
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)

    def __post_init__(self) -> None:
        if self.promote and self.register is None:
            raise PatchError("--promote needs the name to promote under: --register NAME")
        if self.register is not None:
            Registry(self.register, self.registry)
        if self.service is not None and not self._token:
            raise PatchError(
                f"to change the model of {self.service}, put its admin token into {ADMIN_VARIABLE}"
            )

    def carry_out(self, result: PatchResult, done: dict[str, Any]) -> None:
        """Register whatever the verdict; promote and swap the service only for a pass.

        Each step that was taken is put into `done`, JSON-able.
        """
        folder = result.folder
        if self.register is not None:
            registry = Registry(self.register, self.registry)
            version = registry.register(
                folder,
                data=result.files.given,
                metrics=_metrics(result),
                gate=result.gate.as_dict(),
            )
            done["registered"] = f"{self.register}@{version.number}"
            folder = registry.path(version.number)
            if self.promote and result.through:
                registry.promote(version.number, _reason(result))
                done["promoted"] = done["registered"]
        if self.service is not None and result.through:
            done["serves"] = self._swap(self.service, folder)

    def _swap(self, url: str, folder: Path) -> str:
        """The version that the service then serves."""
        from reward.service.blocking import BlockingRewardClient

        with BlockingRewardClient(url, self._token) as client:
            return client.swap(folder.resolve()).version

    @property
    def _token(self) -> str:
        return self.environment.get(ADMIN_VARIABLE, "").strip()


def finish(out: Path, result: PatchResult, release: Release) -> list[str]:
    """Release the child, write record and report, and say what was done, a line each.

    Record and report tell what was done before a release failed, too.
    """
    done: dict[str, Any] = {}
    try:
        release.carry_out(result, done)
    finally:
        write_record(out, result, done)
        write_text(out / PAGE, as_page(result, done))
    lines = [*result.texts.notes]
    lines += [f"left out, not cured: {hack}: {reason}" for hack, reason in result.left_out.items()]
    lines += [f"{what}: {value}" for what, value in done.items()]
    if not result.through:
        wanted = "not promoted" if release.promote else "not to be promoted"
        lines += [f"{wanted}: {reason}" for reason in result.gate.reasons]
    return lines


def _metrics(result: PatchResult) -> dict[str, Any]:
    return result.accuracy.as_dict() | {"version": result.versions[1]}


def _reason(result: PatchResult) -> str:
    hacks = ", ".join(result.counts)
    return f"patch of {result.versions[0]} against {hacks}, through the gate"
