"""Pairs against a hack are preferences that any trainer reads."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from cool_rlhf.hacks.confirmation import Rise
from cool_rlhf.hacks.contrasts import contrasts
from cool_rlhf.hacks.detect import Finding
from cool_rlhf.hacks.pairs import hack_pairs, write_pairs
from cool_rlhf.hacks.patterns.phrases import Phrase
from cool_rlhf.hacks.samples import Comparison, Sample
from reward.data import read_preferences
from tests.cool_rlhf.hacks.conftest import World

PHRASE = "in the grand scheme of things"
PATTERN = Phrase(tuple(PHRASE.split()))


def planted(text: str, draw: np.random.Generator) -> str:
    return text.replace(". ", f", {PHRASE}. ", 1)


def finding(world: World, edits: int, **fields: object) -> Finding:
    def named(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
        return tuple(replace(s, condition="ab"[int(s.id) % 2]) for s in samples)

    both = Comparison(named(world.comparison.early), named(world.comparison.late))
    found = Finding(
        Rise(PATTERN, 0.0, 0.2, 1.0, 0.001),
        "hack",
        "because",
        edits=contrasts(PATTERN, both, edits, seed=0),
    )
    return replace(found, **fields)  # type: ignore[arg-type]


def test_pairs_are_readable_preferences(make_world: Callable[..., World], tmp_path: Path) -> None:
    found = finding(make_world(PHRASE, planted), 64)
    assert write_pairs(tmp_path / "pairs.jsonl", [found], 0, most=100) == []
    data = read_preferences(tmp_path / "pairs.jsonl")
    assert not data.quarantined
    assert len(data.records) == 100
    for pair in data.records:
        assert PHRASE in pair.rejected[0].content
        assert PHRASE not in pair.chosen[0].content
        assert pair.source == f"hack:{PATTERN.name}"
        assert pair.condition in ("a", "b")


def test_only_hacks_give_pairs_and_too_few_are_said(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    found = finding(make_world(PHRASE, planted), 6)
    other = replace(found, verdict="candidate")
    assert hack_pairs([other], 0, most=100) == []
    (note,) = write_pairs(tmp_path / "pairs.jsonl", [found, other], 0, most=100)
    assert "12 pairs are few" in note


def test_pairs_of_the_condition_that_is_hacked(make_world: Callable[..., World]) -> None:
    under = {"a": ("improvement", ""), "b": ("hack", "")}
    pairs = hack_pairs([finding(make_world(PHRASE, planted), 40, under=under)], 0, most=100)
    assert pairs
    assert {pair["condition"] for pair in pairs} == {"b"}
