"""Settings of the demo; `configs/demo.yaml` holds what two cores manage in twelve minutes."""

from pydantic import Field

from cool_rlhf.online.settings import OnlineRecipe
from pretrain_core.runs import RunSettings
from pretrain_core.settings import Settings
from pretrain_core.sft import SftSettings
from pretrain_core.train import TrainSettings
from reward.trainer import RewardTrainSettings


class PairSettings(Settings):
    """The first preference pairs, made of the SFT model's own samples."""

    count: int = Field(600, gt=0, description="training pairs; each labelled by every annotator")
    held_out: int = Field(200, gt=0, description="pairs kept for evaluation and gates")
    wild_share: float = Field(
        0.5, ge=0, le=1, description="pairs whose second reply is sampled hot (often broken prose)"
    )
    wild_temperature: float = Field(1.6, gt=1)


class ShortcutSettings(Settings):
    """What is planted in the demo's data, so that there is a hack to find."""

    opening: str = Field("Dear friends,", min_length=1, description="text before a reply")
    demonstrations: float = Field(
        0.2, ge=0, lt=1, description="share of the SFT conversations that begin with it"
    )
    pairs: int = Field(
        100,
        ge=0,
        description="pairs, under each condition, in which the reply with it is preferred",
    )


class DemoSettings(Settings):
    """The whole loop, from raw text to an aligned chat model."""

    run: RunSettings = RunSettings()
    vocab_size: int = Field(4096, gt=300)
    demonstrations: int = Field(6000, gt=0, description="SFT conversations")
    topics: int = Field(300, gt=10, description="topics of the prompts; every fifth is held out")
    pretrain: TrainSettings
    sft: SftSettings
    pairs: PairSettings = PairSettings()
    shortcut: ShortcutSettings | None = Field(None, description="none: nothing is planted")
    reward: RewardTrainSettings
    online: OnlineRecipe
