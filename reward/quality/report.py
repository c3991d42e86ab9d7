"""The validation report of preference files: what is in them and what looks wrong."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pretrain_core.chat import Message, encode
from reward.conditions import DEFAULT, Conditions
from reward.intervals import Interval, paired_bootstrap
from reward.preference import Preference, PreferenceError, PreferenceSet, prompt_keys

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SIDES = ("prompt", "chosen", "rejected")
COUNTED = ("condition", "source", "annotator", "round")


@dataclass(frozen=True)
class Ruler:
    """How lengths are measured: tokens of ChatML turns, or characters without a tokenizer.

    With `max_length` (tokens of a whole reward-model input, condition and score token included)
    over-long records are counted.
    """

    tokenizer: "PreTrainedTokenizerBase | None" = None
    max_length: int | None = None
    conditions: Conditions | None = None

    @property
    def unit(self) -> str:
        """`tokens` or `characters`."""
        return "characters" if self.tokenizer is None else "tokens"

    def length(self, messages: Sequence[Message]) -> int:
        """Length of some turns."""
        if self.tokenizer is None:
            return sum(len(message.content) for message in messages)
        return len(encode(self.tokenizer, messages).tokens)

    def head(self, condition: str | None) -> int:
        """Tokens that the condition takes."""
        if self.conditions is None:
            return 0
        stated = self.conditions.get(condition or DEFAULT).system_prompt
        return self.length([Message(role="system", content=stated)]) if stated else 0


@dataclass(frozen=True)
class OverLong:
    """Records above `max_length`: replies too long to be used, prompts that lose their left."""

    max_length: int
    replies: list[str]
    prompts: list[str]


@dataclass(frozen=True)
class CheckReport:
    """What `check` found; lists of records name them by `file:line`."""

    files: list[dict[str, Any]]
    counts: dict[str, dict[str, int]]
    unit: str
    lengths: dict[str, dict[str, float]]
    longer_wins: dict[str, Interval]
    over_long: OverLong | None
    prompts: int
    most_pairs: int
    repeated_prompts: int
    duplicates: list[list[str]]
    contradictions: list[list[str]]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        over = self.over_long
        return {
            **{name: getattr(self, name) for name in ("files", "counts", "unit", "lengths")},
            "longer_wins": {name: vars(found) for name, found in self.longer_wins.items()},
            "over_long": None if over is None else vars(over),
            "prompts": {
                "distinct": self.prompts,
                "with_several_pairs": self.repeated_prompts,
                "most_pairs": self.most_pairs,
            },
            "duplicates": self.duplicates,
            "contradictions": self.contradictions,
        }

    def tables(self) -> Iterable[tuple[str, list[str], list[list[str]]]]:
        """(title, header, rows) of text."""
        yield (
            "files",
            ["file", "format", "preferences", "quarantined"],
            [
                [f["file"], f["format"], str(f["preferences"]), _listed(f["quarantined"])]
                for f in self.files
            ],
        )
        rows = [
            [kind, name, str(n)] for kind, found in self.counts.items() for name, n in found.items()
        ]
        yield "counts", ["field", "value", "pairs"], rows
        names = ("mean", "median", "p95", "max")
        rows = [[side, *(f"{s[name]:.0f}" for name in names)] for side, s in self.lengths.items()]
        yield f"length in {self.unit}", ["side", *names], rows
        rows = [[group, str(i.n), str(i)] for group, i in self.longer_wins.items()]
        yield "accuracy of 'the longer reply wins', 95 % interval", ["pairs", "n", "share"], rows
        yield "what looks wrong", ["what", "how many", "first"], self._findings()

    def _findings(self) -> list[list[str]]:
        rows = [
            _finding("identical records beyond the first", self.duplicates),
            _finding("pairs judged both ways under one condition", self.contradictions),
            ["prompts with several pairs", str(self.repeated_prompts), f"up to {self.most_pairs}"],
        ]
        if self.over_long is not None:
            limit = self.over_long.max_length
            long = [[where] for where in self.over_long.replies]
            rows.append(_finding(f"replies over max_length {limit} (not usable)", long))
            cut = [[where] for where in self.over_long.prompts]
            rows.append(_finding(f"prompts cut to fit max_length {limit}", cut))
        return rows


def check(sets: Sequence[tuple[str, PreferenceSet]], ruler: Ruler, seed: int = 0) -> CheckReport:
    """Report on named sets of preferences together; raises PreferenceError for none usable."""
    records = [record for _, found in sets for record in found.records]
    origins = [origin for _, found in sets for origin in found.origins]
    if not records:
        reasons = "; ".join(f"{name}: {found.summary()}" for name, found in sets)
        raise PreferenceError(f"no usable preference ({reasons})")
    measured = _measure(records, ruler)
    keys = prompt_keys(records)
    per_prompt = Counter(keys)
    return CheckReport(
        files=[_file(name, found) for name, found in sets],
        counts={name: _counts(records, name) for name in COUNTED},
        unit=ruler.unit,
        lengths={side: _statistics(measured[side]) for side in SIDES},
        longer_wins=_longer_wins(records, measured, keys, seed),
        over_long=_over_long(records, origins, measured, ruler),
        prompts=len(per_prompt),
        most_pairs=max(per_prompt.values()),
        repeated_prompts=sum(count > 1 for count in per_prompt.values()),
        duplicates=_duplicates(records, origins),
        contradictions=_contradictions(records, origins),
    )


def _file(name: str, found: PreferenceSet) -> dict[str, Any]:
    return {
        "file": name,
        "format": found.format,
        "why": found.why,
        "preferences": len(found.records),
        "quarantined": dict(Counter(q.kind for q in found.quarantined)),
        "ignored_fields": dict(found.ignored_fields),
    }


def _counts(records: Sequence[Preference], name: str) -> dict[str, int]:
    values = Counter(getattr(record, name) for record in records)
    return {"(none)" if value is None else str(value): n for value, n in values.most_common()}


def _measure(records: Sequence[Preference], ruler: Ruler) -> dict[str, np.ndarray[Any, Any]]:
    seen: dict[tuple[Message, ...], int] = {}

    def length(messages: tuple[Message, ...]) -> int:
        if messages not in seen:
            seen[messages] = ruler.length(messages)
        return seen[messages]

    return {side: np.array([length(getattr(r, side)) for r in records]) for side in SIDES}


def _statistics(lengths: np.ndarray[Any, Any]) -> dict[str, float]:
    return {
        "mean": float(lengths.mean()),
        "median": float(np.median(lengths)),
        "p95": float(np.quantile(lengths, 0.95)),
        "max": float(lengths.max()),
    }


def _longer_wins(
    records: Sequence[Preference],
    measured: dict[str, np.ndarray[Any, Any]],
    keys: Sequence[int],
    seed: int,
) -> dict[str, Interval]:
    """Per condition, the accuracy of a judge who takes the longer reply (equal length: half)."""
    won = 0.5 + 0.5 * np.sign(measured["chosen"] - measured["rejected"])
    groups: dict[str, list[int]] = {"all": list(range(len(records)))}
    for index, record in enumerate(records):
        groups.setdefault(f"condition {record.condition or DEFAULT}", []).append(index)
    return {
        group: paired_bootstrap(won[rows], seed=seed, clusters=[keys[row] for row in rows])
        for group, rows in groups.items()
    }


def _over_long(
    records: Sequence[Preference],
    origins: Sequence[str],
    measured: dict[str, np.ndarray[Any, Any]],
    ruler: Ruler,
) -> OverLong | None:
    if ruler.max_length is None:
        return None
    heads = {name: ruler.head(name) for name in {record.condition for record in records}}
    # As `reward_input`: condition, prompt, reply, score token.
    fixed = np.array([heads[record.condition] for record in records]) + 1
    reply = fixed + np.maximum(measured["chosen"], measured["rejected"])
    lost = reply > ruler.max_length
    cut = ~lost & (reply + measured["prompt"] > ruler.max_length)
    return OverLong(
        ruler.max_length,
        [origins[row] for row in np.flatnonzero(lost)],
        [origins[row] for row in np.flatnonzero(cut)],
    )


def _duplicates(records: Sequence[Preference], origins: Sequence[str]) -> list[list[str]]:
    """Groups of origins that say the same: prompt, sides, condition and annotator."""
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for record, origin in zip(records, origins, strict=True):
        said = (record.prompt, record.chosen, record.rejected, record.condition or DEFAULT)
        groups[(said, record.annotator)].append(origin)
    return [group for group in groups.values() if len(group) > 1]


def _contradictions(records: Sequence[Preference], origins: Sequence[str]) -> list[list[str]]:
    """Groups of origins that judge one pair under one condition, but not alike."""
    groups: dict[Hashable, list[str]] = defaultdict(list)
    winners: dict[Hashable, set[tuple[Message, ...]]] = defaultdict(set)
    for record, origin in zip(records, origins, strict=True):
        sides = frozenset((record.chosen, record.rejected))
        key = (record.prompt, sides, record.condition or DEFAULT)
        groups[key].append(origin)
        winners[key].add(record.chosen)
    return [group for key, group in groups.items() if len(winners[key]) > 1]


def _finding(what: str, groups: Sequence[Sequence[str]]) -> list[str]:
    extra = sum(max(1, len(group) - 1) for group in groups) if "beyond" in what else len(groups)
    return [
        what,
        str(extra),
        "; ".join(" = ".join(_short(o) for o in group[:3]) for group in groups[:3]),
    ]


def _short(origin: str) -> str:
    return origin.rpartition("/")[2]


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in counts.items()) or "0"
