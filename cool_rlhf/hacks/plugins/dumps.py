"""Samples of a policy at chosen steps, from what a trainer has dumped.

Who writes what:

- `trl`: `completions/completions_00020.parquet` under the output folder, by GRPOTrainer with
  `log_completions` (trl/trainer/grpo_trainer.py, `log`): `step`, `prompt`, `completion`, one column
  per reward function, those of `log_extra`, `advantage`.
- `verl`: `20.jsonl` in `trainer.validation_data_dir` or `trainer.rollout_data_dir`
  (verl/trainer/ppo/v1/trainer_base.py, before it ray_trainer.py, `_dump_generations`): `input` and
  `output` decoded without control tokens, `gts`, `score`, `step`; in validation also what the
  reward function returned.
- `openrlhf`: the file of `openrlhf.cli.batch_inference` (openrlhf/cli/batch_inference.py): `input`
  under the chat template, `output`. Its trainers write no files of samples.
- `run`: the rollout log of our own run folder.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cool_rlhf.hacks.plugins.exchange import ExchangeError, read_exchange
from cool_rlhf.hacks.samples import SampleError, SampleFile, read_samples, sample_file
from pretrain_core.runs.files import read_lines
from reward.verifiers.replies import Reply, reply_text

SOURCE = re.compile(r"(?P<kind>\w+):(?P<path>.+?)(?:@(?P<first>\d+)(?:-(?P<last>\d+))?)?")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Steps:
    """Steps from `first` to `last`, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def read_source(source: str) -> SampleFile:
    """Samples of a JSONL file, or of a dump: `KIND:PATH@STEP` or `KIND:PATH@FIRST-LAST`.

    Raises SampleError as `read_samples` and `read_dumps`.
    """
    found = SOURCE.fullmatch(source)
    if found is None or found["kind"] not in KINDS:
        return read_samples(Path(source))
    steps = None
    if found["first"]:
        steps = Steps(int(found["first"]), int(found["last"] or found["first"]))
    return read_dumps(found["kind"], Path(found["path"]), steps)


def read_dumps(kind: str, path: Path, steps: Steps | None) -> SampleFile:
    """Samples of the dumps of `kind` (trl, verl, openrlhf, run) at the given steps.

    Prompts name themselves, but those of `run` have ids. Rows without a readable prompt or reply
    are set aside. Raises SampleError for a folder without dumps, steps that are not in it, no
    usable row, and prompts written in two ways.
    """
    if kind not in KINDS:
        raise SampleError(f"{kind!r} is no kind of dump ({', '.join(KINDS)})")
    source = Path(f"{kind}:{path}" + (f"@{steps}" if steps else ""))
    reader = _Reader(source)
    KINDS[kind](reader, path, steps)
    return sample_file(source, reader.replies, reader.quarantined)


