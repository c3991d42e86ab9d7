"""Pairs scored by a model: as trained, under other conditions, or under other wording."""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pretrain_core.errors import InputError
from reward.conditions import DEFAULT, Condition, Conditions
from reward.data import Preference, Quarantined
from reward.inputs import RewardInputError
from reward.intervals import Array
from reward.model import RewardModel

Reading = Callable[[int, Preference], str]


class EvaluationError(InputError):
    """An evaluation that cannot be made of what was given."""


@dataclass(frozen=True)
class PairScores:
    """Raw scores [pairs] of both sides, in the order of the preferences."""

    chosen: Array
    rejected: Array

    @property
    def margins(self) -> Array:
        """chosen − rejected [pairs]."""
        return self.chosen - self.rejected

    @property
    def right(self) -> Array:
        """1.0 where the chosen side scores higher, else 0.0 (a tie is wrong) [pairs]."""
        return (self.margins > 0).astype(np.float64)

    @property
    def both(self) -> Array:
        """The scores of all replies [2 · pairs], chosen ones first."""
        return np.concatenate([self.chosen, self.rejected])


def pair_scores(
    model: RewardModel, preferences: Sequence[Preference], condition: Reading | None = None
) -> PairScores:
    """Score both sides of every pair under the record's condition.

    `condition(index, preference)`, if given, names another one to read each pair under.
    """
    names = [
        condition(index, p) if condition else p.condition or DEFAULT
        for index, p in enumerate(preferences)
    ]
    sides = [[*p.prompt, *p.chosen] for p in preferences]
    sides += [[*p.prompt, *p.rejected] for p in preferences]
    scores = model.score_conversations(sides, names * 2).double().numpy()
    return PairScores(scores[: len(preferences)], scores[len(preferences) :])


def scores_per_condition(
    models: Mapping[str, RewardModel], preferences: Sequence[Preference]
) -> PairScores:
    """Scores by one model per condition: each pair by its condition's own.

    A model that does not know the condition reads the pair under `default`. Raises EvaluationError
    naming a condition of the pairs that has no model.
    """
    rows: dict[str, list[int]] = {}
    for index, p in enumerate(preferences):
        rows.setdefault(p.condition or DEFAULT, []).append(index)
    missing = sorted(rows.keys() - models.keys())
    if missing:
        raise EvaluationError(
            f"no model for condition {', '.join(missing)}: give one per condition of the pairs "
            f"({', '.join(sorted(rows))}), or leave those pairs out"
        )
    chosen, rejected = np.zeros(len(preferences)), np.zeros(len(preferences))
    for name, indices in rows.items():
        model = models[name]
        found = pair_scores(
            model,
            [preferences[index] for index in indices],
            known_or_default(model.conditions.names),
        )
        chosen[indices], rejected[indices] = found.chosen, found.rejected
    return PairScores(chosen, rejected)


def known_or_default(known: Collection[str]) -> Reading:
    """A reading of every pair under its condition where that is known, else under `default`."""
    return lambda _, p: p.condition if p.condition in known and p.condition else DEFAULT


def wrong_conditions(preferences: Sequence[Preference]) -> Reading | None:
    """A reading of every pair under another condition of the set; None if there is only one."""
    used = sorted({p.condition or DEFAULT for p in preferences})
    if len(used) < 2:
        return None
    following = dict(zip(used, used[1:] + used[:1], strict=True))
    return lambda _, p: following[p.condition or DEFAULT]


def reworded(model: RewardModel, prompts: Mapping[str, str]) -> RewardModel:
    """The same network reading other system prompts: replaced ones, or those of new conditions.

    Raises EvaluationError for a model that reads no condition, or for `default`, which has none.
    """
    if not model.card.use_condition:
        raise EvaluationError(f"{model.version} was trained without conditions: nothing to reword")
    if DEFAULT in prompts:
        raise EvaluationError(f"{DEFAULT!r} has no system prompt that could be worded otherwise")
    by_name = {c.name: c for c in model.conditions}
    by_name |= {name: Condition(name, prompt) for name, prompt in prompts.items()}
    card = replace(model.card, conditions=Conditions(by_name.values()))
    return RewardModel(model.network, model.tokenizer, card)


def scorable(
    models: Collection[RewardModel], preferences: Sequence[Preference]
) -> tuple[list[Preference], list[Quarantined]]:
    """(pairs that every model can read, the others with the reason), e.g. replies too long."""
    kept: list[Preference] = []
    left_out: list[Quarantined] = []
    for index, p in enumerate(preferences):
        try:
            for model in models:
                reading = known_or_default(model.conditions.names)(index, p)
                for side in (p.chosen, p.rejected):
                    model.input([*p.prompt, *side], reading)
        except RewardInputError as error:
            left_out.append(Quarantined(index + 1, str(error), p.id or f"record {index}"))
        else:
            kept.append(p)
    return kept, left_out


def pair_key(preference: Preference) -> Hashable:
    """Equal for records that judge the same prompt and the same two replies."""
    return preference.prompt, frozenset((preference.chosen, preference.rejected))


def pair_keys(preferences: Sequence[Preference]) -> list[Hashable]:
    """One key per judged pair: equal for records that judge the same prompt and two replies."""
    return [pair_key(p) for p in preferences]


def reply_text(reply: Sequence[object]) -> str:
    """What a reply says: the contents of its turns, one below the other."""
    return "\n".join(str(getattr(message, "content", "")) for message in reply)
