"""The critic-only phase: how long the policy waits for its critic."""

from dataclasses import dataclass, field

from cool_rlhf.ppo.settings import WarmupSettings


@dataclass
class CriticWarmup:
    """Counts critic-only iterations until the gate opens; it never closes again.

    The explained variance given to `passed` is measured before the critic has learnt from the
    batch, on prompts it has not seen in this pass: a held-out figure at no extra rollouts.
    """

    settings: WarmupSettings
    iterations: int = field(default=0)
    open: bool = field(default=False)

    def passed(self, explained_variance: float) -> bool:
        """Whether the policy trains in this iteration; counts the iteration if not."""
        if not self.open:
            gate = self.settings.explained_variance
            waited = self.iterations >= self.settings.iterations
            good = gate is None or explained_variance >= gate
            self.open = (waited and good) or self.iterations >= self.settings.max_iterations
        if not self.open:
            self.iterations += 1
        return self.open
