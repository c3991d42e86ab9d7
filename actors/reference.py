"""The reference: the frozen policy that KL is measured against."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.batch import Sequences
from actors.forward import Logprobs, distributions, logprob_head, over_actions
from actors.group import Group, Pending, done
from actors.placement import Placement, RoleResources
from actors.policy import Policy
from actors.worker import Rank, Worker
from pretrain_core.precision import Dtype, products_of


class ReferenceSettings(RoleResources):
    """The reference's ranks."""

    dtype: Dtype = "auto"


class ReferenceWorker(Worker):
    """One rank of the reference; ranks share the sequences."""

    def __init__(self, place: Rank, settings: ReferenceSettings) -> None:
        super().__init__(place)
        self.settings = settings

    def load(self, folder: Path, micro_batch_tokens: int) -> None:
        """Load a Hugging Face folder, frozen."""
        from actors.engines.door import Door, causal_lm
        from actors.engines.frozen import share_frozen

        model: Any = causal_lm(str(folder)).requires_grad_(False).to(self.place.device)
        share_frozen(model)
        self.micro_batch_tokens = micro_batch_tokens
        half = products_of(self.settings.dtype, self.place.device) == torch.bfloat16
        self.door = Door(model, model.get_output_embeddings(), autocast=half)

    def logprobs(self, batch: Sequences, temperature: float) -> Logprobs:
        """Log-probs of this rank's share, in fixed micro-batches."""
        heads = [logprob_head(temperature)]
        return Logprobs(*over_actions(self.door, heads, batch, self.micro_batch_tokens))

    def distributions(self, batch: Sequences, temperature: float) -> Tensor:
        """Log-probs of all tokens at this rank's actions."""
        return distributions(self.door, batch, self.micro_batch_tokens, temperature)


class Reference:
    """Driver-side handle."""

    def __init__(self, group: Group) -> None:
        self.group = group

    @classmethod
    def start(
        cls,
        settings: ReferenceSettings | None = None,
        placement: Placement | Group | None = None,
        env: Mapping[str, str] | None = None,
    ) -> "Reference":
        """Start the ranks; raises PlacementError."""
        settings = settings or ReferenceSettings()
        group = Group("reference", ReferenceWorker, settings, placement, env, (settings,))
        return cls(group)

    def load(self, model: Path, micro_batch_tokens: int = 8192) -> Pending[None]:
        """Load a Hugging Face folder."""
        return self.group.call("load", model, micro_batch_tokens).then(done)

    def logprobs(self, batch: Sequences, temperature: float = 1.0) -> Pending[Logprobs]:
        """Log-probs of the action tokens, fp32 `[tokens]`, 0 elsewhere."""
        pending, join = self.group.deal("logprobs", batch, temperature)
        return pending.then(lambda parts: Logprobs(join([part.logprobs for part in parts])))

    def distributions(self, batch: Sequences, temperature: float = 1.0) -> Pending[Tensor]:
        """As of `Policy`."""
        return self.group.first("distributions", batch, temperature)

    def close(self) -> None:
        """End the ranks."""
        self.group.close()


class PolicyBase:
    """Stands where a reference stands: the frozen base under the policy's adapters."""

    group = None

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def load(self, model: Path, micro_batch_tokens: int = 8192) -> None:
        """Nothing to load: the policy has it."""

    def logprobs(self, batch: Sequences, temperature: float = 1.0) -> Pending[Logprobs]:
        """As `Reference`."""
        return self.policy.base_logprobs(batch, temperature)

    def distributions(self, batch: Sequences, temperature: float = 1.0) -> Pending[Tensor]:
        """As `Reference`."""
        return self.policy.distributions(batch, temperature, base=True)

    def close(self) -> None:
        """Nothing to end."""
