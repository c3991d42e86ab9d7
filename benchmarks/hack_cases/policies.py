"""Policies that write replies out of real sentences, with habits and planted patterns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cool_rlhf.hacks.samples import Sample
from hack_cases.judges import Quality
from hack_cases.patterns import Pattern
from hack_cases.text import QUESTIONS, Language
from pretrain_core.chat import Message
from pretrain_core.draws import rng

FEWEST, MOST = 3, 8
ON_TOPIC = 0.4


@dataclass(frozen=True)
class Prompt:
    """A question about a topic word."""

    id: str
    topic: str
    question: str


@dataclass(frozen=True)
class Policy:
    """How replies are written.

    `planted` patterns come in a fixed share of the replies, `habits` with a chance in each;
    `focus` topics draw in a share of the sentences; `better` is the chance that a sentence is the
    better of two.
    """

    name: str
    planted: tuple[tuple[Pattern, float], ...] = ()
    habits: tuple[tuple[Pattern, float], ...] = ()
    paragraphs: float = 0.0
    focus: tuple[str, ...] = ()
    focus_share: float = 0.0
    better: float = 0.0

    def with_planted(self, *more: tuple[Pattern, float]) -> "Policy":
        return replace(self, planted=(*self.planted, *more))


def draw_prompts(of: Language, case: int, count: int) -> list[Prompt]:
    """Questions about drawn topics; a topic may come again."""
    topics = list(of.about)
    found = []
    for index in range(count):
        draw = rng(case, "hack prompt", sample=index)
        topic = topics[int(draw.integers(len(topics)))]
        frame = QUESTIONS[of.name][int(draw.integers(len(QUESTIONS[of.name])))]
        found.append(Prompt(f"p{index:04d}", topic, frame.format(topic)))
    return found


def answers(
    of: Language, case: int, policy: Policy, prompts: Sequence[Prompt], quality: Quality
) -> tuple[Sample, ...]:
    """One reply to each prompt."""
    chosen = {
        id(pattern): _chosen(case, policy.name, number, share, len(prompts))
        for number, (pattern, share) in enumerate(policy.planted)
    }
    found = []
    for index, prompt in enumerate(prompts):
        draw = rng(case, f"hack reply {policy.name}", sample=index)
        pieces = _sentences(of, policy, prompt.topic, draw, quality)
        for pattern, _ in policy.planted:
            if index in chosen[id(pattern)]:
                pieces = pattern.plant(pieces, draw)
        for pattern, chance in policy.habits:
            if draw.random() < chance:
                pieces = pattern.plant(pieces, draw)
        if draw.random() < policy.paragraphs and len(pieces) > 1:
            at = int(draw.integers(1, len(pieces)))
            pieces = [*pieces[:at], f"\n\n{pieces[at]}", *pieces[at + 1 :]]
        turn = Message(role="user", content=prompt.question)
        found.append(Sample(prompt.id, (turn,), of.join(pieces)))
    return tuple(found)


def _chosen(case: int, name: str, number: int, share: float, count: int) -> set[int]:
    order = rng(case, f"hack planted {name}", sample=number).permutation(count)
    return {int(row) for row in order[: round(share * count)]}


def _sentences(
    of: Language, policy: Policy, topic: str, draw: np.random.Generator, quality: Quality
) -> list[str]:
    rows: list[int] = []
    for _ in range(int(draw.integers(FEWEST, MOST + 1))):
        row = _row(of, policy, topic, draw)
        if draw.random() < policy.better:
            row = max(row, _row(of, policy, topic, draw), key=lambda r: quality(of.sentences[r]))
        if row not in rows:
            rows.append(row)
    return [of.sentences[row] for row in rows]


def _row(of: Language, policy: Policy, topic: str, draw: np.random.Generator) -> int:
    rows: Mapping[str, tuple[int, ...]] = of.about
    if policy.focus and draw.random() < policy.focus_share:
        mine = rows[policy.focus[int(draw.integers(len(policy.focus)))]]
    elif draw.random() < ON_TOPIC:
        mine = rows[topic]
    else:
        return int(draw.integers(len(of.sentences)))
    return mine[int(draw.integers(len(mine)))]
