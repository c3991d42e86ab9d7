"""Settings of one PPO run; `configs/ppo/paper.yaml` holds the report's values."""

from typing import Literal

from pydantic import Field, model_validator

from actors.crew import CrewSettings
from actors.engines.protocol import OptimSettings
from actors.losses.policy import IMPORTANCE_SAMPLING
from actors.rollout import SamplingSettings
from cool_rlhf.hacks.watch.settings import WatchSettings
from cool_rlhf.ppo.algorithm.settings import AlgorithmSettings
from cool_rlhf.ppo.evaluation.settings import EvaluationSettings
from cool_rlhf.ppo.monitor.health import HealthSettings
from cool_rlhf.ppo.sampling.environment import EnvironmentSettings
from cool_rlhf.ppo.sampling.prompts import PromptSettings
from pretrain_core.cache import InputPath
from pretrain_core.runs import RunSettings
from pretrain_core.settings import Settings
from reward.compose import ComposeSettings
from reward.registry import ModelPath


class BatchSettings(Settings):
    """How many samples one iteration holds and how they are cut into optimiser steps."""

    prompts: int = Field(512, gt=0, description="prompts per iteration")
    samples_per_prompt: int = Field(1, gt=0, description="replies per prompt")
    mini_batches: int = Field(1, gt=0, description="optimiser steps per pass over the samples")
    epochs: int = Field(1, gt=0, description="passes over the samples of an iteration")

    @property
    def samples(self) -> int:
        """Samples per iteration."""
        return self.prompts * self.samples_per_prompt

    @model_validator(mode="after")
    def _divides(self) -> "BatchSettings":
        if self.samples % self.mini_batches:
            legal = [n for n in range(1, self.samples + 1) if self.samples % n == 0]
            nearest = min(legal, key=lambda n: abs(n - self.mini_batches))
            raise ValueError(
                f"{self.samples} samples cannot be cut into {self.mini_batches} equal mini-batches;"
                f" the nearest legal number is {nearest}"
            )
        return self


class WarmupSettings(Settings):
    """The critic-only phase before the policy moves (report §4.2.3)."""

    iterations: int = Field(50, ge=0, description="at least so many critic-only iterations")
    explained_variance: float | None = Field(
        None, description="then on until the critic explains this share of unseen returns"
    )
    max_iterations: int = Field(100, ge=0, description="never more than this")

    @model_validator(mode="after")
    def _ordered(self) -> "WarmupSettings":
        if self.max_iterations < self.iterations:
            raise ValueError("max_iterations is below iterations")
        return self


class PretrainSettings(Settings):
    """Pre-training text mixed into the policy's updates against the alignment tax."""

    data: InputPath = Field(description="token store folder")
    share: float = Field(0.5, gt=0, description="its volume as a share of the PPO samples' tokens")
    length: int = Field(1024, gt=1, description="tokens per drawn window")


class GuardSettings(Settings):
    """Limits beyond which a run stops."""

    logprob_gap: float = Field(
        0.1, gt=0, description="mean |log-prob of engine − of trainer| that stops the run"
    )
    ratio_tolerance: float = Field(
        0.01, gt=0, description="|ratio − 1| on the first mini-batch that stops the run"
    )


class LayoutSettings(Settings):
    """What runs at the same time."""

    name: Literal["split", "pipelined", "async"] = Field(
        "split",
        description="split: sampling, scoring, learning, one after the other; pipelined: chunks of"
        " an iteration overlap, and nothing else changes; async: the engines sample ahead",
    )
    chunks: int = Field(4, gt=1, description="pipelined: equal parts of an iteration")
    max_staleness: int = Field(
        1, gt=0, description="async: versions that a token may be older than what learns from it"
    )

    @property
    def staleness(self) -> int:
        """The bound on the age of tokens; 0: on policy."""
        return self.max_staleness if self.name == "async" else 0


