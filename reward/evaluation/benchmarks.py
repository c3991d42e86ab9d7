"""Accuracies on public pairwise sets, summed up as their authors do, with intervals.

Published scores are comparable only if the whole set is given and read under `default`.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pretrain_core.chat import Message
from reward.evaluation.benchmark_files import STYLES, Benchmark, Case
from reward.evaluation.scoring import EvaluationError
from reward.inputs import RewardInputError
from reward.intervals import Array, Interval, bootstrap_statistic
from reward.model import RewardModel

# RewardBench: which subsets form a section.
SECTIONS = {
    "chat": r"alpacaeval-.*|mt-bench-(easy|med)",
    "chat hard": r"mt-bench-hard|llmbar-.*",
    "safety": r"refusals-.*|xstest-.*|donotanswer",
    "reasoning": r"math-prm|hep-.*",
}
MATHS = "math-prm"


@dataclass(frozen=True)
class BenchmarkReport:
    """Accuracies with bootstrap intervals over cases; a tie is wrong."""

    shape: str
    accuracy: dict[str, Interval]
    left_out: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """(header, rows) of text."""
        rows = [[name, str(found.n), str(found)] for name, found in self.accuracy.items()]
        return ["group", "cases", "accuracy"], rows


def run_benchmark(
    model: RewardModel, benchmark: Benchmark, condition: str | None = None, seed: int = 0
) -> BenchmarkReport:
    """Accuracies of a model; every case is read under the one `condition` (None: `default`).

    Cases whose replies are too long for the model are left out and counted.
    """
    kept: list[Case] = []
    inputs: list[list[int]] = []
    for case in benchmark.cases:
        try:
            replies = [
                model.input([*case.prompt, Message(role="assistant", content=text)], condition)
                for text in (*case.chosen, *case.rejected)
            ]
        except RewardInputError:
            continue  # counted below
        kept.append(case)
        inputs += replies
    if not kept:
        raise EvaluationError(f"no case fits into {model.card.max_length} tokens")
    scores = model.score(inputs).double().numpy()
    wins = []
    start = 0
    for case in kept:
        cut, end = start + len(case.chosen), start + len(case.chosen) + len(case.rejected)
        wins.append(scores[start:cut, None] > scores[None, cut:end])
        start = end
    outcome = SUMMARIES[benchmark.shape](kept, np.array(wins, dtype=np.float64), seed)
    left_out = len(benchmark.cases) - len(kept) + len(benchmark.quarantined)
    return BenchmarkReport(benchmark.shape, outcome, left_out)


def _rows_by_group(cases: Sequence[Case]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for index, case in enumerate(cases):
        groups[case.group].append(index)
    return dict(sorted(groups.items()))


def _pooled(
    values: Array, parts: Sequence[Sequence[int]], weights: Sequence[float], seed: int
) -> Interval:
    """Interval of the mean over parts (cases by index), each part's mean times its weight."""
    inside = sorted({row for rows in parts for row in rows})
    member = np.zeros((len(values), len(parts)))
    for column, rows in enumerate(parts):
        member[list(rows), column] = 1.0
    columns = np.concatenate([member * values[:, None], member], axis=1)[inside]
    share = np.array(weights) / sum(weights)

    def statistic(sums: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return (sums[:, : len(parts)] / sums[:, len(parts) :]) @ share

    return bootstrap_statistic(columns, statistic, seed=seed)


def _summarise_reward_bench(cases: Sequence[Case], wins: Array, seed: int) -> dict[str, Interval]:
    """Subsets; sections (subsets by size, maths as much as all code); their mean as `score`."""
    right, groups = wins[:, 0, 0], _rows_by_group(cases)
    found = {name: _pooled(right, [rows], [1.0], seed) for name, rows in groups.items()}
    parts: list[list[int]] = []
    weights: list[float] = []
    for section, pattern in SECTIONS.items():
        inside = {name: rows for name, rows in groups.items() if re.fullmatch(pattern, name)}
        if not inside:
            continue
        rest = [row for name, rows in inside.items() if name != MATHS for row in rows]
        halves = [half for half in (rest, inside.get(MATHS, [])) if half]
        found[f"section {section}"] = _pooled(right, halves, [1.0] * len(halves), seed)
        parts += halves
        weights += [1.0 / len(halves)] * len(halves)
    if parts:
        found["score (mean of sections)"] = _pooled(right, parts, weights, seed)
    return found


def _summarise_llmbar(cases: Sequence[Case], wins: Array, seed: int) -> dict[str, Interval]:
    """Each data set of the folder, and the mean over them."""
    right, groups = wins[:, 0, 0], _rows_by_group(cases)
    found = {name: _pooled(right, [rows], [1.0], seed) for name, rows in groups.items()}
    found["score (mean of sets)"] = _pooled(right, list(groups.values()), [1.0] * len(groups), seed)
    return found


def _summarise_rm_bench(cases: Sequence[Case], wins: Array, seed: int) -> dict[str, Interval]:
    """Per domain and overall: chosen in plainer style than rejected is hard, in richer style easy.

    Overall figures are means over domains.
    """
    chosen, rejected = np.indices((STYLES, STYLES))
    levels = {
        "easy": wins[:, chosen > rejected].mean(axis=1),
        "normal": wins[:, chosen == rejected].mean(axis=1),
        "hard": wins[:, chosen < rejected].mean(axis=1),
    }
    levels["average"] = np.mean(list(levels.values()), axis=0)
    groups = _rows_by_group(cases)
    found: dict[str, Interval] = {}
    for level, values in levels.items():
        for name, rows in groups.items():
            found[f"{name}, {level}"] = _pooled(values, [rows], [1.0], seed)
    for level, values in levels.items():
        every = list(groups.values())
        found[f"all domains, {level}"] = _pooled(values, every, [1.0] * len(every), seed)
    return found


SUMMARIES: dict[str, Callable[[Sequence[Case], Array, int], dict[str, Interval]]] = {
    "RewardBench": _summarise_reward_bench,
    "LLMBar": _summarise_llmbar,
    "RM-Bench": _summarise_rm_bench,
}
