"""Public pairwise sets by path: files in the shapes of RewardBench, LLMBar and RM-Bench.

Nothing is fetched: the user brings the files.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain_core.chat import ChatError, Message, conversation
from pretrain_core.runs.files import RunError, read_json, read_lines
from reward.data import Quarantined
from reward.evaluation.scoring import EvaluationError

STYLES = 3  # RM-Bench: concise, detailed, detailed with markdown


@dataclass(frozen=True)
class Case:
    """One task: replies that are right and replies that are wrong, all to the same prompt."""

    group: str
    prompt: tuple[Message, ...]
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """The cases of a file or folder, and what was set aside."""

    shape: str
    cases: list[Case]
    quarantined: list[Quarantined]


def read_benchmark(path: Path) -> Benchmark:
    """Read JSON, JSONL or Parquet, or a folder of `dataset.json` files; the keys tell the shape.

    Records of another shape than the first are set aside. Raises EvaluationError for a file in
    none of the shapes, RunError for one that cannot be read.
    """
    shape, read = "", None
    cases: list[Case] = []
    quarantined: list[Quarantined] = []
    for name, number, raw in _records(path):
        if read is None:
            shape = _shape_of(raw, path)
            read = READERS[shape]
        try:
            cases.append(read(raw, name))
        except (KeyError, TypeError, ChatError, EvaluationError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            quarantined.append(Quarantined(number, reason, str(raw)[:200]))
    if not cases:
        first = f"; the first: {quarantined[0].reason}" if quarantined else ""
        raise EvaluationError(f"{path}: no usable case{first}")
    return Benchmark(shape, cases, quarantined)


def _records(path: Path) -> Iterator[tuple[str, int, Any]]:
    """(folder below `path`, 1-based number, record) of every record."""
    if path.is_dir():
        files = sorted(path.rglob("dataset.json"))
        if not files:
            raise EvaluationError(f"{path}: no dataset.json below this folder")
        for file in files:
            name = file.parent.relative_to(path).as_posix()
            for number, raw in enumerate(read_json(file), start=1):
                yield name, number, raw
        return
    if path.suffix == ".parquet":
        from pyarrow import parquet

        if not path.is_file():
            raise RunError(f"{path}: no such file")
        rows: Sequence[Any] = parquet.read_table(path).to_pylist()
    elif path.suffix == ".jsonl":
        if not path.is_file():
            raise RunError(f"{path}: no such file")
        rows = read_lines(path)
    else:
        rows = read_json(path)
        if not isinstance(rows, list):
            raise EvaluationError(f"{path}: expected a list of records")
    for number, raw in enumerate(rows, start=1):
        yield path.stem, number, raw


def _shape_of(raw: Any, path: Path) -> str:
    if isinstance(raw, Mapping):
        if {"output_1", "output_2", "label"} <= raw.keys():
            return "LLMBar"
        if "chosen" in raw and isinstance(raw["chosen"], list):
            return "RM-Bench"
        if {"chosen", "rejected", "subset"} <= raw.keys():
            return "RewardBench"
    raise EvaluationError(
        f"{path}: none of the known shapes: RewardBench (prompt, chosen, rejected, subset), LLMBar "
        "(input, output_1, output_2, label), RM-Bench (prompt, three chosen, three rejected)"
    )


def _prompt(value: Any) -> tuple[Message, ...]:
    turns = [{"role": "user", "content": value}] if isinstance(value, str) else value
    return conversation(turns)


def _texts(raw: Mapping[str, Any], name: str, count: int) -> tuple[str, ...]:
    value = raw[name] if isinstance(raw[name], list) else [raw[name]]
    if len(value) != count or not all(isinstance(text, str) and text.strip() for text in value):
        raise EvaluationError(f"{name!r}: expected {count} non-empty text(s)")
    return tuple(value)


def _reward_bench(raw: Mapping[str, Any], _: str) -> Case:
    sides = _texts(raw, "chosen", 1), _texts(raw, "rejected", 1)
    return Case(str(raw["subset"]), _prompt(raw["prompt"]), *sides)


def _llmbar(raw: Mapping[str, Any], name: str) -> Case:
    if raw["label"] not in (1, 2):
        raise EvaluationError(f"label {raw['label']!r}; expected 1 or 2")
    sides = _texts(raw, "output_1", 1), _texts(raw, "output_2", 1)
    return Case(name, _prompt(raw["input"]), *(sides if raw["label"] == 1 else sides[::-1]))


def _rm_bench(raw: Mapping[str, Any], name: str) -> Case:
    # The two halves of the safety domain count as one.
    group = re.sub(r"^safety-.*", "safety", str(raw.get("domain", name)))
    sides = _texts(raw, "chosen", STYLES), _texts(raw, "rejected", STYLES)
    return Case(group, _prompt(raw["prompt"]), *sides)


READERS: dict[str, Callable[[Mapping[str, Any], str], Case]] = {
    "RewardBench": _reward_bench,
    "LLMBar": _llmbar,
    "RM-Bench": _rm_bench,
}
