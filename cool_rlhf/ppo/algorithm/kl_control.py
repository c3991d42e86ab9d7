"""The coefficient of the KL penalty, fixed or steered towards a target."""

from collections.abc import Mapping
from typing import Any

from cool_rlhf.ppo.algorithm.settings import AlgorithmSettings

_LARGEST_ERROR = 0.2


class KLControl:
    """β of the reward; adaptive where `kl_target` is set (arXiv 1909.08593)."""

    def __init__(self, settings: AlgorithmSettings) -> None:
        self.settings = settings
        self.coefficient = settings.kl_coef

    def update(self, kl: float, samples: int) -> None:
        """After an iteration of `samples` replies with a mean KL of `kl` nats.

        β grows by the relative error, cut at ±0.2, times samples / horizon.
        """
        if self.settings.kl_target is None:
            return
        error = kl / self.settings.kl_target - 1
        error = min(max(error, -_LARGEST_ERROR), _LARGEST_ERROR)
        self.coefficient *= 1 + error * samples / self.settings.kl_horizon

    def state(self) -> dict[str, Any]:
        """JSON-able."""
        return {"coefficient": self.coefficient}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; a β that is not steered stays as it is set now."""
        if self.settings.kl_target is not None:
            self.coefficient = float(state["coefficient"])