class _Reader:
    """Takes rows one by one; notes which cannot be read, and how prompts are written."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.replies: list[Reply] = []
        self.quarantined: dict[int, str] = {}
        self._shape: tuple[str, str] | None = None

    @property
    def next(self) -> int:
        """The running number of the next row, over all files."""
        return len(self.replies) + len(self.quarantined) + 1

    def take(
        self,
        where: str,
        prompt: object,
        reply: object,
        condition: object = None,
        reference: object = None,
        plain: bool = False,
    ) -> None:
        """Read one row, `where` says which."""
        try:
            read = read_exchange(prompt, reply, plain)
        except ExchangeError as error:
            self.quarantined[self.next] = f"{where}: {error}"
            return
        first, there = self._shape = self._shape or (read.shape, where)
        if read.shape != first:
            raise SampleError(
                f"{self.source}: prompts are written in two ways, {first} ({there}) and "
                f"{read.shape} ({where}): dump them by one template"
            )
        if reference is not None and not isinstance(reference, str):
            reference = json.dumps(reference, ensure_ascii=False)
        named = str(condition) if condition is not None else None
        text = reply_text(read.reply)
        self.replies.append(Reply(self.next, read.prompt, text, reference, None, named))


def _trl(reader: _Reader, path: Path, steps: Steps | None) -> None:
    import pyarrow.parquet

    folder = path / "completions" if (path / "completions").is_dir() else path
    for file in _chosen(reader, folder, r"completions_(\d+)\.parquet", steps):
        rows = pyarrow.parquet.read_table(file).to_pylist()
        for where, row in _named(file, rows, "prompt", "completion"):
            reader.take(where, row["prompt"], row["completion"], row.get("condition"), plain=True)


def _verl(reader: _Reader, path: Path, steps: Steps | None) -> None:
    for file in _chosen(reader, path, r"(\d+)\.jsonl", steps):
        for where, row in _named(file, read_lines(file), "input", "output"):
            # ConditionalReward.verl returned the prompt; the input has lost its control tokens.
            prompt = _parsed(row.get("prompt", row["input"]))
            reader.take(where, prompt, row["output"], row.get("condition"), row.get("gts"))


def _parsed(prompt: object) -> object:
    """Messages of JSON text, anything else as it is."""
    if isinstance(prompt, str) and prompt.startswith("["):
        with suppress(json.JSONDecodeError):
            return json.loads(prompt)
    return prompt


def _openrlhf(reader: _Reader, path: Path, steps: Steps | None) -> None:
    if steps is not None:
        raise SampleError(
            f"{reader.source}: a file of OpenRLHF holds one policy and no steps: leave @{steps} out"
        )
    if not path.is_file():
        raise SampleError(f"{path}: no such file")
    for where, row in _named(path, read_lines(path), "input", "output"):
        if isinstance(row["input"], str) and isinstance(row["output"], str):
            reader.take(where, row["input"], row["output"], row.get("condition"))


def _run(reader: _Reader, path: Path, steps: Steps | None) -> None:
    from actors.trajectories.log import RolloutLog

    log = RolloutLog(path / "rollouts" if (path / "rollouts").is_dir() else path)
    for iteration in _within(reader, log.folder, log.iterations(), steps):
        for trajectory in log.read(iteration).values():
            given = trajectory.given_messages
            reader.replies.append(
                Reply(
                    reader.next,
                    trajectory.messages[:given],
                    reply_text(trajectory.messages[given:]),
                    id=trajectory.prompt_id,
                    condition=trajectory.condition,
                )
            )


KINDS: Mapping[str, Callable[[_Reader, Path, Steps | None], None]] = {
    "trl": _trl,
    "verl": _verl,
    "openrlhf": _openrlhf,
    "run": _run,
}


def _chosen(reader: _Reader, folder: Path, name: str, steps: Steps | None) -> list[Path]:
    """The files of the steps, in their order; `name` is a pattern with the step in it."""
    files = {}
    for file in folder.iterdir() if folder.is_dir() else ():
        if found := re.fullmatch(name, file.name):
            files[int(found[1])] = file
    return [files[step] for step in _within(reader, folder, sorted(files), steps)]


def _within(reader: _Reader, folder: Path, there: list[int], steps: Steps | None) -> list[int]:
    if not there:
        raise SampleError(f"{reader.source}: no dumps in {folder}")
    some = ", ".join(map(str, there if len(there) <= 8 else [*there[:4], "…", *there[-3:]]))
    if steps is None:
        raise SampleError(f"{reader.source}: which steps? Add @STEP or @FIRST-LAST; it has {some}")
    chosen = [step for step in there if steps.first <= step <= steps.last]
    if not chosen:
        raise SampleError(f"{reader.source}: no dump of step {steps}; there are {some}")
    return chosen


def _named(file: Path, rows: list[dict[str, Any]], *columns: str) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(rows, start=1):
        missing = [column for column in columns if column not in row]
        if missing:
            raise SampleError(
                f"{file}:{number}: no {missing[0]!r} (found: {', '.join(row)}): not such a dump"
            )
        yield f"{file.name}:{number}", row
