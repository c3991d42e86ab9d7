"""Preferences as training pairs: both sides tokenised by the reward model's own input function."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pretrain_core.draws import rng
from reward.conditions import DEFAULT
from reward.data import Preference, Quarantined
from reward.inputs import RewardInputError
from reward.model import RewardModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """One tokenised pair; `condition` is the one it is read under."""

    name: str
    condition: str
    chosen_ids: list[int]
    rejected_ids: list[int]
    margin: float

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of (chosen, rejected)."""
        return len(self.chosen_ids), len(self.rejected_ids)


def tokenise_pairs(
    model: RewardModel, records: Sequence[Preference], seed: int, condition_dropout: float = 0.0
) -> tuple[list[Pair], list[Quarantined]]:
    """(pairs, records whose reply is too long); raises UnknownCondition before any work is done.

    Dropout to `default` is drawn per record from (seed, record), so both sides share it and every
    epoch repeats it.
    """
    for record in records:
        model.conditions.get(record.condition or DEFAULT)
    pairs: list[Pair] = []
    left_out: list[Quarantined] = []
    for index, record in enumerate(records):
        name = record.id or f"record {index}"
        condition = record.condition or DEFAULT
        draw = rng(seed, "reward/condition-dropout", index, name).random()
        read_under = DEFAULT if draw < condition_dropout else condition
        try:
            sides = [
                model.input([*record.prompt, *reply], read_under)
                for reply in (record.chosen, record.rejected)
            ]
        except RewardInputError as error:
            left_out.append(Quarantined(index + 1, str(error), name))
            continue
        pairs.append(Pair(name, read_under, sides[0], sides[1], record.margin or 0.0))
    if left_out:
        logger.warning(
            "%d of %d pairs left out; first: %s: %s",
            len(left_out),
            len(records),
            left_out[0].raw,
            left_out[0].reason,
        )
    return pairs, left_out
