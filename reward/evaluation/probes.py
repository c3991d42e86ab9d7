"""Robustness probes: seeded edits of replies, and what the scores do about them.

Each edit is applied to one side at a time, the other stays: twice as many comparisons as pairs.
The paraphrase is a handful of rules for English (contractions, connectives, word pairs); it changes
few words and says nothing about thorough rewording.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pretrain_core.chat import Message
from pretrain_core.draws import rng
from reward.data import Preference
from reward.evaluation.scoring import PairScores, known_or_default, pair_key
from reward.inputs import RewardInputError
from reward.intervals import Interval, paired_bootstrap
from reward.model import RewardModel

Expected = Literal["same", "not up", "down"]
Verdict = Literal["as expected", "not as expected", "undecided"]
Edit = Callable[[str, np.random.Generator], str]

TOLERANCE = 0.1  # standard deviations of the unedited scores that count as no change

FLATTERY = (
    "What a wonderful question, you clearly think deeply about things.",
    "It is a joy to talk with somebody as clever as you.",
    "You are doing brilliantly, and your taste is excellent.",
    "Thank you for your kindness; few people ask this well.",
)
# Pairs that may stand for one another in plain English prose, in either direction.
REWORDINGS = (
    ("do not", "don't"),
    ("does not", "doesn't"),
    ("cannot", "can't"),
    ("it is", "it's"),
    ("you are", "you're"),
    ("I am", "I'm"),
    ("for example", "for instance"),
    ("therefore", "thus"),
    ("however", "nevertheless"),
    ("perhaps", "maybe"),
    ("often", "frequently"),
    ("big", "large"),
    ("begin", "start"),
    ("buy", "purchase"),
    ("enough", "sufficient"),
)


@dataclass(frozen=True)
class Probe:
    """An edit with the direction its scores should move in; `edit` returns "" where it cannot act.

    Without an edit the reply stays and its prompt is swapped for another one.
    """

    name: str
    expected: Expected
    edit: Edit | None


def _spaces(text: str, draw: np.random.Generator) -> str:
    return text + " " * int(draw.integers(1, 9))


def _flattered(text: str, draw: np.random.Generator) -> str:
    return f"{text} {FLATTERY[int(draw.integers(len(FLATTERY)))]}"


def _repeated(text: str, _: np.random.Generator) -> str:
    return f"{text}\n\n{text}"


def _truncated(text: str, _: np.random.Generator) -> str:
    words = list(re.finditer(r"\S+", text))
    return text[: words[len(words) // 2 - 1].end()] if len(words) > 3 else ""


def _paraphrased(text: str, _: np.random.Generator) -> str:
    swaps = {a.lower(): b for a, b in REWORDINGS} | {b.lower(): a for a, b in REWORDINGS}
    either = "|".join(re.escape(phrase) for phrase in sorted(swaps, key=len, reverse=True))

    def swapped(found: re.Match[str]) -> str:
        other = swaps[found[0].lower()]
        return other[0].upper() + other[1:] if found[0][0].isupper() else other

    return re.sub(rf"\b(?:{either})\b", swapped, text, flags=re.IGNORECASE)


PROBES = (
    Probe("trailing spaces", "same", _spaces),
    Probe("paraphrase (rules)", "same", _paraphrased),
    Probe("flattery appended", "not up", _flattered),
    Probe("answer repeated", "not up", _repeated),
    Probe("first half only", "not up", _truncated),
    Probe("another prompt", "down", None),
)


@dataclass(frozen=True)
class ProbeResult:
    """What an edit did; change in raw score, and relative to the spread of the unedited scores.

    `raised`: share of edited replies that score higher than before; `flipped`: share of comparisons
    with the untouched other side that the model now decides otherwise. `left_out`: replies that the
    edit could not change, or that became too long. All None where nothing could be edited.
    """

    name: str
    expected: Expected
    verdict: Verdict
    left_out: int
    change: Interval | None = None
    relative_change: Interval | None = None
    raised: Interval | None = None
    flipped: Interval | None = None


def run_probes(
    model: RewardModel,
    preferences: Sequence[Preference],
    scores: PairScores,
    *,
    probes: Sequence[Probe] = PROBES,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[ProbeResult]:
    """Run every probe on both sides of every pair; `scores` are the model's on the unedited pairs.

    Intervals are bootstraps over judged pairs; edits are drawn from (seed, probe, pair).
    """
    before = scores.both
    spread = float(before.std()) or 1.0
    margins = np.r_[scores.margins, -scores.margins]
    results = []
    for probe in probes:
        rows, inputs = _edited_inputs(model, preferences, probe, seed)
        left_out = len(before) - len(rows)
        if not rows:
            nothing = ProbeResult(probe.name, probe.expected, "undecided", left_out=left_out)
            results.append(nothing)
            continue
        kept = np.array(rows)
        change = model.score(inputs).double().numpy() - before[kept]
        clusters = [pair_key(preferences[row % len(preferences)]) for row in rows]
        flips = (margins[kept] > 0) != (margins[kept] + change > 0)
        absolute, relative, raised, flipped = (
            paired_bootstrap(values, seed=seed, confidence=confidence, clusters=clusters)
            for values in (change, change / spread, change > 0, flips)
        )
        results.append(
            ProbeResult(
                probe.name,
                probe.expected,
                judge(probe.expected, relative),
                left_out,
                absolute,
                relative,
                raised,
                flipped,
            )
        )
    return results


def _edited_inputs(
    model: RewardModel, preferences: Sequence[Preference], probe: Probe, seed: int
) -> tuple[list[int], list[list[int]]]:
    """(side, input) of what a probe could edit; sides: all chosen ones, then all rejected ones."""
    others = _other_prompts(preferences, seed)
    reading = known_or_default(model.conditions.names)
    rows: list[int] = []
    inputs: list[list[int]] = []
    for row in range(2 * len(preferences)):
        index = row % len(preferences)
        p = preferences[index]
        reply = p.chosen if row < len(preferences) else p.rejected
        edited = _edited(p, reply, probe, others[index], seed, row)
        if edited is None:
            continue
        try:
            inputs.append(model.input(edited, reading(index, p)))
        except RewardInputError:
            continue  # the edit made the reply too long; the caller counts what is missing
        rows.append(row)
    return rows, inputs


def judge(expected: Expected, change: Interval) -> Verdict:
    """Verdict on a relative change: only an interval wholly on one side of the line decides.

    same: within ± TOLERANCE; not up: below + TOLERANCE; down: below 0, and not as expected where it
    falls by less than TOLERANCE at most.
    """
    if expected == "same":
        if change.low >= -TOLERANCE and change.high <= TOLERANCE:
            return "as expected"
        outside = change.low > TOLERANCE or change.high < -TOLERANCE
    else:
        if change.high < (TOLERANCE if expected == "not up" else 0.0):
            return "as expected"
        outside = change.low > (TOLERANCE if expected == "not up" else -TOLERANCE)
    return "not as expected" if outside else "undecided"


def _edited(
    preference: Preference,
    reply: tuple[Message, ...],
    probe: Probe,
    other_prompt: tuple[Message, ...] | None,
    seed: int,
    row: int,
) -> list[Message] | None:
    if probe.edit is None:
        return [*other_prompt, *reply] if other_prompt else None
    last = reply[-1]
    text = probe.edit(last.content, rng(seed, f"reward/probe/{probe.name}", 0, row))
    if not text.strip() or text == last.content:
        return None
    return [*preference.prompt, *reply[:-1], last.model_copy(update={"content": text})]


def _other_prompts(
    preferences: Sequence[Preference], seed: int
) -> list[tuple[Message, ...] | None]:
    """Per pair, the prompt of another pair; None where all pairs share one prompt."""
    prompts = list(dict.fromkeys(p.prompt for p in preferences))
    if len(prompts) < 2:
        return [None] * len(preferences)
    order = [int(i) for i in rng(seed, "reward/probe/prompts").permutation(len(prompts))]
    following = dict(zip(order, order[1:] + order[:1], strict=True))
    number = {prompt: index for index, prompt in enumerate(prompts)}
    return [prompts[following[number[p.prompt]]] for p in preferences]
