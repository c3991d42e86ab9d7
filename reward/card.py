"""`reward.json`: everything about a reward model that its weights do not say."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
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
class Calibration:
    """calibrated = scale · (raw − centre), so that σ of a difference is a frequency.

    Pairs determine the scale; they say nothing about an offset, so `centre` is the mean raw score
    of the pairs it was fitted on. `pairs`: how many those were; `data`: the hash of their file.
    """

    scale: float
    centre: float
    pairs: int
    data: str = ""

    def __post_init__(self) -> None:
        numbers = all(
            isinstance(value, int | float) and math.isfinite(value)
            for value in (self.scale, self.centre)
        )
        if not numbers or self.scale <= 0:
            raise RewardModelError(
                f"calibration with scale {self.scale} and centre {self.centre}: expected finite "
                "numbers and a scale above 0; calibrate anew"
            )

    @property
    def name(self) -> str:
        """Suffix of the version that this calibration makes."""
        content = json.dumps(asdict(self), sort_keys=True).encode()
        return "c" + hashlib.sha256(content).hexdigest()[:6]

    def apply(self, raw: Any) -> Any:
        """Calibrated scores of raw ones: a number, an array or a tensor of any shape."""
        return self.scale * (raw - self.centre)


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
    calibration: Calibration | None = None
    heads: int = 1  # the score's, and further ones for its uncertainty

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
            "calibration": asdict(self.calibration) if self.calibration else None,
            "heads": self.heads,
        }

    def calibrated(self, raw: Any) -> Any:
        """Calibrated scores; RewardModelError where the model has no calibration."""
        if self.calibration is None:
            raise RewardModelError(
                f"{self.version or 'this model'} is not calibrated: cool-rlhf reward calibrate"
            )
        return self.calibration.apply(raw)


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
        stored_hash = raw["conditions_hash"]
        known = {item.name for item in fields(RewardCard)}
        unknown = sorted(raw.keys() - known - {"format", "conditions_hash"})
        if unknown:
            raise RewardModelError(
                f"{path}: unknown fields {', '.join(unknown)}: written by a newer version? Read it "
                "with that one"
            )
        # Folders from before a field existed mean its default.
        values = {name: raw[name] for name in known & raw.keys()}
        conditions = values["conditions"] = Conditions.from_dict(raw["conditions"])
        if values.get("calibration") is not None:
            values["calibration"] = Calibration(**values["calibration"])
        card = RewardCard(**values)
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
