"""What PPO optimises."""

from typing import Literal

from pydantic import Field, model_validator

from actors.losses import KLEstimate
from pretrain_core.settings import Settings

EstimatorName = Literal["gae", "grpo", "rloo", "reinforce++"]


class AlgorithmSettings(Settings):
    """From scores to advantages (facts F7); the losses are settings of policy and critic."""

    estimator: EstimatorName = Field("gae", description="of advantages; only gae has a critic")
    gamma: float = Field(1.0, gt=0, le=1, description="discount")
    lam: float = Field(0.99, ge=0, le=1, description="λ of GAE")
    normalise_advantages: bool = Field(
        False, description="mean 0 and standard deviation 1 over all actions of an iteration"
    )
    kl_coef: float = Field(0.01, ge=0, description="β of the per-token KL penalty in the reward")
    kl: KLEstimate = Field("k1", description="its estimate")
    kl_target: float | None = Field(
        None, gt=0, description="nats per reply that β is steered towards; none: β stays"
    )
    kl_horizon: int = Field(10_000, gt=0, description="samples over which β is steered")
    full_kl_tokens: int = Field(
        128,
        ge=0,
        description="drawn tokens at which the KL over the whole vocabulary is logged; 0: not",
    )
    score_clip: float | None = Field(None, gt=0, description="scores are cut at ± this; none: not")
    score_scale: Literal["none", "all", "condition"] = Field(
        "none",
        description="scores less the mean and over the standard deviation of all so far: of all"
        " conditions together, or of each",
    )
    truncated: Literal["score", "mask", "bootstrap"] = Field(
        "score",
        description="a reply cut at the length limit is scored as it is, not learnt from, or valued"
        " by the critic where it was cut",
    )
    missing_end_penalty: float = Field(
        0.0, ge=0, description="taken off the score of a reply cut at the length limit"
    )
    empty_reply_score: float = Field(
        -5.0, description="score of a reply without text, which no reward model can judge"
    )
    resamples: int = Field(
        3,
        ge=0,
        description="other replies drawn for one that cannot be scored, before the run stops",
    )

    @property
    def has_critic(self) -> bool:
        """Whether values are learnt."""
        return self.estimator == "gae"

    @property
    def in_groups(self) -> bool:
        """Whether replies are compared with others to the same prompt."""
        return self.estimator in ("grpo", "rloo")

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> "AlgorithmSettings":
        if self.missing_end_penalty and self.truncated != "score":
            raise ValueError(
                f"missing_end_penalty has no effect with truncated {self.truncated}: set it to 0,"
                " or truncated to score"
            )
        if self.truncated == "bootstrap" and not self.has_critic:
            raise ValueError(f"truncated bootstrap needs a critic, {self.estimator} has none")
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_target steers kl_coef, which is 0 and would stay so")
        return self
