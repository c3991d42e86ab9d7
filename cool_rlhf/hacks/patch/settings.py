"""Settings of a patch: what is learnt from the pattern pairs, and how old knowledge is kept."""

from typing import Literal

from pydantic import Field, model_validator

from cool_rlhf.hacks.pairs import LEAST
from pretrain_core.errors import InputError
from pretrain_core.settings import Settings
from reward.card import RewardCard
from reward.settings import RewardTrainSettings

Objective = Literal["level", "rank"]
Replay = Literal["distil", "bradley_terry", "focal", "none"]
INHERITED = ("heads", "use_condition", "max_length")


class PatchError(InputError):
    """Pairs that no patch can be made of; the message names the hack or the record."""


class PatchTrainSettings(RewardTrainSettings):
    """The training of a patch; `heads`, `use_condition` and `max_length` are the parent's."""

    condition_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of ranked pairs read under `default`; held ones never"
    )
    epochs: int = Field(8, gt=0, description="a patch has few pairs, so it sees them often")
    final_learning_rate: float = Field(1e-6, ge=0, description="where the cosine ends")

    @model_validator(mode="after")
    def _fits(self) -> "PatchTrainSettings":
        """The length of a pair is the parent's, which `recipe` knows."""
        if self.final_learning_rate > self.learning_rate:
            raise ValueError("final_learning_rate is above learning_rate")
        return self


class PatchSettings(Settings):
    """How a reward model is patched."""

    seed: int = Field(0, ge=0)
    objective: Objective = Field(
        "level",
        description="level: both sides get the parent's score of the side without the pattern; "
        "rank: the side with it is ranked below, as in the report, however far",
    )
    replay: Replay = Field(
        "distil",
        description="old pairs: held at the parent's scores, or ranked once more by this loss "
        "(pattern pairs that are ranked then have it too), or none",
    )
    replay_pairs: float = Field(4.0, gt=0, description="old pairs per pattern pair of the training")
    held_out: float = Field(
        0.5, gt=0, lt=1, description="share of a hack's prompts that only the gate sees"
    )
    least_pairs: int = Field(LEAST, ge=2, description="pairs of a hack that make a patch")
    allow_few: bool = Field(False, description="patch with fewer than `least_pairs`, at your risk")
    train: PatchTrainSettings = PatchTrainSettings()


def recipe(settings: PatchSettings, parent: RewardCard) -> RewardTrainSettings:
    """The training that continues this parent.

    Raises PatchError for a setting that would make another kind of model of it.
    """
    train = settings.train
    own = {name: getattr(parent, name) for name in INHERITED}
    for name, value in own.items():
        # Not `model_fields_set`: settings that were saved and read back have every field set.
        if getattr(train, name) not in (value, type(train).model_fields[name].default):
            raise PatchError(
                f"train.{name} is {getattr(train, name)}, the parent's is {value}: a patch keeps "
                "it, so leave it out"
            )
    if train.batch_tokens < 2 * parent.max_length:
        raise PatchError(
            f"train.batch_tokens {train.batch_tokens} holds no pair of the parent's max_length "
            f"{parent.max_length}: at least {2 * parent.max_length} are needed"
        )
    values = train.model_dump() | own
    if settings.replay in ("bradley_terry", "focal"):
        values["loss"]["ranking"] = settings.replay
    return RewardTrainSettings(**values)
