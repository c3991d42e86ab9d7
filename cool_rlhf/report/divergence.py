"""Where two PPO runs part: the first quantity that differs, in the order of computation."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from actors.trajectories import RolloutLog, Trajectory
from pretrain_core.runs.run import read_metrics

# Metrics by prefix, in the order of an iteration; the rest follows by name.
_ORDER = (
    *("rollout/", "objective/", "rm/", "reward/", "guard/", "critic/vf_explained_var"),
    *("loss/value", "critic/", "loss/", "policy/", "actor/", "sync/"),
)
_NOT_COMPARED = ("timing_s/", "perf/", "hack/", "step")


@dataclass(frozen=True)
class Divergence:
    """The iteration, what differs, and its value in either run."""

    iteration: int
    quantity: str
    first: object
    second: object

    def __str__(self) -> str:
        return f"iteration {self.iteration}: {self.quantity}: {self.first} and {self.second}"


def first_divergence(first: Path, second: Path) -> Divergence | None:
    """Of two run directories; None where all that both have is the same.

    Samples come before scores, scores before metrics; what only one run has is not compared, but
    for samples. Times are no part of it.
    """
    rows = [{int(row["step"]): row for row in read_metrics(run)} for run in (first, second)]
    logs = [RolloutLog(run / "rollouts") for run in (first, second)]
    for iteration in sorted(rows[0].keys() & rows[1].keys()):
        samples = [log.read(iteration) for log in logs]
        found = next(_samples(iteration, *samples), None) or next(
            _metrics(iteration, rows[0][iteration], rows[1][iteration]), None
        )
        if found is not None:
            return found
    return None


def _samples(
    iteration: int, first: Mapping[str, Trajectory], second: Mapping[str, Trajectory]
) -> Iterator[Divergence]:
    for name in sorted(first.keys() ^ second.keys()):
        there = [name in samples for samples in (first, second)]
        words = ["there" if is_there else "missing" for is_there in there]
        yield Divergence(iteration, f"sample {name}", *words)
    for name in sorted(first.keys() & second.keys()):
        yield from _tokens(iteration, first[name], second[name])
    for name in sorted(first.keys() & second.keys()):
        ours, theirs = first[name].scores, second[name].scores
        for score in sorted(ours.keys() & theirs.keys()):
            a, b = ours[score], theirs[score]
            if a.value != b.value:
                yield Divergence(iteration, f"score {score} of {name}", a.value, b.value)


def _tokens(iteration: int, first: Trajectory, second: Trajectory) -> Iterator[Divergence]:
    pairs = enumerate(zip(first.tokens, second.tokens, strict=False))
    for at, (a, b) in pairs:
        if a != b:
            yield Divergence(iteration, f"token {at} of {first.id}", a, b)
            return
    if len(first.tokens) != len(second.tokens):
        quantity = f"tokens of {first.id}"
        yield Divergence(iteration, quantity, len(first.tokens), len(second.tokens))


def _metrics(
    iteration: int, first: Mapping[str, float], second: Mapping[str, float]
) -> Iterator[Divergence]:
    names = [n for n in first.keys() & second.keys() if not n.startswith(_NOT_COMPARED)]
    for name in sorted(names, key=_rank):
        a, b = first[name], second[name]
        # A value that is no number equals itself here.
        if a != b and not (a != a and b != b):
            yield Divergence(iteration, name, a, b)


def _rank(name: str) -> tuple[int, str]:
    places = [place for place, prefix in enumerate(_ORDER) if name.startswith(prefix)]
    return (min(places, default=len(_ORDER)), name)
