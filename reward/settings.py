"""Settings of reward-model training; the defaults are the report's (§4.2.1)."""

from typing import Literal

from pydantic import Field, model_validator

from pretrain_core.settings import Settings

Ranking = Literal["focal", "bradley_terry"]
Penalty = Literal["barrier", "clamped_barrier", "l2", "none"]


class LossSettings(Settings):
    """The loss of a reward model; the defaults are the report's."""

    ranking: Ranking = "focal"
    gamma: float = Field(2.0, ge=0)
    penalty: Penalty = Field(
        "barrier", description="clamped_barrier: no gradient outside the band (for comparison)"
    )
    penalty_weight: float = Field(0.02, ge=0)
    bound: float = Field(5.0, gt=0)
    linear_beyond: float = Field(4.95, gt=0)

    @model_validator(mode="after")
    def _the_seam_lies_inside_the_band(self) -> "LossSettings":
        if self.linear_beyond >= self.bound:
            raise ValueError(f"linear_beyond {self.linear_beyond} must be below bound {self.bound}")
        return self


class LoraSettings(Settings):
    """Low-rank adapters instead of the whole backbone; head and score token stay fully trained."""

    rank: int = Field(16, gt=0)
    alpha: int = Field(32, gt=0)
    targets: list[str] | Literal["all-linear"] = Field(
        "all-linear", description="names of linear layers, e.g. [q_proj, v_proj]"
    )
    dropout: float = Field(0.0, ge=0, lt=1)


class LaunchSettings(Settings):
    """The processes of one training on this machine."""

    workers: int = Field(1, gt=0, description="processes, one per GPU, or sharing the cores")
    engine: Literal["ddp", "deepspeed"] = "ddp"
    zero_stage: Literal[1, 2] = Field(
        1, description="DeepSpeed shards: 1 the optimiser, 2 gradients too"
    )


class RewardTrainSettings(Settings):
    """How a reward model is trained; `paper` and `tiny` presets are in configs/reward."""

    use_condition: bool = Field(
        True, description="False: every input is built under `default` (the baseline without)"
    )
    condition_dropout: float = Field(
        0.1, ge=0, lt=1, description="share of pairs read under `default`, whatever their condition"
    )
    loss: LossSettings = LossSettings()
    distil_weight: float = Field(
        1.0,
        gt=0,
        description="of the squared error of a pair whose scores are held, beside a ranking loss",
    )
    distil_margin: float = Field(
        0.0,
        ge=0,
        description="what the squared error of such a pair's difference counts beside that of its "
        "two scores",
    )
    prompt_weighting: Literal["pair", "prompt"] = Field(
        "pair", description="prompt: a prompt with many pairs counts as much as one with a single"
    )
    heads: int = Field(
        1, gt=0, le=64, description="above 1: further light heads, whose spread tells uncertainty"
    )
    lora: LoraSettings | None = None
    epochs: int = Field(1, gt=0)
    max_length: int = Field(8192, gt=8, description="tokens of one input, score token included")
    batch_tokens: int = Field(
        16384, gt=16, description="tokens of one batch of whole pairs, per rank"
    )
    accumulate: int = Field(1, gt=0, description="batches per optimiser step, per rank")
    learning_rate: float = Field(1e-5, gt=0)
    final_learning_rate: float = Field(5e-6, ge=0, description="where the cosine ends")
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    adam_betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = Field(1.0, gt=0)
    bf16: bool = Field(True, description="autocast; weights, head, loss and scores stay in fp32")
    gradient_checkpointing: bool = False
    log_every: int = Field(10, gt=0, description="steps")
    save_every: int | None = Field(
        None, gt=0, description="steps between saved states, from which a killed training continues"
    )
    launch: LaunchSettings = LaunchSettings()
    max_seconds: float | None = Field(
        None, gt=0, description="stop after the step that passes this wall time"
    )

    @model_validator(mode="after")
    def _fits(self) -> "RewardTrainSettings":
        if self.batch_tokens < 2 * self.max_length:
            raise ValueError(
                f"batch_tokens {self.batch_tokens} holds no pair of max_length {self.max_length}: "
                f"at least {2 * self.max_length} are needed"
            )
        if self.final_learning_rate > self.learning_rate:
            raise ValueError("final_learning_rate is above learning_rate")
        return self