class PPORecipe(Settings):
    """How PPO is done, apart from which models and prompts it is done with."""

    pretrain: PretrainSettings | None = None
    iterations: int = Field(400, gt=0)
    batch: BatchSettings = BatchSettings()
    layout: LayoutSettings = LayoutSettings()
    algorithm: AlgorithmSettings = AlgorithmSettings()
    rewards: ComposeSettings = Field(
        ComposeSettings(), description="what counts beside the reward model, per condition"
    )
    warmup: WarmupSettings = WarmupSettings()
    sampling: SamplingSettings = SamplingSettings()
    environment: EnvironmentSettings | None = Field(
        None, description="what answers replies: tools, a simulated user; none: one reply"
    )
    actor: OptimSettings = Field(OptimSettings(lr=1e-6), description="AdamW of the policy")
    critic: OptimSettings = Field(OptimSettings(lr=5e-6), description="AdamW of the critic")
    guards: GuardSettings = GuardSettings()
    health: HealthSettings = HealthSettings()
    hacks: WatchSettings = WatchSettings()
    crew: CrewSettings = CrewSettings()
    checkpoint_every: int = Field(40, gt=0, description="iterations between checkpoints")

    @model_validator(mode="after")
    def _some_policy_iterations(self) -> "PPORecipe":
        if self.warmup.max_iterations >= self.iterations:
            raise ValueError(
                f"warmup.max_iterations {self.warmup.max_iterations} leaves none of"
                f" {self.iterations} iterations to train the policy"
            )
        if (self.pretrain is None) != (self.crew.policy.ptx_coef == 0):
            raise ValueError(
                f"crew.policy.ptx_coef is {self.crew.policy.ptx_coef} and `pretrain` is"
                f" {'not set' if self.pretrain is None else 'set'}: give both, or set ptx_coef to 0"
            )
        return self

    @model_validator(mode="after")
    def _critic_where_it_is_needed(self) -> "PPORecipe":
        name = self.algorithm.estimator
        if self.algorithm.has_critic != (self.crew.critic is not None):
            raise ValueError(
                f"algorithm.estimator {name} "
                + (
                    "needs a critic: give crew.critic"
                    if self.algorithm.has_critic
                    else "has no critic: set crew.critic to null"
                )
            )
        if not self.algorithm.has_critic and self.warmup.max_iterations:
            raise ValueError(
                f"algorithm.estimator {name} has no critic to warm up: set warmup.iterations and"
                " warmup.max_iterations to 0"
            )
        if self.algorithm.in_groups and self.batch.samples_per_prompt < 2:
            raise ValueError(
                f"algorithm.estimator {name} compares replies to the same prompt:"
                " batch.samples_per_prompt must be at least 2"
            )
        return self

    @model_validator(mode="after")
    def _one_step_where_forwards_are_kept(self) -> "PPORecipe":
        steps = self.batch.mini_batches * self.batch.epochs
        if self.crew.keep_forward and steps > 1:
            raise ValueError(
                f"crew.keep_forward serves one optimiser step, and batch.mini_batches times"
                f" batch.epochs make {steps}: set both to 1, or keep_forward to false"
            )
        return self

    @model_validator(mode="after")
    def _sampled_as_learnt(self) -> "PPORecipe":
        sampling, loss = self.sampling, self.crew.policy.loss.name
        if sampling.temperature == 0:
            raise ValueError("sampling.temperature 0 always says the same: PPO needs more than 0")
        if loss in IMPORTANCE_SAMPLING and sampling.top_p < 1:
            raise ValueError(
                f"crew.policy.loss.name {loss} divides by the probabilities sampled from, which"
                f" sampling.top_p {sampling.top_p} changes: set it to 1, or take another loss"
            )
        return self

    @model_validator(mode="after")
    def _laid_out(self) -> "PPORecipe":
        if self.layout.name == "async":
            self._can_be_stale()
        if self.layout.name == "pipelined":
            self._can_be_cut()
        return self

    def _can_be_stale(self) -> None:
        loss = self.crew.policy.loss.name
        if loss not in IMPORTANCE_SAMPLING:
            raise ValueError(
                f"crew.policy.loss.name {loss} takes tokens for the policy's own, but with"
                " layout.name async older weights sampled some: set it to decoupled (or"
                " truncated_is) and sampling.top_p to 1"
            )
        if self.crew.rollout.engine == "hf":
            raise ValueError(
                "crew.rollout.engine hf samples batch after batch: layout.name async needs vllm"
            )

    def _can_be_cut(self) -> None:
        batch, chunks, algorithm = self.batch, self.layout.chunks, self.algorithm
        legal = [
            n
            for n in range(2, batch.prompts + 1)
            if not (batch.prompts % n or n % batch.mini_batches)
        ]
        if chunks not in legal:
            raise ValueError(
                f"layout.chunks {chunks} must divide {batch.prompts} prompts, and be so many times"
                f" batch.mini_batches {batch.mini_batches}: {legal or 'no number does'}"
            )
        whole = {
            "batch.epochs over 1": batch.epochs > 1,
            "algorithm.normalise_advantages": algorithm.normalise_advantages,
            "algorithm.estimator reinforce++": algorithm.estimator == "reinforce++",
            "algorithm.score_scale": algorithm.score_scale != "none",
            "algorithm.truncated mask": algorithm.truncated == "mask",
        }
        for name, is_set in whole.items():
            if is_set:
                raise ValueError(
                    f"{name} looks at a whole iteration before any of it is learnt, which"
                    " layout.name pipelined does not wait for: change it, or take layout.name split"
                )


class PPOSettings(PPORecipe):
    """One PPO run."""

    run: RunSettings = RunSettings()
    policy: InputPath = Field(description="SFT model folder; also the reference")
    initial_policy: InputPath | None = Field(None, description="start elsewhere than at `policy`")
    reward_model: ModelPath = Field(
        description="conditional reward model, folder or registry:NAME; also the critic"
    )
    critic_init: Literal["auto", "reward_model", "policy"] = Field(
        "auto",
        description="auto: the reward model, or `policy` where the two have other tokenizers",
    )
    prompts: PromptSettings
    evaluation: EvaluationSettings | None = Field(
        None, description="jobs that measure each saved policy; none: the last one is kept"
    )

    @model_validator(mode="after")
    def _one_base(self) -> "PPOSettings":
        if self.initial_policy is not None and self.crew.reference is None:
            raise ValueError(
                "initial_policy would be the base of the adapters, and so the reference, in the"
                " place of `policy`: give crew.reference, or start at `policy`"
            )
        return self
