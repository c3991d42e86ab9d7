"""Versions of reward models in a folder: register, promote, roll back, and find them again.

    ROOT/NAME/journal.jsonl     append-only; its complete lines are the truth
    ROOT/NAME/versions/3/       the model folder of version 3
    ROOT/NAME/promoted          symbolic link to the promoted version, for whoever wants a path

A step happens when its journal line is complete on disk; what a kill left half done before that is
invisible and cleared away by the next step.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from pretrain_core.cache import expand
from pretrain_core.errors import InputError
from pretrain_core.runs.files import append_line, cut_torn_line, read_lines, sync_folder
from pretrain_core.runs.lineage import hash_file
from reward.card import read_card
from reward.soundness import check_reward_model

DEFAULT_ROOT = "cache:reward-registry"
SCHEME = "registry:"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class RegistryError(InputError):
    """A registry, name or version that cannot be used as asked."""


@dataclass(frozen=True)
class Version:
    """One registered model with its lineage; `files`: SHA-256 by relative path."""

    number: int
    rm_version: str
    conditions_hash: str
    files: Mapping[str, str]
    parents: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)
    registered: str = ""


class Registry:
    """The versions of one name."""

    def __init__(self, name: str, root: str | Path = DEFAULT_ROOT) -> None:
        if not NAME.fullmatch(name):
            raise RegistryError(f"name {name!r}: use lower-case letters, digits, '.', '_' and '-'")
        self.name = name
        self.folder = Path(str(expand(str(root)))) / name
        self.journal = self.folder / "journal.jsonl"

    @property
    def versions(self) -> dict[int, Version]:
        """All versions by number, oldest first."""
        found = [Version(**e["version"]) for e in self.events() if e["event"] == "register"]
        return {version.number: version for version in found}

    @property
    def promoted(self) -> int | None:
        """Number of the promoted version; None before the first promotion."""
        history = self._history()
        return history[-1] if history else None

    def events(self) -> list[dict[str, Any]]:
        """The complete lines of the journal; RunError names a broken one."""
        return read_lines(self.journal)

    def get(self, number: int | None = None) -> Version:
        """The version of that number, default the promoted one; RegistryError if there is none."""
        versions = self.versions
        if not versions:
            raise RegistryError(f"no reward model is registered as {self.name!r} in {self.folder}")
        if number is None:
            number = self.promoted
        if number is None:
            raise RegistryError(
                f"no version of {self.name!r} is promoted: cool-rlhf reward registry promote "
                f"{self.name} VERSION (there are {_listed(versions)}), or ask for one by @VERSION"
            )
        if number not in versions:
            raise RegistryError(f"{self.name!r} has no version {number}, only {_listed(versions)}")
        return versions[number]

    def path(self, number: int | None = None) -> Path:
        """Folder of a version (default: the promoted one) after checking every file's hash."""
        version = self.get(number)
        folder = self._place(version.number)
        for relative, expected in version.files.items():
            if not (folder / relative).is_file():
                raise RegistryError(f"{folder / relative} is gone; register the model anew")
            if hash_file(folder / relative) != expected:
                raise RegistryError(
                    f"{folder / relative} is not the file that was registered (SHA-256 differs): "
                    "restore it or register the model anew"
                )
        extra = _files(folder).keys() - version.files.keys()
        if extra:
            raise RegistryError(f"{folder}: files that were not registered: {_listed(extra)}")
        return folder

    def register(
        self,
        source: Path,
        *,
        data: Mapping[str, Path] | None = None,
        metrics: Mapping[str, Any] | None = None,
        gate: Mapping[str, Any] | None = None,
    ) -> Version:
        """Copy a reward-model folder into the registry as the next version.

        The same files again are not a new version: the old one is returned. Raises RewardModelError
        for a folder with NaN in its weights, a wrong card or pickled files.
        """
        check_reward_model(source)
        card = read_card(source)
        hashes = {name: hash_file(file) for name, file in _files(source).items()}
        with self._writing():
            versions = self.versions
            for known in versions.values():
                if known.files == hashes:
                    return known
            version = Version(
                max(versions, default=0) + 1,
                card.version,
                card.conditions.hash,
                hashes,
                parents=dict(card.parents),
                data={name: hash_file(path) for name, path in (data or {}).items()},
                metrics=dict(metrics or {}),
                gate=dict(gate or {}),
                registered=_now(),
            )
            place = self._place(version.number)
            aside = place.with_name(f".{place.name}.incoming")
            for name, expected in hashes.items():
                _copy(source / name, aside / name)
                if hash_file(aside / name) != expected:
                    raise RegistryError(f"{source / name} changed while it was registered")
            for folder in [*(f for f in aside.rglob("*") if f.is_dir()), aside]:
                sync_folder(folder)
            os.rename(aside, place)
            sync_folder(place.parent)
            self._commit("register", version=asdict(version))
        return version

    def promote(self, number: int, reason: str = "") -> Version:
        """Make a version the one that `registry:NAME` means; checks its files first."""
        with self._writing():
            self.path(number)
            if self.promoted != number:
                self._commit("promote", number=number, reason=reason)
                self._link()
            return self.get(number)

    def rollback(self, reason: str = "") -> Version:
        """Go back to the version that was promoted before; RegistryError if there is none."""
        with self._writing():
            history = self._history()
            if len(history) < 2:
                raise RegistryError(f"{self.name!r} has no earlier promotion to go back to")
            self.path(history[-2])
            self._commit("rollback", number=history[-2], reason=reason)
            self._link()
            return self.get(history[-2])

    def _history(self) -> list[int]:
        """Promotions that stand, oldest first: a rollback takes the last one back."""
        history: list[int] = []
        for event in self.events():
            if event["event"] == "promote":
                history.append(int(event["number"]))
            elif event["event"] == "rollback":
                history.pop()
        return history

    def _place(self, number: int) -> Path:
        return self.folder / "versions" / str(number)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time (the lock dies with its holder), after tidying up."""
        (self.folder / "versions").mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._recover()
            yield

    def _recover(self) -> None:
        cut_torn_line(self.journal)
        known = {str(number) for number in self.versions}
        for left in self._place(0).parent.iterdir():
            unfinished = left.name.startswith(".") or left.name.isdigit()
            if unfinished and left.is_dir() and left.name not in known:
                shutil.rmtree(left)
        self._link()

    def _link(self) -> None:
        promoted = self.promoted
        link = self.folder / "promoted"
        target = f"versions/{promoted}"
        if promoted is None or (link.is_symlink() and os.readlink(link) == target):
            return
        aside = self.folder / ".promoted.partial"
        aside.unlink(missing_ok=True)
        aside.symlink_to(target)
        os.replace(aside, link)
        sync_folder(self.folder)

    def _commit(self, event: str, **content: Any) -> None:
        append_line(self.journal, {"event": event, "time": _now(), **content})
        with self.journal.open("rb") as stream:
            os.fsync(stream.fileno())
        sync_folder(self.folder)


def names(root: str | Path = DEFAULT_ROOT) -> list[str]:
    """Names in a registry, sorted."""
    folder = Path(str(expand(str(root))))
    return sorted(journal.parent.name for journal in folder.glob("*/journal.jsonl"))


def resolve_model(reference: str | Path, root: str | Path = DEFAULT_ROOT) -> Path:
    """Folder of a reward model: a path, `cache:NAME`, or `registry:NAME[@VERSION]`, hash-checked.

    Without VERSION: the promoted one. Raises RegistryError for what the registry does not have.
    """
    text = str(reference)
    if not text.startswith(SCHEME):
        return Path(str(expand(text)))
    name, _, version = text.removeprefix(SCHEME).partition("@")
    if version and not version.isdigit():
        raise RegistryError(f"{text}: a version is a number, as in {SCHEME}{name}@3")
    return Registry(name, root).path(int(version) if version else None)


ModelPath = Annotated[
    Path, BeforeValidator(lambda v: resolve_model(v) if isinstance(v, str) else v)
]
"""A model's folder in settings: a path, `cache:NAME`, or `registry:NAME[@VERSION]`.

The registry is asked when the settings are read, so the saved ones name the version itself.
"""


def _files(folder: Path) -> dict[str, Path]:
    """Relative name → file of an artefact; hidden files (locks, partial ones) are no part of it."""
    return {
        file.relative_to(folder).as_posix(): file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(folder).parts)
    }


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as old, target.open("wb") as new:
        shutil.copyfileobj(old, new, 2**22)
        new.flush()
        os.fsync(new.fileno())


def _listed(items: Any) -> str:
    return ", ".join(str(item) for item in sorted(items))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
