"""What a run of the training loop works on, and its arithmetic in words."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain_core.data.loader import Loader
from pretrain_core.data.store import TokenStore
from pretrain_core.errors import InputError
from pretrain_core.model import ModelConfig
from pretrain_core.parallel import World
from pretrain_core.precision import products_of
from pretrain_core.train.settings import FitSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class JobError(InputError):
    """Settings, weights, tokenizer and data that do not fit together."""


@dataclass(frozen=True)
class Job:
    """One training run, checked: `init` None means fresh weights; `steps` is the most it takes."""

    kind: str
    settings: FitSettings
    config: ModelConfig
    tokenizer: "PreTrainedTokenizerBase"
    store: TokenStore
    held_out: TokenStore | None
    init: Path | None
    seed: int
    steps: int

    def loader(self, world: World) -> Loader:
        """The job's data for one rank, at its beginning."""
        return make_loader(self.settings, self.store, self.seed, world)

    def fingerprint(self, world: World) -> dict[str, Any]:
        """What decides the course of training; a resumed run must have the same."""
        keep = {"batch", "optimiser", "max_seconds"}
        return {
            "kind": self.kind,
            "model": self.config.model_dump(),
            "store": self.store.sha256,
            "init": None if self.init is None else str(self.init),
            "seed": self.seed,
            "steps": self.steps,
            "products": self.products(world),
            **self.settings.model_dump(mode="json", include=keep),
        }

    def products(self, world: World) -> str:
        """The format of matrix products on these devices."""
        return str(products_of(self.settings.dtype, world.device)).removeprefix("torch.")

    def plan(self, world: World) -> list[str]:
        """The arithmetic of the run, a line each."""
        settings, batch = self.settings, self.settings.batch
        rows = self.loader(world).rows_in_epoch()
        per_step = self.store.size / rows * batch.sequences
        micro = min(batch.micro_sequences or batch.sequences, batch.sequences // world.size)
        optimiser = settings.optimiser
        memory = _memory(self.config, micro * batch.length, world.size)
        lines = [
            f"model: {self.config.parameters / 1e6:.2f}M parameters ({self.config.layers} layers, "
            f"hidden {self.config.hidden}, vocabulary {self.config.vocab_size}), "
            + (f"from {self.init}" if self.init else f"fresh, seed {self.seed}"),
            f"data: {self.store.documents:,} documents, {self.store.size:,} tokens in "
            f"{rows:,} rows of at most {batch.length} "
            f"({self.store.size / rows / batch.length:.1%} full)",
            f"batch: {batch.sequences} rows × {batch.length} = "
            f"{batch.sequences * batch.length:,} tokens (about {per_step:,.0f} filled) per step; "
            f"{world.size} ranks × {math.ceil(batch.sequences / world.size / micro)} micro-batches "
            f"× {micro} rows",
            f"length: at most {self.steps:,} steps = {per_step * self.steps:,.0f} tokens "
            f"({self.steps * batch.sequences / rows:.2f} epochs)",
            f"rate: AdamW {optimiser.lr:g}, warm-up over {optimiser.warmup:.0%} of the run, "
            f"cosine to {optimiser.final:.0%}; products in {self.products(world)}",
            f"memory: about {memory:.1f} GiB a rank",
        ]
        if settings.max_seconds is not None:
            lines.insert(
                4,
                f"time: at most {settings.max_seconds:g} s of training; the schedule follows "
                "max(steps done, seconds spent), so its course depends on the machine's speed",
            )
        return lines


def make_loader(settings: FitSettings, store: TokenStore, seed: int, world: World) -> Loader:
    """Loader of the settings' batches for one rank."""
    batch = settings.batch
    return Loader(
        store,
        sequences=batch.sequences,
        length=batch.length,
        seed=seed,
        micro_sequences=batch.micro_sequences,
        block_documents=batch.block_documents,
        rank=world.rank,
        ranks=world.size,
    )


def make_job(
    kind: str,
    settings: FitSettings,
    config: ModelConfig,
    tokenizer: "PreTrainedTokenizerBase",
    stores: tuple[TokenStore, TokenStore | None],
    init: Path | None,
    seed: int,
    world: World,
) -> Job:
    """Check that the parts fit and work out the steps; raises `JobError` saying what does not."""
    store, held_out = stores
    for name, candidate in (("data", store), ("held-out data", held_out)):
        if candidate is not None and candidate.vocab_size > config.vocab_size:
            raise JobError(
                f"{candidate.path}: the {name} was made with {candidate.vocab_size} tokens, "
                f"the model has {config.vocab_size}: use the tokenizer of the store"
            )
    if len(tokenizer) > config.vocab_size:
        raise JobError(
            f"the tokenizer has {len(tokenizer)} tokens, model.vocab_size is {config.vocab_size}"
        )
    batch = settings.batch
    if batch.length > config.max_positions:
        raise JobError(f"batch.length {batch.length} is above max_positions {config.max_positions}")
    if batch.sequences % world.size:
        raise JobError(f"batch.sequences {batch.sequences} is not a multiple of {world.size} ranks")
    loader = make_loader(settings, store, seed, world)
    if settings.steps is not None:
        steps = settings.steps
    elif settings.tokens is not None:
        steps = math.ceil(settings.tokens / (batch.sequences * batch.length))
    else:
        assert settings.epochs is not None, "FitSettings asks for one of the three"
        steps = math.ceil(settings.epochs * loader.rows_in_epoch() / batch.sequences)
    return Job(kind, settings, config, tokenizer, store, held_out, init, seed, steps)


def _memory(config: ModelConfig, tokens: int, ranks: int) -> float:
    """GiB: weights, gradients, two moments (fp32) and what a backward pass keeps per token."""
    states = 16 * config.parameters / ranks
    # Bytes per token and layer, seen with bf16 products over an fp32 residual stream.
    kept = tokens * config.layers * (64 * config.hidden + 20 * config.ffn)
    return (states + kept) / 2**30 + 0.5
