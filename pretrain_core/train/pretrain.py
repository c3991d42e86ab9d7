"""Pre-training from text or tokens to a Hugging Face folder."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain_core.data.build import build_store, split_held_out
from pretrain_core.data.readers import Quarantine, read_texts
from pretrain_core.data.store import TokenStore
from pretrain_core.data.tokenizer import train_tokenizer
from pretrain_core.parallel import World
from pretrain_core.runs import Run, StopSignal
from pretrain_core.train.finish import finish
from pretrain_core.train.job import Job, make_job
from pretrain_core.train.loop import fit
from pretrain_core.train.settings import TrainSettings
from pretrain_core.train.weights import TOKENIZER, find_tokenizer, find_weights, read_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Announce = Callable[[Sequence[str]], None]


def log_plan(lines: Sequence[str]) -> None:
    """Put the plan into the log; command lines print it instead."""
    logger.info("plan:\n%s", "\n".join(lines))


def train(
    settings: TrainSettings,
    run: Run | None,
    stop: StopSignal | None = None,
    announce: Announce = log_plan,
) -> Path:
    """Pre-train inside a run directory and return the exported Hugging Face folder.

    Under `torchrun` every rank calls this, rank 0 with the run and the others with None. A run
    that holds a checkpoint continues from it. Raises `InputError`s before any work starts.
    """
    with World.start() as world:
        job = prepare(settings, run, world)
        return carry_out(job, run, world, stop, announce)


def carry_out(
    job: Job, run: Run | None, world: World, stop: StopSignal | None, announce: Announce
) -> Path:
    """Announce the plan, fit, finish."""
    if run is None:
        return finish(job, fit(job, None, world, stop), None, world)
    announce(job.plan(world))
    with run.phase(job.kind):
        model = fit(job, run, world, stop)
    return finish(job, model, run, world)


def prepare(settings: TrainSettings, run: Run | None, world: World) -> Job:
    """Tokenizer, stores and shape of a pre-training run; rank 0 makes what is missing."""
    init = None if settings.init is None else find_weights(settings.init)
    if run:
        with run.phase("data"):
            made = _tokenizer_and_stores(settings, run, init)
    else:
        made = None
    shared = world.from_lead(made)
    assert shared is not None, "rank 0 holds the run"
    folder, store, held_out = shared
    tokenizer = load_tokenizer(folder)
    config = settings.model.resolve(len(tokenizer)) if init is None else read_config(init)
    stores = (TokenStore.open(store), None if held_out is None else TokenStore.open(held_out))
    seed = world.from_lead(run.seed if run else 0)
    return make_job("pretrain", settings, config, tokenizer, stores, init, seed, world)


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder, without code of its own."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, local_files_only=True
    )
    return tokenizer


def _tokenizer_and_stores(
    settings: TrainSettings, run: Run, init: Path | None
) -> tuple[Path, Path, Path | None]:
    data = settings.data
    given = settings.tokenizer.folder
    if given is None and init is not None:
        given = find_tokenizer(init)
    own = run.path / TOKENIZER
    if data.store is not None:
        assert given is not None, "TrainSettings asks for a tokenizer with a store"
        _copy_tokenizer(given, own)
        return own, data.store, data.held_out
    store, held_out = run.path / "data" / "train.tokens", run.path / "data" / "held_out.tokens"
    if not store.exists():
        quarantine = Quarantine()
        texts = read_texts(data.sources, quarantine, data.text_key)
        kept, held = split_held_out(texts, data.held_out_share, run.seed)
        if given is None:
            train_tokenizer(kept, settings.tokenizer.vocab_size, own)
        else:
            _copy_tokenizer(given, own)
        tokenizer = load_tokenizer(own)
        if held:
            build_store(held, tokenizer, held_out)
        build_store(kept, tokenizer, store)
        logger.info("%s", quarantine.summary())
        run.record(quarantined=len(quarantine), quarantine=quarantine.summary())
    return own, store, held_out if held_out.exists() else None


def _copy_tokenizer(source: Path, own: Path) -> None:
    if not own.exists():
        load_tokenizer(source).save_pretrained(own)
