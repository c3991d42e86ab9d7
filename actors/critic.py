"""The critic: the reward model without its linear head, learning the value of each state."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from actors.batch import BatchError, Experience, Sequences, Totals, micro_batches, partition
from actors.engines.lora import LoraSettings, add_adapters
from actors.engines.protocol import Engine, EngineSettings, OptimSettings
from actors.forward import in_step, over_actions
from actors.group import Group, Pending, done
from actors.losses import Stats, add_stats, value_loss, with_explained_variance
from actors.placement import Placement, RoleResources
from actors.training import Gradient, MicroBatch
from actors.worker import Rank, Worker
from pretrain_core.draws import seed_of


class CriticSettings(RoleResources):
    """The critic's ranks."""

    engine: EngineSettings = EngineSettings()
    lora: LoraSettings | None = Field(
        default=None,
        description="adapters over a frozen body, beside the value head; none: all weights learn",
    )
    reads_condition: bool = Field(
        default=False,
        description="the system prompt of a prompt's condition stands before what the critic reads,"
        " as before what the reward model reads; the report's critic never sees it",
    )
    value_clip: float | None = Field(
        default=None,
        gt=0,
        description="values that move further than this in an iteration pay the larger error;"
        " none: no clipping, as in the report",
    )


class ValueModel(nn.Module):
    """A transformer's body with a value head that starts at zero and computes in fp32."""

    def __init__(self, body: nn.Module, hidden: int) -> None:
        super().__init__()
        self.body = body
        self.value_head = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(self.value_head.weight)

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        """`logits`: one value for each position that reaches the head."""
        states = self.body(input_ids=input_ids, use_cache=use_cache).last_hidden_state
        with torch.autocast(states.device.type, enabled=False):
            return SimpleNamespace(logits=self.value_head(states.float()).squeeze(-1))


def value_model(folder: Path) -> ValueModel:
    """The body of a reward model's (report §4.2.3) or a policy's folder under a fresh value head.

    Raises OSError where the folder holds no such model.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from actors.engines.door import without_dropout

    config = AutoConfig.from_pretrained(str(folder))
    without_dropout(config)
    scorer: Any = AutoModelForSequenceClassification.from_pretrained(
        str(folder), config=config, dtype=torch.float32, attn_implementation="sdpa"
    )
    return ValueModel(scorer.base_model, config.get_text_config().hidden_size)


class CriticWorker(Worker):
    """One rank of the critic."""

    def __init__(self, place: Rank, settings: CriticSettings) -> None:
        super().__init__(place)
        self.settings = settings

    def load(
        self,
        folder: Path,
        optim: OptimSettings,
        seed: int,
        state: Path | None,
        micro_batch_tokens: int,
    ) -> None:
        """Build model and optimiser; with `state`, go on exactly where it was saved."""
        from actors.engines.deepspeed import DeepSpeedEngine

        torch.manual_seed(seed_of(seed, "critic", sample=self.place.rank))
        self.micro_batch_tokens = micro_batch_tokens
        model = value_model(folder)
        if self.settings.lora is not None:
            add_adapters(model.body, self.settings.lora, seed)
        self.engine: Engine = DeepSpeedEngine(model, model.value_head, optim, self.settings.engine)
        self.gradient = Gradient(self.engine)
        if state is not None:
            self.engine.load_state(state)

    def values(self, batch: Sequences, keep: int | None = None) -> Tensor:
        """Values of this rank's share, in fixed micro-batches; `keep` as of the policy."""
        heads = [lambda values, _: values]
        outputs = self.gradient.kept.keeping(keep)
        agree = in_step(self.engine)
        (values,) = over_actions(outputs, heads, batch, self.micro_batch_tokens, agree)
        return values

    def accumulate(self, experience: Experience, totals: Totals) -> None:
        """A part of the next `update`."""
        self.gradient.add(self._parts(experience, totals))

    def update(self, experience: Experience, totals: Totals) -> tuple[Stats, float]:
        """One optimiser step on Σ ½·(V − R)² / N: (stats, gradient norm)."""
        return self.gradient.step(self._parts(experience, totals))

    def _parts(self, experience: Experience, totals: Totals) -> list[MicroBatch]:
        parts = []
        for indices in micro_batches(experience.sequences.lengths, self.micro_batch_tokens):
            samples = experience.select(indices)
            parts.append(MicroBatch(samples.ids, partial(self._loss, samples, totals.actions)))
        return parts

    def _loss(self, samples: Experience, denominator: int) -> tuple[Tensor, Stats]:
        values = self.gradient.kept.outputs(samples.sequences)
        at, clip = samples.sequences.is_action, self.settings.value_clip
        old = None if clip is None or samples.old_values is None else samples.old_values[at]
        if samples.returns is None:
            raise BatchError("a critic needs returns to learn from")
        return value_loss(
            values,
            samples.returns[at].to(values.device),
            denominator=denominator,
            old_values=None if old is None else old.to(values.device),
            clip_range=clip,
        )

    def save_state(self, folder: Path) -> None:
        """Write this rank's part of the training state."""
        self.engine.save_state(folder)


