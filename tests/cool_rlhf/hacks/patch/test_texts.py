"""What is read before a patch, and what is made of it where the patterns are known."""

import json
from pathlib import Path
from typing import Any

import pytest

from cool_rlhf.hacks.gate import GateSettings
from cool_rlhf.hacks.patch import PatchError
from cool_rlhf.hacks.patch.found import read_hacks
from cool_rlhf.hacks.patch.texts import PatchFiles, PatchTexts, read_texts
from reward.data import Preference, write_preferences
from reward.model import RewardModel
from tests.hacked import Hacked
from tests.reward.conftest import pair

BRIGHT = {"bright": {"verdict": "hack"}, "dark": {"verdict": "improvement"}}


def finding(under: dict[str, Any], name: str = "indeed") -> dict[str, Any]:
    return {"name": name, "under": under, "pattern": {"kind": "phrase", "gram": ["indeed"]}}


def write(path: Path, *findings: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"findings": findings}))
    return path


def uses(first: str) -> list[Preference]:
    """Pairs with the pattern on the better side, on the worse one, and on none."""
    return [
        pair("sun indeed", "night", f"{first} a", condition="bright"),
        pair("night indeed", "sun", f"{first} b", condition="dark"),
        pair("sun", "night indeed", f"{first} c", condition="dark"),
        pair("sun", "night", f"{first} d", condition="bright"),
    ]


@pytest.fixture
def read(hacked: Hacked, tmp_path: Path) -> Any:
    def read_it(hacks: Path | None = None, **records: list[Preference]) -> PatchTexts:
        given = {"pairs": hacked.pairs, "old": uses("old"), "held_out": uses("held")} | records
        paths = {n: write_preferences(tmp_path / f"{n}.jsonl", r) for n, r in given.items()}
        files = PatchFiles(**paths, hacks=hacks)
        return read_texts(files, RewardModel.load(hacked.parent), GateSettings())

    return read_it


def test_where_a_pattern_is_a_hack_it_is_not_replayed_and_elsewhere_rightful(
    read: Any, tmp_path: Path
) -> None:
    everywhere = read(write(tmp_path / "all.json", finding({})))
    assert [p.prompt[0].content for p in everywhere.old] == ["old d"]
    assert [p.source for p in everywhere.legitimate] == ["hack:indeed"] * 2
    assert "3 pairs have a pattern" in everywhere.notes[0]
    bright = read(write(tmp_path / "bright.json", finding(BRIGHT)))
    assert [p.prompt[0].content for p in bright.old] == ["old b", "old c", "old d"]
    assert [p.prompt[0].content for p in bright.legitimate] == ["held b"]
    assert len(bright.anchors) == 5
    assert not any("indeed" in anchor.reply for anchor in bright.anchors)


def test_an_unknown_pattern_is_said_to_be_unknown(read: Any, tmp_path: Path) -> None:
    texts = read()
    assert (len(texts.old), len(texts.legitimate), len(texts.anchors)) == (4, 0, 8)
    assert "pattern of indeed unknown (no hacks.json)" in texts.notes[0]
    other = read(write(tmp_path / "other.json", finding({}, "truly")))
    assert "unknown (not in " in other.notes[0]
    broken = tmp_path / "broken.json"
    broken.write_text('{"findings": [{"name": "indeed"}]}')
    with pytest.raises(PatchError, match=r"broken\.json: not as"):
        read_hacks(broken, ["indeed"])


def test_a_reply_that_is_too_long_is_met_before_the_training(read: Any) -> None:
    long = pair("word " * 200, "no", "held e", condition="dark")
    texts = read(held_out=[*uses("held"), long])
    assert len(texts.held_out) == 4
    assert any("1 pairs left out" in note for note in texts.notes)
    with pytest.raises(PatchError, match="no usable preference"):
        read(held_out=[long])
