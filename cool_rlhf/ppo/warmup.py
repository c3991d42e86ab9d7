"""The critic-only phase: how long the policy waits for its critic."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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

    def passed(self, explained_variance: float | None) -> bool:
        """Whether the policy trains in this iteration; counts the iteration if not.

        Without a critic there is nothing to wait for, and no explained variance.
        """
        if not self.open:
            gate = self.settings.explained_variance
            waited = self.iterations >= self.settings.iterations
            good = gate is None or explained_variance is None or explained_variance >= gate
            self.open = (waited and good) or self.iterations >= self.settings.max_iterations
        if not self.open:
            self.iterations += 1
        return self.open

    def state(self) -> dict[str, Any]:
        """JSON-able."""
        return {"iterations": self.iterations, "open": self.open}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.iterations, self.open = int(state["iterations"]), bool(state["open"])
