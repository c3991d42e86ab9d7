"""Guards against silent failure: on by default, each names what to do."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from cool_rlhf.ppo.batch import Batch
from cool_rlhf.ppo.settings import GuardSettings
from pretrain_core.errors import RunFailed


class GuardError(RunFailed):
    """A PPO run is stopped because going on would train on wrong numbers."""


@dataclass
class Guards:
    """Checks of one run. The NaN gates sit in the actors, before weights change."""

    settings: GuardSettings
    max_staleness: int = 0
    """Versions that a token may be older than the policy that learns from it."""

    def check_batch(self, batch: Batch) -> None:
        """The tokens are young enough, and engine and trainer agree on their log-probs.

        Raises GuardError with the oldest sample, or with the worst one when the mean gap is beyond
        `guards.logprob_gap`.
        """
        oldest = batch.grid.gather(batch.staleness).max(1).values
        if oldest.max() > self.max_staleness:
            raise GuardError(
                f"sample {batch.trajectories[int(oldest.argmax())].id} has tokens that are"
                f" {int(oldest.max())} versions of the policy old, more than {self.max_staleness}:"
                " the log or the engine is of another state of the run"
            )
        gap = logprob_gap(batch)
        if gap is not None and gap > self.settings.logprob_gap:
            raise GuardError(
                f"the rollout engine's log-probs differ from the trainer's by {gap:.4f} on average"
                f" (limit guards.logprob_gap {self.settings.logprob_gap}), worst in sample"
                f" {self._worst(batch)}: the engine runs other weights or another precision"
            )

    def check_updates(self, updates: Mapping[str, float]) -> None:
        """On-policy, the first mini-batch has ratio 1; anything else means stale log-probs."""
        ratio = updates.get("policy/first_ratio")
        if ratio is not None and abs(ratio - 1) > self.settings.ratio_tolerance:
            raise GuardError(
                f"the first mini-batch has a mean ratio of {ratio:.4f} instead of 1 (limit"
                f" guards.ratio_tolerance {self.settings.ratio_tolerance}): old log-probs do not"
                " belong to these weights"
            )

    def _worst(self, batch: Batch) -> str:
        gaps = _gaps(batch)
        row = int(batch.grid.gather(gaps).max(1).values.argmax())
        return batch.trajectories[row].id


def logprob_gap(batch: Batch) -> float | None:
    """Mean |engine's raw log-prob − trainer's| over actions that the present weights sampled.

    None if there are none, or the engine gave no log-probs.
    """
    fresh = batch.experience.sequences.is_action & (batch.staleness == 0)
    if not fresh.any() or any(t.raw_logprobs is None for t in batch.trajectories):
        return None
    return float(_gaps(batch)[fresh].mean())


def _gaps(batch: Batch) -> torch.Tensor:
    own = batch.experience.old_logprobs if batch.raw_logprobs is None else batch.raw_logprobs
    engine = torch.tensor([p for t in batch.trajectories for p in t.raw_logprobs or ()])
    return (engine - own).abs() * (batch.staleness == 0)
