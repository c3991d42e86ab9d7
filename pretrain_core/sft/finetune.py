"""Fine-tune a base model on conversations and export a chat model."""

import logging
from pathlib import Path

from pydantic import Field

from pretrain_core.cache import InputPath
from pretrain_core.data.build import split_held_out
from pretrain_core.data.readers import Quarantine
from pretrain_core.data.store import TokenStore
from pretrain_core.parallel import World
from pretrain_core.runs import Run, StopSignal
from pretrain_core.settings import Settings
from pretrain_core.sft.data import build_sft_store, read_conversations
from pretrain_core.train.job import Job, make_job
from pretrain_core.train.pretrain import Announce, carry_out, load_tokenizer, log_plan
from pretrain_core.train.settings import FitSettings, OptimiserSettings
from pretrain_core.train.weights import find_tokenizer, find_weights, read_config

logger = logging.getLogger(__name__)


class SftDataSettings(Settings):
    """JSONL files of `{"messages": [...]}`; the held-out ones give the final loss."""

    sources: tuple[InputPath, ...] = Field(min_length=1)
    held_out: tuple[InputPath, ...] = ()
    held_out_share: float = Field(default=0.02, ge=0.0, lt=1.0)
    """Share split off the sources where `held_out` names no file."""


class SftSettings(FitSettings):
    """Supervised fine-tuning; the rate is the report's (§4.1)."""

    init: InputPath
    """Base model: a Hugging Face folder, a run of ours, or one of its checkpoints."""
    tokenizer: InputPath | None = None
    """Tokenizer folder; None takes the base model's."""
    data: SftDataSettings
    optimiser: OptimiserSettings = OptimiserSettings(lr=4e-5)


def sft(
    settings: SftSettings,
    run: Run | None,
    stop: StopSignal | None = None,
    announce: Announce = log_plan,
) -> Path:
    """Fine-tune inside a run directory and return the exported Hugging Face folder.

    Ranks, resume and errors as in `pretrain_core.train.train`.
    """
    with World.start() as world:
        job = prepare(settings, run, world)
        return carry_out(job, run, world, stop, announce)


def prepare(settings: SftSettings, run: Run | None, world: World) -> Job:
    """Stores and shape of an SFT run; rank 0 makes the stores."""
    init = find_weights(settings.init)
    tokenizer = load_tokenizer(settings.tokenizer or find_tokenizer(init))
    made = None
    if run:
        with run.phase("data"):
            made = _stores(settings, run, init)
    shared = world.from_lead(made)
    assert shared is not None, "rank 0 holds the run"
    store, held_out = shared
    stores = (TokenStore.open(store), None if held_out is None else TokenStore.open(held_out))
    config = read_config(init)
    seed = world.from_lead(run.seed if run else 0)
    return make_job("sft", settings, config, tokenizer, stores, init, seed, world)


def _stores(settings: SftSettings, run: Run, init: Path) -> tuple[Path, Path | None]:
    store, held_out = run.path / "data" / "sft.tokens", run.path / "data" / "held_out.tokens"
    if not store.exists():
        tokenizer = load_tokenizer(settings.tokenizer or find_tokenizer(init))
        quarantine = Quarantine()
        kept = list(read_conversations(settings.data.sources, quarantine))
        held = list(read_conversations(settings.data.held_out, quarantine))
        if not held:
            kept, held = split_held_out(kept, settings.data.held_out_share, run.seed)
        if held:
            build_sft_store(held, tokenizer, held_out, quarantine)
        made = build_sft_store(kept, tokenizer, store, quarantine)
        cut = int((made.lengths > settings.batch.length).sum())
        if cut:
            logger.warning(
                "%d of %d conversations are longer than batch.length %d and are cut: their later "
                "parts are learned without their beginning",
                cut,
                made.documents,
                settings.batch.length,
            )
        logger.info("%s", quarantine.summary())
        run.record(quarantined=len(quarantine), quarantine=quarantine.summary(), cut=cut)
    return store, held_out if held_out.exists() else None
