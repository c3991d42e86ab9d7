"""Train a conditional reward model on `trl.RewardTrainer` (report §4.2.1)."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrain_core.runs import Run, StopSignal
from pretrain_core.runs.lineage import hash_artefact
from reward.conditions import Conditions
from reward.data import Preference, Quarantined
from reward.errors import RewardTrainingError, RewardTrainingStopped
from reward.heads import add_heads
from reward.launch import Job, launch, needs_launch, ranks
from reward.lora import merge_adapters
from reward.model import CARD, RewardModel, RewardModelError, first_std, fresh_reward_model
from reward.packing import plan_batches
from reward.pairs import Pair, held_pairs, tokenise_pairs
from reward.settings import RewardTrainSettings
from reward.states import clear_work, identity_of, newest_checkpoint

__all__ = [
    "RewardTrainSettings",
    "RewardTrainingError",
    "RewardTrainingStopped",
    "train_reward",
]

logger = logging.getLogger(__name__)


def train_reward(
    settings: RewardTrainSettings,
    *,
    base: Path,
    train: Sequence[Preference],
    distil: Sequence[Preference] = (),
    level: Sequence[Preference] = (),
    out: Path,
    conditions: Conditions,
    run: Run | None = None,
    parents: Mapping[str, Path] | None = None,
    seed: int = 1234,
    stop: StopSignal | None = None,
) -> Path:
    """Train on preferences and save to `out`; `base` is an SFT folder or a reward model's.

    `distil`: pairs whose scores are held at what `base`, then a reward model, gives them, whichever
    side is the better. `level`: pairs whose two sides are to have base's score of the chosen one.

    Raises RewardTrainingError (no pairs, no scores to hold, NaN), UnknownCondition,
    RewardModelError (`out` taken, or conditions reworded since the parent); RewardTrainingStopped
    after a request of `stop`: its state stands beside `out`, and the same call continues, as it
    does a training that was killed after a saved state (`save_every`). Too long pairs are left out,
    counted and recorded. With several workers, starts them and waits.
    """
    if out.exists() and any(out.iterdir()):
        raise RewardModelError(f"{out} is not empty: choose another place or remove it")
    if needs_launch(settings.launch):
        job = Job(
            settings,
            base,
            list(train),
            out,
            conditions,
            dict(parents or {}),
            seed,
            list(distil),
            list(level),
        )
        return launch(job, train_reward, run, stop)
    model = open_base(settings, base, conditions, seed)
    world = ranks(settings.launch)
    if distil or level:
        if not (base / CARD).exists():
            raise RewardTrainingError(f"{base} is no reward model: it has no scores to hold")
        model.network.to(world.device)
    pairs, left_out = training_pairs(model, settings, train, distil, level, seed)
    ancestors = {"base": base, **(parents or {})}
    lineage = {name: hash_artefact(path) for name, path in ancestors.items()}
    work = out.with_name(f".{out.name}.training")
    if world.is_main_process:
        clear_work(work, identity_of(settings, pairs, conditions, lineage["base"], seed))
    world.wait_for_everyone()
    outcome = fit(model, pairs, settings, seed, run, work, newest_checkpoint(work), stop)
    training = {
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "records": len(train) + len(distil) + len(level),
        "pairs": len(pairs),
        "held": sum(bool(pair.targets) for pair in pairs),
        "left_out": len(left_out),
        **outcome,
    }
    if world.is_main_process:
        model.save(out, parents=lineage, training=training)
        shutil.rmtree(work)
        if run is not None:
            run.record(reward={**training, "version": model.version, "path": str(out)})
    world.wait_for_everyone()
    return out


def training_pairs(
    model: RewardModel,
    settings: RewardTrainSettings,
    train: Sequence[Preference],
    distil: Sequence[Preference],
    level: Sequence[Preference],
    seed: int,
) -> tuple[list[Pair], list[Quarantined]]:
    """(all pairs, records left out); RewardTrainingError where there is nothing to learn."""
    dropout = settings.condition_dropout if settings.use_condition else 0.0
    equal_prompts = settings.prompt_weighting == "prompt"
    pairs, left_out = tokenise_pairs(model, train, seed, dropout, equal_prompts)
    levelled, too_long = held_pairs(model, level, equal_prompts, level=True)
    left_out += too_long
    if not pairs and not levelled:
        reason = f"; the first was left out because {left_out[0].reason}" if left_out else ""
        count = len(train) + len(level)
        raise RewardTrainingError(f"no pair to train on ({count} records{reason})")
    distilled, too_long = held_pairs(model, distil, equal_prompts)
    return pairs + distilled + levelled, left_out + too_long


def open_base(
    settings: RewardTrainSettings, base: Path, conditions: Conditions, seed: int
) -> RewardModel:
    """A fresh head on an SFT folder, or a reward model to continue, ready for these conditions."""
    if not (base / CARD).exists():
        model = fresh_reward_model(base, conditions, seed, settings.max_length)
    else:
        model = RewardModel.load(base)
        reworded = model.conditions.conflicts(conditions)
        missing = [name for name in model.conditions.names if name not in conditions]
        if reworded or missing:
            raise RewardModelError(
                f"{base} was trained with other conditions (reworded: {reworded}, missing now: "
                f"{missing}): keep their wording, and give new wording a new name"
            )
        if model.card.use_condition != settings.use_condition:
            raise RewardModelError(
                f"{base} was trained with use_condition={model.card.use_condition}; continue it so"
            )
    add_heads(model.network, settings.heads, seed, first_std(model.network))
    model.card = replace(
        model.card,
        conditions=conditions,
        heads=settings.heads,
        use_condition=settings.use_condition,
        max_length=min(model.card.max_length, settings.max_length),
    )
    return model


def fit(
    model: RewardModel,
    pairs: Sequence[Pair],
    settings: RewardTrainSettings,
    seed: int,
    run: Run | None,
    work: Path,
    resume: Path | None = None,
    stop: StopSignal | None = None,
) -> dict[str, Any]:
    """Train the model in place; returns steps, seconds, why it ended, and the last metrics."""
    from reward.trl_trainer import make_trainer

    def plan(epoch: int, ranks: int) -> list[list[int]]:
        lengths = [pair.lengths for pair in pairs]
        return plan_batches(lengths, settings.batch_tokens, seed, epoch, ranks)

    trainer = make_trainer(model, pairs, settings, seed, run, plan, work, stop)
    done = trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    steps, planned = trainer.state.global_step, trainer.state.max_steps
    if trainer.was_stopped:
        raise RewardTrainingStopped(
            f"stopped after step {steps} of {planned}; the same command continues from there"
        )
    if settings.lora is not None:
        merge_adapters(trainer.model, model)
    model.network.eval()
    if trainer.out_of_time:
        logger.warning("max_seconds ended reward training after step %d of %d", steps, planned)
    return {
        "ended_by": "time" if trainer.out_of_time else "data",
        "steps": steps,
        "planned_steps": planned,
        "seconds": round(float(done.metrics["train_runtime"]), 1),
        "last_metrics": trainer.last_metrics,
    }
