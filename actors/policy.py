"""The policy: log-probs, PPO updates with the pre-training loss, export, and weight push."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from actors.batch import Experience, Sequences, Totals, micro_batches, partition
from actors.engines.lora import LoraSettings, adapters_off, add_adapters
from actors.engines.protocol import Engine, EngineSettings, OptimSettings
from actors.forward import (
    Head,
    LogprobResult,
    Logprobs,
    Outputs,
    distributions,
    entropy_head,
    in_step,
    logprob_head,
    over_actions,
    targets,
    tempered,
)
from actors.group import Group, Pending, done
from actors.losses import (
    Actions,
    PolicyLossSettings,
    Stats,
    add_stats,
    policy_loss,
    pretrain_loss,
    token_shares,
)
from actors.placement import Placement, RoleResources
from actors.training import Gradient, MicroBatch
from actors.worker import Rank, Worker
from pretrain_core.draws import seed_of
from pretrain_core.model.logprobs import logprobs_of

if TYPE_CHECKING:
    from actors.rollout.weights.wire import Manifest, TransferAddress, WeightSender

_TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.*",
    "merges.txt",
    "*.model",
)


class PolicySettings(RoleResources):
    """The policy's ranks and its loss (facts F7)."""

    engine: EngineSettings = EngineSettings()
    loss: PolicyLossSettings = PolicyLossSettings()
    lora: LoraSettings | None = Field(
        default=None, description="adapters over a frozen base; none: all weights learn"
    )
    ptx_coef: float = Field(
        default=0.5, ge=0, description="weight of the pre-training loss; 0: none"
    )


