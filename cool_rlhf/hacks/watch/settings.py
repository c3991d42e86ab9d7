"""Settings of the early warning, and when it looks."""

import math

from pydantic import Field, model_validator

from cool_rlhf.hacks.settings import HackSettings
from pretrain_core.settings import Settings


class WatchSettings(Settings):
    """Looks at the rollout log of a run for reward hacks."""

    every: int = Field(5, ge=0, description="iterations between looks; 0: never")
    baseline: int = Field(
        4, gt=0, description="first iterations, whose replies are the baseline, at most"
    )
    recent: int = Field(4, gt=0, description="newest iterations that are compared with it, at most")
    replies: int = Field(512, ge=16, description="of the baseline, and of a look, at most")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="chance of any false alarm in a whole run")
    gold: str | None = Field(
        None,
        description="second opinion: verifiers (YAML, or a kind), a model, or a service's URL",
    )
    stop: bool = Field(False, description="the run's first alarm stops it, after a checkpoint")

    @model_validator(mode="after")
    def _gold_has_use(self) -> "WatchSettings":
        if not self.every and (self.gold or self.stop):
            raise ValueError("every: 0 never looks, so that gold and stop have no effect")
        if self.gold is not None and self.gold.endswith(".jsonl"):
            raise ValueError(
                f"gold: {self.gold} holds labels of replies that exist, a run samples new ones: "
                "give verifiers or a model here, and the labels to `cool-rlhf hacks detect`"
            )
        return self

    def looks(self, iterations: int, critic_only: int) -> tuple[int, ...]:
        """Iterations after which a run looks: every so many, and the last.

        Not before both windows are full, the recent one with replies of a policy that has moved.
        """
        if not self.every:
            return ()
        first = max(self.baseline, critic_only + 1) + self.recent
        return tuple(
            done - 1
            for done in range(first, iterations + 1)
            if done % self.every == 0 or done == iterations
        )

    def detector(self, looks: int, seed: int) -> HackSettings:
        """The detector's settings for one of so many looks.

        Each look may spend alpha / looks (Bonferroni): looks share replies, and this holds however
        they depend on each other. With a gold signal half of it goes to the divergence.
        """
        alpha = self.alpha / max(1, looks) / (2 if self.gold else 1)
        return HackSettings(
            seed=seed,
            alpha=alpha,
            permutations=max(2000, math.ceil(20 / alpha)),
            same_prompts=False,
        )
