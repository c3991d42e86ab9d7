"""The durable rollout log: append-only JSONL, one file per iteration, written by the driver alone.

A line is `{"crc32":"xxxxxxxx","record":{...}}`: the checksum covers the record's bytes as written.
Every line is fsynced before `append` returns, so a finished request survives the death of any
process. What a crash may leave is one torn last line, which is dropped and counted.
"""

import logging
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from actors.trajectories.schema import Score, Trajectory
from pretrain_core.errors import InputError

logger = logging.getLogger(__name__)

FILE_NAME = re.compile(r"iteration-(\d{6,})\.jsonl")
LINE = re.compile(rb'\{"crc32":"([0-9a-f]{8})","record":(.*)\}', re.DOTALL)


class RolloutLogError(InputError):
    """A log that cannot be trusted, or an append that would make it so; names file and line."""

    def __init__(self, file: Path, line: int, what: str) -> None:
        super().__init__(f"{file}:{line}: {what}")
        self.file, self.line, self.what = file, line, what

    def __reduce__(self) -> tuple[type["RolloutLogError"], tuple[Path, int, str]]:
        return type(self), (self.file, self.line, self.what)


class _Sample(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["trajectory"] = "trajectory"
    trajectory: Trajectory


class _Scores(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["scores"] = "scores"
    name: str
    scores: dict[str, Score]


_RECORD: TypeAdapter[_Sample | _Scores] = TypeAdapter(
    Annotated[_Sample | _Scores, Field(discriminator="kind")]
)


class RolloutLog:
    """Appends and reads the trajectories of a run; one writer at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._torn: set[int] = set()
        self._ids: dict[int, set[str]] = {}

    @property
    def torn_lines(self) -> int:
        """Number of iterations whose torn last line this object has dropped."""
        return len(self._torn)

    def append(self, trajectory: Trajectory) -> None:
        """Write one finished sample durably; a second one of the same id is refused."""
        ids = self._open(trajectory.iteration)
        if trajectory.id in ids:
            raise self._refusal(trajectory.iteration, f"duplicate trajectory id {trajectory.id!r}")
        self._write(trajectory.iteration, _Sample(trajectory=trajectory))
        ids.add(trajectory.id)

    def append_scores(self, iteration: int, name: str, scores: Mapping[str, Score]) -> None:
        """Write scores of samples logged before; for one id and name the last record counts."""
        unknown = sorted(set(scores) - self._open(iteration))
        if unknown:
            raise self._refusal(iteration, f"scores {name!r} of unknown trajectories {unknown[:5]}")
        self._write(iteration, _Scores(name=name, scores=dict(scores)))

    def read(self, iteration: int) -> dict[str, Trajectory]:
        """Trajectories of an iteration by id, in the order of writing, scores merged.

        An iteration never begun is empty. Raises `RolloutLogError` at a corrupt inner line, a
        duplicate id or scores of an unknown one.
        """
        file = self._file(iteration)
        if not file.exists():
            return {}
        merged: dict[str, Trajectory] = {}
        content = file.read_bytes()
        end = _end_of_valid(content)
        if end < len(content):
            self._torn.add(iteration)
            logger.warning("%s: torn last line of %d bytes dropped", file, len(content) - end)
        for line, record in _records(file, content[:end]):
            if isinstance(record, _Sample):
                _take_sample(merged, record.trajectory, iteration, file, line)
            else:
                _take_scores(merged, record, file, line)
        return merged

    def iterations(self) -> list[int]:
        """Iterations with a file, in ascending order."""
        if not self.folder.is_dir():
            return []
        names = (FILE_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(name.group(1)) for name in names if name)

    def drop_after(self, iteration: int) -> list[int]:
        """Delete the files of all later iterations (a resume from an older state); returns them."""
        dropped = [number for number in self.iterations() if number > iteration]
        for number in dropped:
            self._file(number).unlink()
            self._ids.pop(number, None)
        if dropped:
            _sync_folder(self.folder)
        return dropped

    def _file(self, iteration: int) -> Path:
        return self.folder / f"iteration-{iteration:06d}.jsonl"

    def _refusal(self, iteration: int, what: str) -> RolloutLogError:
        file = self._file(iteration)
        return RolloutLogError(file, file.read_bytes().count(b"\n") + 1, what)

    def _open(self, iteration: int) -> set[str]:
        """Ids already in the file, which is created, or freed of a torn tail, on first touch."""
        if iteration not in self._ids:
            file = self._file(iteration)
            self.folder.mkdir(parents=True, exist_ok=True)
            with file.open("ab"):
                _sync_folder(self.folder)
            # Reading first: a log with a corrupt inner line is refused before anything is cut.
            self._ids[iteration] = set(self.read(iteration))
            _cut_torn_tail(file)
        return self._ids[iteration]

    def _write(self, iteration: int, record: _Sample | _Scores) -> None:
        body = record.model_dump_json().encode()
        line = b'{"crc32":"%08x","record":%b}\n' % (zlib.crc32(body), body)
        with self._file(iteration).open("ab") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())


def _records(file: Path, content: bytes) -> Iterator[tuple[int, _Sample | _Scores]]:
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        body = _checked(line + b"\n")
        if body is None:
            raise RolloutLogError(
                file, number, "checksum does not fit: the line was damaged after it was written"
            )
        try:
            yield number, _RECORD.validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            raise RolloutLogError(file, number, f"{first['loc']}: {first['msg']}") from error


def _take_sample(
    merged: dict[str, Trajectory], trajectory: Trajectory, iteration: int, file: Path, line: int
) -> None:
    if trajectory.id in merged:
        raise RolloutLogError(file, line, f"duplicate trajectory id {trajectory.id!r}")
    if trajectory.iteration != iteration:
        raise RolloutLogError(file, line, f"belongs to iteration {trajectory.iteration}")
    merged[trajectory.id] = trajectory


def _take_scores(merged: dict[str, Trajectory], record: _Scores, file: Path, line: int) -> None:
    for identifier, score in record.scores.items():
        if identifier not in merged:
            raise RolloutLogError(file, line, f"score of an unknown trajectory {identifier!r}")
        merged[identifier] = merged[identifier].with_scores({record.name: score})


def _checked(line: bytes) -> bytes | None:
    """The record's bytes when the line is whole and its checksum fits."""
    match = LINE.fullmatch(line.rstrip(b"\n"))
    if match is None or not line.endswith(b"\n"):
        return None
    return match.group(2) if zlib.crc32(match.group(2)) == int(match.group(1), 16) else None


def _end_of_valid(content: bytes) -> int:
    """Length of the file without a torn last line."""
    start = content.rfind(b"\n", 0, len(content) - 1) + 1
    last = content[start:]
    return len(content) if not last or _checked(last) is not None else start


def _cut_torn_tail(file: Path) -> None:
    content = file.read_bytes()
    end = _end_of_valid(content)
    if end < len(content):
        with file.open("r+b") as stream:
            stream.truncate(end)
            os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