class PolicyWorker(Worker):
    """One rank of the policy."""

    def __init__(self, place: Rank, settings: PolicySettings) -> None:
        super().__init__(place)
        self.settings = settings
        self.sender: WeightSender | None = None

    def load(
        self,
        folder: Path,
        optim: OptimSettings,
        seed: int,
        state: Path | None,
        micro_batch_tokens: int,
    ) -> torch.dtype:
        """Build model and optimiser; with `state`, go on exactly where it was saved.

        Returns the format of matrix products.
        """
        from actors.engines.deepspeed import DeepSpeedEngine
        from actors.engines.door import causal_lm

        torch.manual_seed(seed_of(seed, "policy", sample=self.place.rank))
        self.source = folder
        self.micro_batch_tokens = micro_batch_tokens
        model: Any = causal_lm(str(folder))
        if self.settings.lora is not None:
            add_adapters(model, self.settings.lora, seed)
        self.model = model
        self.engine: Engine = DeepSpeedEngine(
            model, model.get_output_embeddings(), optim, self.settings.engine
        )
        self.gradient = Gradient(self.engine)
        if state is not None:
            self.engine.load_state(state)
        return self.engine.products

    def logprobs(
        self, batch: Sequences, temperature: float, keep: int | None = None
    ) -> LogprobResult:
        """Log-probs and entropies of this rank's share, in fixed micro-batches.

        `keep`: the iteration whose update is to use these forward passes.
        """
        heads = [logprob_head(temperature), entropy_head(temperature)]
        if temperature != 1.0:
            heads.append(logprob_head(1.0))
        outputs = self.gradient.kept.keeping(keep)
        return LogprobResult(*self._over_actions(heads, batch, outputs))

    def base_logprobs(self, batch: Sequences, temperature: float) -> Logprobs:
        """Log-probs of this rank's share under the base alone, its adapters off."""
        with adapters_off(self.model):
            heads = [logprob_head(temperature)]
            return Logprobs(*self._over_actions(heads, batch, self.engine.outputs))

    def _over_actions(
        self, heads: Sequence[Head], batch: Sequences, outputs: Outputs
    ) -> list[Tensor]:
        return over_actions(outputs, heads, batch, self.micro_batch_tokens, in_step(self.engine))

    def distributions(self, batch: Sequences, temperature: float, base: bool = False) -> Tensor:
        """Log-probs of all tokens at this rank's actions, of the policy or of its base."""
        with adapters_off(self.model) if base else nullcontext():
            return distributions(
                self.engine.outputs,
                batch,
                self.micro_batch_tokens,
                temperature,
                in_step(self.engine),
            )

    def accumulate(self, experience: Experience, totals: Totals, temperature: float) -> None:
        """A part of the next `update`."""
        self.gradient.add(self._parts(experience, None, totals, temperature))

    def update(
        self, experience: Experience, text: Sequences | None, totals: Totals, temperature: float
    ) -> tuple[Stats, float]:
        """One step on Σ_ppo / N_ppo + ptx_coef · Σ_ptx / N_ptx: (stats, gradient norm)."""
        return self.gradient.step(self._parts(experience, text, totals, temperature))

    def _parts(
        self, experience: Experience, text: Sequences | None, totals: Totals, temperature: float
    ) -> list[MicroBatch]:
        limit = self.micro_batch_tokens
        parts = []
        for indices in micro_batches(experience.sequences.lengths, limit):
            samples = experience.select(indices)
            parts.append(MicroBatch(samples.ids, partial(self._ppo, samples, totals, temperature)))
        if text is not None:
            for indices in micro_batches(text.lengths, limit):
                names = tuple(f"pretrain[{index}]" for index in indices)
                loss = partial(self._pretrain, text.select(indices), totals.pretrain_tokens)
                parts.append(MicroBatch(names, loss))
        return parts

    def _ppo(self, samples: Experience, totals: Totals, temperature: float) -> tuple[Tensor, Stats]:
        logits = tempered(self.gradient.kept.outputs(samples.sequences), temperature)
        device, at = logits.device, samples.sequences.is_action

        def here(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[at].to(device)

        actions = Actions(
            logprobs=logprobs_of(logits, targets(samples.sequences).to(device)),
            old=samples.old_logprobs[at].to(device),
            advantages=samples.advantages[at].to(device),
            behaviour=here(samples.behaviour_logprobs),
            reference=here(samples.reference_logprobs),
        )
        settings = self.settings.loss
        shares = token_shares(samples.sequences, totals, settings.aggregation).to(device)
        return policy_loss(actions, shares, settings)

    def _pretrain(self, rows: Sequences, denominator: int) -> tuple[Tensor, Stats]:
        logits = self.engine.outputs(rows)
        found = logprobs_of(logits, targets(rows).to(logits.device))
        loss, stats = pretrain_loss(found, denominator=denominator)
        return self.settings.ptx_coef * loss, stats

    def save_state(self, folder: Path) -> None:
        """Write this rank's part of the training state."""
        self.engine.save_state(folder)

    def export(self, folder: Path) -> None:
        """On rank 0: write a Hugging Face folder, fp32 safetensors, with the tokenizer's files."""
        if self._only_helps():
            return
        whole = self.engine.adapted or self.engine.partitioned
        state = dict(self.engine.named_weights()) if whole else None
        self.model.save_pretrained(folder, state_dict=state)
        for pattern in _TOKENIZER_FILES:
            for file in sorted(self.source.glob(pattern)):
                if not file.name.endswith(".safetensors"):
                    shutil.copyfile(file, folder / file.name)

    def send_weights(self, address: TransferAddress) -> Manifest | None:
        """From rank 0: send the full weights to the rollout engines at `address`.

        The other ranks only help to gather them, and return None. Raises WeightPushError when an
        engine does not take them.
        """
        from actors.rollout.weights.wire import WeightPushError, WeightSender

        if self._only_helps():
            return None
        if self.sender is None or self.sender.address != address:
            self.sender = WeightSender(address)
        try:
            return self.sender.send(self.engine.named_weights())
        except WeightPushError:
            self.sender = None
            raise

    def _only_helps(self) -> bool:
        """Whether this is another rank than 0, which then has helped to gather the weights."""
        if self.place.rank > 0 and self.engine.partitioned:
            for _ in self.engine.named_weights():
                pass
        return self.place.rank > 0


class Policy:
    """Driver-side handle: packed batches in, dealt to the ranks, put together again.

    `products`: the format of matrix products, once a model is loaded.
    """

    def __init__(self, group: Group, settings: PolicySettings) -> None:
        self.group = group
        self.settings = settings

    @classmethod
    def start(
        cls,
        settings: PolicySettings | None = None,
        placement: Placement | Group | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Policy:
        """Start the ranks; raises PlacementError."""
        settings = settings or PolicySettings()
        group = Group("policy", PolicyWorker, settings, placement, env, arguments=(settings,))
        return cls(group, settings)

    def load(
        self,
        model: Path,
        optim: OptimSettings,
        seed: int,
        state: Path | None = None,
        micro_batch_tokens: int = 8192,
    ) -> Pending[None]:
        """Load a Hugging Face folder to train; `state` is a folder of `save_state`."""
        self.optim = optim

        def loaded(products: Sequence[torch.dtype]) -> None:
            self.products = products[0]

        return self.group.call("load", model, optim, seed, state, micro_batch_tokens).then(loaded)

    def logprobs(
        self, batch: Sequences, temperature: float = 1.0, *, keep: int | None = None
    ) -> Pending[LogprobResult]:
        """Log-probs and entropies at the action tokens, fp32 `[tokens]`, 0 elsewhere.

        `keep`: the iteration whose update uses these forward passes, which stay in memory till it.
        """
        pending, join = self.group.deal("logprobs", batch, temperature, keep)

        def joined(parts: list[LogprobResult]) -> LogprobResult:
            raw = [part.raw for part in parts if part.raw is not None]
            return LogprobResult(
                join([part.logprobs for part in parts]),
                join([part.entropy for part in parts]),
                join(raw) if raw else None,
            )

        return pending.then(joined)

    def base_logprobs(self, batch: Sequences, temperature: float = 1.0) -> Pending[Logprobs]:
        """Log-probs at the action tokens under the frozen base of the adapters."""
        pending, join = self.group.deal("base_logprobs", batch, temperature)
        return pending.then(lambda parts: Logprobs(join([part.logprobs for part in parts])))

    def distributions(
        self, batch: Sequences, temperature: float = 1.0, *, base: bool = False
    ) -> Pending[Tensor]:
        """Log-probs of all tokens at each action, fp32 `[actions, vocab]`: for a few actions.

        `base`: under the frozen base of the adapters.
        """
        return self.group.first("distributions", batch, temperature, base=base)

    def accumulate(
        self, experience: Experience, totals: Totals, temperature: float = 1.0
    ) -> Pending[None]:
        """Samples of the next `update` that are there before its others; `totals` are its own."""
        totals.check(experience.sequences)
        shards = [(part, totals, temperature) for part in self._dealt(experience)]
        return self.group.scatter("accumulate", shards).then(done)

    def update(
        self,
        experience: Experience,
        pretrain: Sequences | None,
        totals: Totals,
        temperature: float = 1.0,
    ) -> Pending[dict[str, float]]:
        """One optimiser step on all ranks, on these samples and all accumulated before them.

        The metrics are those of the whole step, by the names of TRL and verl.

        Raises ValueError when `ptx_coef` and `pretrain` do not go together, BatchError when the
        totals do not cover the batch; NonFiniteError (as the cause of ActorFailed) before weights
        change.
        """
        self._check(experience, pretrain, totals)
        text_shares = partition(pretrain.lengths, self.group.world_size) if pretrain else []
        shards = [
            (part, pretrain.select(text_shares[rank]) if pretrain else None, totals, temperature)
            for rank, part in enumerate(self._dealt(experience))
        ]
        lr = self.optim.lr

        def join(parts: list[tuple[Stats, float]]) -> dict[str, float]:
            stats = add_stats(part for part, _ in parts)
            return stats | {"actor/grad_norm": parts[0][1], "actor/lr": lr}

        return self.group.scatter("update", shards).then(join)

    def _dealt(self, experience: Experience) -> list[Experience]:
        """Each rank's share."""
        shares = partition(experience.sequences.lengths, self.group.world_size)
        return [experience.select(share) for share in shares]

    def _check(self, experience: Experience, text: Sequences | None, totals: Totals) -> None:
        coefficient = self.settings.ptx_coef
        if (coefficient > 0) != (text is not None):
            raise ValueError(
                f"ptx_coef is {coefficient} but "
                + ("no pre-training batch was given" if text is None else "a batch was given")
                + ": set it to 0 exactly when there is no pre-training text"
            )
        totals.check(experience.sequences, text)

    def save_state(self, folder: Path) -> Pending[None]:
        """Write the training state; `load(state=folder)` goes on bit for bit."""
        return self.group.call("save_state", folder).then(done)

    def export(self, folder: Path) -> Pending[None]:
        """Write a Hugging Face folder with the tokenizer."""
        return self.group.call("export", folder).then(done)

    def send_weights(self, address: TransferAddress) -> Pending[Manifest]:
        """Push the weights; the engines must be receiving at `address` meanwhile."""
        return self.group.call("send_weights", address).then(lambda manifests: manifests[0])

    def close(self) -> None:
        """End the ranks."""
        self.group.close()
