"""Preferences as training pairs: both sides tokenised by the reward model's own input function."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pretrain_core.draws import rng
from reward.conditions import DEFAULT
from reward.data import Preference, Quarantined
from reward.heads import bootstrap_counts
from reward.inputs import RewardInputError
from reward.model import RewardModel
from reward.weights import prompt_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """One tokenised pair; `condition` is the one it is read under.

    `weight` is its share in the loss, `bootstrap` how often each further head sees it. `targets`:
    what its scores are held at, [heads] for each side; [] for a pair that is learnt by its ranking.
    """

    name: str
    condition: str
    chosen_ids: list[int]
    rejected_ids: list[int]
    margin: float
    weight: float = 1.0
    bootstrap: list[int] = field(default_factory=list)
    targets: list[list[float]] = field(default_factory=list)

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of (chosen, rejected)."""
        return len(self.chosen_ids), len(self.rejected_ids)


def tokenise_pairs(
    model: RewardModel,
    records: Sequence[Preference],
    seed: int,
    condition_dropout: float = 0.0,
    equal_prompts: bool = False,
) -> tuple[list[Pair], list[Quarantined]]:
    """(pairs, records whose reply is too long); raises UnknownCondition before any work is done.

    Dropout to `default` is drawn per record from (seed, record), so both sides share it and every
    epoch repeats it. With `equal_prompts`, the pairs of a prompt share one weight among them.
    """
    for record in records:
        model.conditions.get(record.condition or DEFAULT)
    pairs: list[Pair] = []
    kept: list[Preference] = []
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
        counts = bootstrap_counts(model.card.heads, seed, index, name)
        margin = record.margin or 0.0
        pairs.append(Pair(name, read_under, sides[0], sides[1], margin, bootstrap=counts))
        kept.append(record)
    if equal_prompts:
        weights = prompt_weights(kept)
        pairs = [replace(pair, weight=w) for pair, w in zip(pairs, weights, strict=True)]
    if left_out:
        logger.warning(
            "%d of %d pairs left out; first: %s: %s",
            len(left_out),
            len(records),
            left_out[0].raw,
            left_out[0].reason,
        )
    return pairs, left_out


def held_pairs(
    model: RewardModel,
    records: Sequence[Preference],
    equal_prompts: bool = False,
    level: bool = False,
) -> tuple[list[Pair], list[Quarantined]]:
    """Pairs whose scores are to stay what `model` gives now; else as `tokenise_pairs`.

    With `level`, both sides are to have the score of the chosen one. Each is read under its own
    condition. Every head has targets of its own and sees every pair once, so that their
    disagreement stays as well.
    """
    pairs, left_out = tokenise_pairs(model, records, 0, equal_prompts=equal_prompts)
    sides = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
    scores = model.score_heads(sides).view(2, len(pairs), model.card.heads)
    if level:
        scores = scores[:1].expand_as(scores)
    counts = [1] * (model.card.heads - 1)
    held = [
        replace(pair, targets=scores[:, row].tolist(), bootstrap=counts)
        for row, pair in enumerate(pairs)
    ]
    return held, left_out
