"""Runs of any sign, where they stand, and that a new kind of markup is proposed."""

from collections.abc import Callable

import numpy as np
import pytest

from cool_rlhf.hacks.mining import propose
from cool_rlhf.hacks.settings import HackSettings
from cool_rlhf.hacks.signs import Sign, propose_signs
from tests.cool_rlhf.hacks.conftest import World, sample


@pytest.mark.parametrize(
    ("sign", "text", "found"),
    [
        (Sign.of("!!", leads=False), "Oh!! No! Yes!!!", ["!!"]),
        (Sign.of(">", leads=True), "> one\n  > two > three\n>> four", ["> ", "  > "]),
        (Sign.of("▪", leads=True), "▪ 一\n二▪", ["▪ "]),
        (Sign.of("【", leads=False), "看【这】里【", ["【", "【"]),
    ],
)
def test_a_run_is_no_part_of_a_longer_one(sign: Sign, text: str, found: list[str]) -> None:
    spans = sign.spans(sample("a", text))
    assert [text[start:end] for start, end in spans] == found


def test_runs_are_counted_by_replies() -> None:
    texts = ["> a.", "b.\n> c.", "d ~~d~~.", "e ~~e~~. > f."]
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
    }


def test_markup_that_is_in_no_list_is_proposed(make_world: Callable[..., World]) -> None:
    def quoted(text: str, draw: np.random.Generator) -> str:
        return text.replace(". ", ".\n> ", 1)

    world = make_world(r"\n> ", quoted)
    names = [pattern.name for pattern in propose(world.comparison, HackSettings())]
    assert "lines that begin with “>”" in names
    assert "sign “>”" not in names  # the same replies, and it says less


def test_known_markup_keeps_its_name(make_world: Callable[..., World]) -> None:
    def bulleted(text: str, draw: np.random.Generator) -> str:
        return text.replace(". ", ".\n- ", 1)

    world = make_world(r"\n- ", bulleted)
    names = [pattern.name for pattern in propose(world.comparison, HackSettings())]
    assert "bullets" in names
    assert not any("“-”" in name for name in names)
