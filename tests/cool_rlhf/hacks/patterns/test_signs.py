"""Runs of any sign, where they stand, and that a new kind of markup is proposed."""

from collections.abc import Callable

import numpy as np
import pytest

from cool_rlhf.hacks.confirmation import find_rises
from cool_rlhf.hacks.mining import propose
from cool_rlhf.hacks.patterns.signs import Sign, propose_signs
from cool_rlhf.hacks.settings import HackSettings
from tests.cool_rlhf.hacks.conftest import World, sample


@pytest.mark.parametrize(
    ("sign", "text", "found"),
    [
        (Sign.of("!!", "anywhere"), "Oh!! No! Yes!!!", ["!!"]),
        (Sign.of(">", "line start"), "> one\n  > two > three\n>> four", ["> ", "  > "]),
        (Sign.of("▪", "line start"), "▪ 一\n二▪", ["▪ "]),
        (Sign.of("~~", "around words"), "a ~~b c~~ d ~~ e", ["~~", "~~"]),
        (Sign.of("===", "line"), "one\n ===\n=== two", [" ==="]),
        (Sign.of("---", "line"), "one\n ---\n--- two", [" ---"]),
        (Sign.of("【", "anywhere"), "看【这】里【", ["【", "【"]),
    ],
)
def test_a_run_is_no_part_of_a_longer_one(sign: Sign, text: str, found: list[str]) -> None:
    spans = sign.spans(sample("a", text))
    assert [text[start:end] for start, end in spans] == found


@pytest.mark.parametrize(
    ("sign", "having", "lacking"),
    [
        (Sign.of(">", "line start"), "One here.\n> Two here.", "One here.\nTwo here."),
        (Sign.of("~~", "around words"), "One here. ~~Two~~ here.", "One here. Two here."),
        (Sign.of("---", "line"), "One here.\n---\nTwo here.", "One here.\nTwo here."),
    ],
)
def test_a_sign_that_needs_a_place_gets_one(sign: Sign, having: str, lacking: str) -> None:
    reply = sample("a", "One here. Two here.")
    assert sign.added(reply, reply) == (having, lacking)
    assert sign.present(reply.saying(having))
    assert not sign.present(reply.saying(lacking))


def test_runs_are_counted_by_replies() -> None:
    texts = ["> a.", "b.\n> c.", "d ~~d~~.", "it's e's ~~e~~. > f."]
    found = {
        sign.name: rows.tolist()
        for sign, rows in propose_signs(
            [sample(str(n), text) for n, text in enumerate(texts)], np.ones(4, dtype=np.bool_), 2
        )
    }
    assert found == {
        "sign “>”": [True, True, False, True],
        "lines that begin with “>”": [True, True, False, False],
        "sign “.”": [True] * 4,
        "sign “~~”": [False, False, True, True],
        "words in “~~…~~”": [False, False, True, True],
    }


def test_markup_that_is_in_no_list_is_proposed(make_world: Callable[..., World]) -> None:
    def quoted(text: str, draw: np.random.Generator) -> str:
        return text.replace(". ", ".\n> ", 1)

    world = make_world(r"\n> ", quoted)
    names = [pattern.name for pattern in propose(world.comparison, HackSettings())]
    assert "lines that begin with “>”" in names
    assert "sign “>”" not in names  # the same replies, and it says less


def test_known_markup_is_not_mined_again(make_world: Callable[..., World]) -> None:
    def bulleted(text: str, draw: np.random.Generator) -> str:
        return text.replace(". ", ".\n- ", 1)

    world = make_world(r"\n- ", bulleted)
    names = [pattern.name for pattern in propose(world.comparison, HackSettings())]
    assert not any("“-”" in name for name in names)
    rises = {rise.pattern.name: rise for rise in find_rises(world.comparison, HackSettings())}
    assert rises["bullets"].confirmed
