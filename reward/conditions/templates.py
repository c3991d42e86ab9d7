"""Queries drawn from our own sentence frames, so that a router can be trained without data."""

import re
from pathlib import Path

import numpy as np

from pretrain_core.draws import rng
from pretrain_core.settings import Settings, load
from reward.conditions.registry import ConditionsError
from reward.conditions.routing import Example

PACKAGED_TEMPLATES = Path(__file__).with_name("templates.yaml")
SLOT = re.compile(r"<(\w+)>")


class _File(Settings):
    slots: dict[str, list[str]]
    conditions: dict[str, list[str]]


def draw_queries(count: int, seed: int, path: Path = PACKAGED_TEMPLATES) -> list[Example]:
    """`count` queries per condition, the frames in turn, each slot drawn; `group` is the frame.

    Weak beyond such queries: they are short, clean and of one kind each. Raises ConditionsError
    for a frame with an unknown slot, SettingsError for a malformed file.
    """
    file = load(_File, path).value
    examples = []
    for condition, frames in file.conditions.items():
        for number in range(count):
            draw = rng(seed, "route/templates", number, condition)
            place = number % len(frames)
            text = _fill(frames[place], file.slots, draw)
            examples.append(Example(text, condition, f"{condition}:{place}"))
    return examples


def _fill(frame: str, slots: dict[str, list[str]], draw: np.random.Generator) -> str:
    """Fill slots from the inside out: a drawn value may have slots itself."""

    def drawn(found: re.Match[str]) -> str:
        values = slots.get(found[1])
        if values is None:
            raise ConditionsError(f"template {frame!r}: no slot {found[1]!r}")
        return values[int(draw.integers(len(values)))]

    for _ in range(3):
        filled = SLOT.sub(drawn, frame)
        if filled == frame:
            break
        frame = filled
    return frame
