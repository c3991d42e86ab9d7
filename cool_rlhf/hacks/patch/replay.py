"""Old pairs that keep a patch from costing what the model knew."""

from collections.abc import Sequence

from pretrain_core.draws import rng
from reward.conditions import DEFAULT
from reward.data import Preference


def draw_replay(old: Sequence[Preference], count: int, seed: int) -> list[Preference]:
    """At most `count` old pairs, as many of each condition as there are, in their order.

    A condition with few pairs gives all of them, and the others more.
    """
    by_condition: dict[str, list[int]] = {}
    for row, pair in enumerate(old):
        by_condition.setdefault(pair.condition or DEFAULT, []).append(row)
    piles = [
        [
            rows[int(place)]
            for place in rng(seed, f"hacks/patch/replay/{name}").permutation(len(rows))
        ]
        for name, rows in sorted(by_condition.items())
    ]
    turns = [pile[turn] for turn in range(len(old)) for pile in piles if turn < len(pile)]
    return [old[row] for row in sorted(turns[:count])]


def ids(pairs: Sequence[Preference], among: Sequence[Preference]) -> list[str]:
    """The id of each pair, or its place in the list that it comes from."""
    places = {id(pair): row for row, pair in enumerate(among, start=1)}
    return [pair.id or f"record {places[id(pair)]}" for pair in pairs]
