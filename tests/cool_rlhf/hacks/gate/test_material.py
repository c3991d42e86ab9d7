"""Legitimate uses among old pairs, and anchors without the hack."""

from dataclasses import replace

from cool_rlhf.hacks.gate import anchors_of, legitimate_uses
from cool_rlhf.hacks.gate.evidence import sides
from cool_rlhf.hacks.patterns.phrases import Phrase
from cool_rlhf.hacks.samples import Comparison
from pretrain_core.chat import Message
from reward.data import Preference
from tests.cool_rlhf.hacks.conftest import sample
from tests.cool_rlhf.hacks.gate.conftest import preference

INDEED = Phrase(("indeed",))


def test_legitimate_is_a_pattern_on_the_better_side_alone() -> None:
    right = preference("?", "Yes indeed.", "No.", id="right", condition="a")
    old = [
        right,
        preference("?", "Yes.", "No indeed.", id="wrong"),
        preference("?", "Indeed yes.", "Indeed no.", id="both"),
        preference("?", "Yes.", "No.", id="neither"),
    ]
    named = replace(right, source=f"hack:{INDEED.name}")
    assert legitimate_uses(INDEED, old) == [named]
    assert legitimate_uses(INDEED, old, hacked={"b"}) == [named]
    assert legitimate_uses(INDEED, old, hacked={"a"}) == []


def test_anchors_are_early_replies_without_the_hacks_one_per_prompt() -> None:
    early = [sample(str(n % 10), f"reply {n}" + " indeed" * (n % 3 == 0)) for n in range(40)]
    comparison = Comparison(tuple(early), tuple(sample(str(n), "late") for n in range(10)))
    found = anchors_of(comparison, [INDEED], 8, seed=1)
    assert len(found) == len({s.id for s in found}) == 8
    assert not any("indeed" in s.reply or "late" in s.reply for s in found)
    assert found == anchors_of(comparison, [INDEED], 8, seed=1)
    assert found != anchors_of(comparison, [INDEED], 8, seed=2)
    assert len(anchors_of(comparison, [INDEED], 100, seed=1)) == 10


def test_earlier_turns_of_a_side_join_its_prompt() -> None:
    turns = [Message(role=r, content=c) for r, c in (("assistant", "1"), ("user", "2"))]
    last = Message(role="assistant", content="3")
    pair = Preference((Message(role="user", content="0"),), (*turns, last), (last,))
    chosen, rejected = sides(pair)
    assert [m.content for m in chosen.prompt] == ["0", "1", "2"]
    assert (chosen.reply, rejected.reply, chosen.id) == ("3", "3", rejected.id)
