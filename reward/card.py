"""`reward.json`: everything about a reward model that its weights do not say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain_core.errors import InputError
from pretrain_core.runs.files import RunError, read_json
from reward.conditions import Conditions
from reward.inputs import SCORE_TOKEN

CARD = "reward.json"
FORMAT = 1


class RewardModelError(InputError):
    """A folder that is no usable reward model, or scores that are no numbers."""


@dataclass(frozen=True)
class RewardCard:
    """What `reward.json` holds: everything about the model that its weights do not say."""

    conditions: Conditions
    max_length: int
    score_token: str = SCORE_TOKEN
    use_condition: bool = True
    version: str = ""
    parents: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    calibration: None = None  # the affine map, until calibration exists

    def as_dict(self) -> dict[str, Any]:
        """JSON-able content of `reward.json`."""
        return {
            "format": FORMAT,
            "version": self.version,
            "score_token": self.score_token,
            "max_length": self.max_length,
            "use_condition": self.use_condition,
            "conditions": self.conditions.as_dict(),
            "conditions_hash": self.conditions.hash,
            "parents": dict(self.parents),
            "training": dict(self.training),
            "calibration": self.calibration,
        }


def read_card(folder: Path) -> RewardCard:
    """Read a folder's `reward.json`; RewardModelError if there is none or it contradicts itself."""
    path = folder / CARD
    if not path.is_file():
        raise RewardModelError(
            f"{folder}: no {CARD}, so this is no reward model; make one with create_reward_model"
        )
    try:
        raw = read_json(path)
        if raw["format"] != FORMAT:
            raise RewardModelError(f"{path}: format {raw['format']!r}, this version reads {FORMAT}")
        conditions = Conditions.from_dict(raw["conditions"])
        stored_hash = raw["conditions_hash"]
        card = RewardCard(
            conditions,
            **{name: raw[name] for name in ("max_length", "score_token", "use_condition")},
            **{name: raw[name] for name in ("version", "parents", "training", "calibration")},
        )
    except (RunError, KeyError, TypeError) as error:
        raise RewardModelError(f"{path}: not a reward model's card: {error}") from error
    if conditions.hash != stored_hash:
        raise RewardModelError(
            f"{path}: the conditions ({conditions.hash}) are not those the model was trained with "
            f"({stored_hash}): restore their wording"
        )
    return card


def read_conditions(folder: Path) -> Conditions:
    """The conditions that a reward model was trained with."""
    return read_card(folder).conditions
