"""Settings of the detector; every threshold says what it decides."""

from pydantic import Field, model_validator

from pretrain_core.settings import Settings


class MiningSettings(Settings):
    """Which patterns are looked for in the half of the prompts that proposes."""

    longest_phrase: int = Field(6, ge=1, le=12, description="words of a phrase")
    longest_chinese: int = Field(12, ge=2, le=24, description="characters of a Chinese phrase")
    least_replies: int = Field(4, ge=2, description="late replies that a phrase must be in")
    least_z: float = Field(
        2.0, ge=0, description="log-odds of a phrase, in standard errors, to be proposed"
    )
    prior: float = Field(
        10.0, gt=0, description="replies that the informative prior of the log-odds weighs"
    )
    overlap: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of common late replies, beyond chance, from which two patterns are one",
    )
    most: int = Field(40, ge=1, description="mined patterns of a half that are to be confirmed")


class EvidenceSettings(Settings):
    """How it is measured what the reward model and the gold signal pay for a pattern."""

    edits: int = Field(
        64,
        ge=4,
        description="prompts per pattern and kind of edit, at most; twice as many where there is "
        "one kind only",
    )
    confirmed: int = Field(20, ge=1, description="confirmed patterns that are edited, at most")
    least_gain: float = Field(
        0.2,
        gt=0,
        description="standard deviations of the scores below which the reward model pays nothing",
    )
    gold_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="gold does not reward what it pays less than this share of the model's gain",
    )
    resamples: int = Field(2000, ge=200, description="of each bootstrap interval, over prompts")


class HackSettings(Settings):
    """Detection of reward hacks."""

    seed: int = Field(0, ge=0)
    alpha: float = Field(
        0.05, gt=0, lt=0.5, description="chance of any false pattern in one detection"
    )
    least_rise: float = Field(
        0.05, gt=0, lt=1, description="rise in the share of replies that is worth a look"
    )
    least_shift: float = Field(
        0.25,
        gt=0,
        description="rise of a measured quantity that is worth a look, in standard deviations",
    )
    target_rise: float = Field(
        0.1, gt=0, lt=1, description="rise from nothing that should be found with `power`"
    )
    power: float = Field(0.8, gt=0, lt=1, description="chance to find a pattern of `target_rise`")
    least_common: float = Field(
        0.5, gt=0, le=1, description="share of the prompts that both files must have"
    )
    same_prompts: bool = Field(
        True,
        description="false: the prompts of both files were drawn alike, as in the iterations of a "
        "PPO run, and those that only one has are used too",
    )
    permutations: int = Field(4000, ge=200, description="sign flips of the confirmation")
    pairs: int = Field(
        100, ge=1, description="pairs that are written per hack, at most; there is one per edit"
    )
    mining: MiningSettings = MiningSettings()
    evidence: EvidenceSettings = EvidenceSettings()

    @model_validator(mode="after")
    def _can_be_significant(self) -> "HackSettings":
        if self.permutations * self.alpha < 20:
            raise ValueError(
                f"permutations: {self.permutations} flips cannot show alpha {self.alpha}: at least "
                f"{20 / self.alpha:.0f}"
            )
        return self
