"""Settings of online rounds; `configs/online/paper.yaml` holds the report's values."""

from typing import Literal

from pydantic import Field, model_validator

from cool_rlhf.hacks.confirmation import prompts_needed
from cool_rlhf.hacks.patch.run import PatchRunSettings
from cool_rlhf.hacks.settings import HackSettings
from cool_rlhf.ppo.sampling.prompts import PromptSettings
from cool_rlhf.ppo.settings import PPORecipe
from pretrain_core.cache import InputPath
from pretrain_core.runs import RunSettings
from pretrain_core.settings import Settings
from reward.registry import ModelPath
from reward.settings import RewardTrainSettings


class SampleSettings(Settings):
    """Which pairs are made for labelling in each round (report §4.2.2, slow path)."""

    prompts: int = Field(1000, gt=0, description="prompts answered by SFT, early and late policy")
    held_out_share: float = Field(
        0.2, gt=0, lt=1, description="share of the labelled pairs kept for the gate"
    )


class LabelSettings(Settings):
    """Who labels the pairs of a round."""

    mode: Literal["file", "programmatic"] = Field(
        "file",
        description="file: wait for rounds/<k>/pairs/labels.jsonl; programmatic: named annotators",
    )
    lexicon: InputPath | None = Field(
        None, description="words that the programmatic annotators know; none: they know all"
    )
    enough_words: int = Field(
        20, gt=0, description="words beyond which length no longer matters to them"
    )
    conditions: Literal["prompt", "all"] = Field(
        "prompt", description="label under the prompt's own condition, or under every annotator's"
    )


class FirstRewardSettings(Settings):
    """The first preferences and reward model, made in round 0 of the SFT model's own replies."""

    conditions: InputPath = Field(description="conditions that the reward model shall know (YAML)")
    prompts: int = Field(400, gt=0, description="prompts that the SFT model answers twice")
    train: RewardTrainSettings = Field(
        RewardTrainSettings(), description="how it is trained, from the SFT model on"
    )


class GateSettings(Settings):
    """When an updated reward model may replace its parent."""

    margin: float = Field(0.05, gt=0, description="accuracy that may be lost on the old pairs")
    confidence: float = Field(0.95, gt=0.5, lt=1)


class FastPathSettings(Settings):
    """Hacks of a round's policy, found and patched before people label (report §4.2.2)."""

    prompts: int = Field(400, gt=0, description="prompts answered by the early and late policy")
    detect: HackSettings = HackSettings()
    most_hacks: int | None = Field(
        None,
        gt=0,
        description="patched in one round, those first that earned the policy most; none: all",
    )
    patch: PatchRunSettings = PatchRunSettings()

    @model_validator(mode="after")
    def _enough_prompts(self) -> "FastPathSettings":
        if self.prompts < (needed := prompts_needed(self.detect)):
            raise ValueError(
                f"prompts {self.prompts}: {needed} are needed to find a rise of "
                f"detect.target_rise {self.detect.target_rise:.0%} with power {self.detect.power}"
            )
        return self


class EvaluationSettings(Settings):
    """What each round's policy is measured on."""

    prompts: InputPath = Field(description="held-out prompts (JSONL)")
    text: InputPath | None = Field(None, description="held-out token store for the alignment tax")
    text_tokens: int = Field(100_000, gt=0)


class OnlineRecipe(Settings):
    """How online rounds are done, apart from which models and data they are done with."""

    rounds: int = Field(3, gt=0)
    init: Literal["sft", "previous"] = Field("sft", description="where a round's policy starts")
    ppo: PPORecipe
    fast_path: FastPathSettings | None = Field(None, description="none: no hack is looked for")
    sample: SampleSettings = SampleSettings()
    reward: RewardTrainSettings = RewardTrainSettings()
    replay_share: float = Field(
        1.0, ge=0, description="old pairs replayed in an update, as a multiple of the new ones"
    )
    gate: GateSettings = GateSettings()

    @model_validator(mode="after")
    def _a_reference_of_its_own(self) -> "OnlineRecipe":
        if self.ppo.crew.reference is None:
            raise ValueError(
                "ppo.crew.reference: rounds measure KL before there is a policy, so the reference"
                " needs a copy of its own"
            )
        return self


class OnlineSettings(OnlineRecipe):
    """A run of online rounds: PPO, evaluate, sample, label, update the reward model, gate."""

    run: RunSettings = RunSettings()
    sft: InputPath
    reward_model: ModelPath | None = Field(
        None, description="the first round's reward model, folder or registry:NAME"
    )
    preferences: InputPath | None = Field(
        None, description="pairs the reward model was trained on (replay)"
    )
    held_out_preferences: InputPath | None = Field(
        None, description="pairs never trained on, for the gate"
    )
    first_reward: FirstRewardSettings | None = Field(
        None, description="in the place of those three: round 0 makes them"
    )
    prompts: PromptSettings
    labels: LabelSettings = LabelSettings()
    evaluation: EvaluationSettings

    @model_validator(mode="after")
    def _a_first_reward_model(self) -> "OnlineSettings":
        names = ("reward_model", "preferences", "held_out_preferences")
        given = [name for name in names if getattr(self, name) is not None]
        if self.first_reward is not None and given:
            raise ValueError(
                f"first_reward makes reward model and preferences, and {', '.join(given)} is given:"
                " leave one of them out"
            )
        if self.first_reward is None and len(given) < len(names):
            missing = ", ".join(name for name in names if name not in given)
            raise ValueError(f"{missing}: give it, or let round 0 make all three by first_reward")
        return self
