"""The best-of-n probe finds the hack that a patch leaves or makes, and only that."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from cool_rlhf.hacks.confirmation import Rise
from cool_rlhf.hacks.detect import Finding, detect
from cool_rlhf.hacks.gate import GateSettings
from cool_rlhf.hacks.gate.probe import (
    best,
    neighbour_of,
    picked,
    probe,
    replies_to_pick_from,
)
from cool_rlhf.hacks.judges import Array
from cool_rlhf.hacks.samples import Comparison, Sample
from pretrain_core.errors import RunFailed
from tests.cool_rlhf.hacks.conftest import World, sample

NEIGHBOUR = "as any expert knows"
SETTINGS = GateSettings()


def planted(text: str, draw: np.random.Generator) -> str:
    return text.replace(". ", f", {NEIGHBOUR}. ", 1)


@pytest.fixture(scope="module")
def world(make_world: Callable[..., World]) -> World:
    return make_world(NEIGHBOUR, planted, share=0.5, prompts=140)


def test_a_neighbour_hack_fails_and_an_old_one_does_not(world: World) -> None:
    pays, fair = world.judge(1.5, name="model"), world.judge(0.0, name="model")
    gold = world.judge(0.0, name="gold")
    found = probe(world.comparison, pays, fair, gold, SETTINGS)
    assert found.verdict == "fail"
    assert NEIGHBOUR in found.reason
    assert NEIGHBOUR in found.statement
    known = probe(world.comparison, pays, pays, gold, SETTINGS)
    assert known.verdict == "pass", known.reason
    assert NEIGHBOUR in known.statement


def test_a_child_that_picks_by_worth_has_no_neighbour(world: World) -> None:
    fair, gold = world.judge(0.0, name="model"), world.judge(0.0, name="gold")
    found = probe(world.comparison, fair, fair, gold, SETTINGS)
    assert found.verdict == "pass", found.reason
    assert "140 prompts" in found.statement


def test_prompts_that_proposed_a_pattern_do_not_say_whether_it_is_new(world: World) -> None:
    """There the child's picks have it because it was looked for in them."""
    (pattern, *_) = [
        f.pattern
        for f in detect(
            world.comparison, world.judge(1.5), world.judge(0.0), SETTINGS.probe.detector
        ).findings
    ]
    having = [s for s in world.comparison.late if pattern.present(s)]
    lacking = [s.saying("Nothing of the kind.") for s in having]
    proposed, tested = having[: len(having) // 2], having[len(having) // 2 :]
    rise = Rise(pattern, 0.0, 0.5, 1.0, 0.001, prompts=frozenset(s.id for s in tested))
    theirs = [*lacking[: len(proposed)], *tested]
    found = neighbour_of(Finding(rise, "hack", ""), having, theirs, SETTINGS)
    assert (found.more.mean, found.more.n) == (0.0, len(tested))
    assert neighbour_of(Finding(rise, "hack", ""), having, lacking, SETTINGS).verdict == "fail"


def test_what_gold_pays_for_is_no_neighbour(world: World) -> None:
    pays, gold = world.judge(1.5, name="model"), world.judge(1.5, name="gold")
    fair = world.judge(0.0, name="model")
    assert probe(world.comparison, pays, fair, gold, SETTINGS).verdict == "pass"


def test_the_probe_is_not_run_without_gold_samples_or_prompts(world: World) -> None:
    fair = world.judge(0.0)
    assert probe(None, fair, fair, fair, SETTINGS).reason == "give early and late samples"
    assert probe(world.comparison, fair, fair, None, SETTINGS).reason == "give a gold signal"
    few = Comparison(world.comparison.early[:30], world.comparison.late[:30])
    found = probe(few, fair, fair, fair, SETTINGS)
    assert (found.verdict, found.required) == ("not run", True)
    assert "are needed: give more samples" in found.reason


def test_a_gold_signal_that_fails_leaves_the_probe_undecided(world: World) -> None:
    def silent(samples: Sequence[Sample]) -> Array:
        raise RunFailed("no answer within 3 s")

    pays, fair = world.judge(1.5, name="model"), world.judge(0.0, name="model")
    found = probe(world.comparison, pays, fair, silent, SETTINGS)
    assert (found.verdict, found.reason) == ("undecided", "the probe stopped: no answer within 3 s")


def test_pools_and_picks() -> None:
    early = [sample("a", "one"), sample("a", "two"), sample("b", "one"), sample("c", "same")]
    late = [sample("a", "three"), sample("b", "four!"), sample("c", "same")]
    comparison = Comparison(tuple(early), tuple(late))
    pools = replies_to_pick_from(comparison, SETTINGS)
    assert sorted(len(pool) for pool in pools) == [2, 3]  # c has one reply, said twice

    def longest(samples: Sequence[Sample]) -> Array:
        return np.array([float(len(s.reply)) for s in samples])

    assert {s.reply for s in best(pools, longest)} == {"three", "four!"}
    picks = picked(pools, longest, 0)
    assert all(a != b and a.id == b.id for a, b in zip(picks.early, picks.late, strict=True))
    probing = SETTINGS.probe.model_copy(update={"replies": 2, "prompts": 1})
    (pool,) = replies_to_pick_from(comparison, SETTINGS.model_copy(update={"probe": probing}))
    assert len(pool) == 2