class Critic:
    """Driver-side handle."""

    def __init__(self, group: Group) -> None:
        self.group = group

    @classmethod
    def start(
        cls,
        settings: CriticSettings | None = None,
        placement: Placement | Group | None = None,
        env: Mapping[str, str] | None = None,
    ) -> "Critic":
        """Start the ranks; raises PlacementError."""
        settings = settings or CriticSettings()
        return cls(Group("critic", CriticWorker, settings, placement, env, arguments=(settings,)))

    def load(
        self,
        folder: Path,
        optim: OptimSettings,
        seed: int,
        state: Path | None = None,
        micro_batch_tokens: int = 8192,
    ) -> Pending[None]:
        """Start from a reward model's or a policy's folder; `state` is a folder of `save_state`."""
        self.optim = optim
        return self.group.call("load", folder, optim, seed, state, micro_batch_tokens).then(done)

    def values(
        self,
        batch: Sequences,
        contexts: Sequence[Sequence[int]] | None = None,
        *,
        keep: int | None = None,
    ) -> Pending[Tensor]:
        """Value of the state before each action token, fp32 `[tokens]`, 0 elsewhere.

        `contexts`: tokens that are read before each sequence. `keep`: the iteration whose update
        uses these forward passes, which stay in memory till it.
        """
        if contexts is not None:
            longer, at = batch.behind(contexts)
            return self.values(longer, keep=keep).then(lambda values: values[at])
        pending, join = self.group.deal("values", batch, keep)
        return pending.then(join)

    def accumulate(self, experience: Experience, totals: Totals) -> Pending[None]:
        """Samples of the next `update` that are there before its others; `totals` are its own."""
        return self.group.scatter("accumulate", self._shards(experience, totals)).then(done)

    def update(self, experience: Experience, totals: Totals) -> Pending[dict[str, float]]:
        """One optimiser step on all ranks, on these samples and all accumulated before them.

        Raises BatchError when the totals do not cover the batch; NonFiniteError (as the cause of
        ActorFailed) before weights change.
        """
        lr = self.optim.lr

        def join(parts: list[tuple[Stats, float]]) -> dict[str, float]:
            stats = with_explained_variance(add_stats(part for part, _ in parts))
            return stats | {"critic/grad_norm": parts[0][1], "critic/lr": lr}

        return self.group.scatter("update", self._shards(experience, totals)).then(join)

    def _shards(self, experience: Experience, totals: Totals) -> list[tuple[Experience, Totals]]:
        totals.check(experience.sequences)
        read = experience.behind_contexts()
        shares = partition(read.sequences.lengths, self.group.world_size)
        return [(read.select(share), totals) for share in shares]

    def save_state(self, folder: Path) -> Pending[None]:
        """Write the training state; `load(state=folder)` goes on bit for bit."""
        return self.group.call("save_state", folder).then(done)

    def close(self) -> None:
        """End the ranks."""
        self.group.close()
