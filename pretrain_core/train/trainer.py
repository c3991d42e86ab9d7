"""The parts of a training step: state, gradients, checks, update, checkpoint."""

import logging
import math
import time
from dataclasses import asdict
from pathlib import Path

import torch

from pretrain_core.data.loader import Step
from pretrain_core.parallel import World, shard
from pretrain_core.precision import products_of
from pretrain_core.runs import StopSignal
from pretrain_core.train import checkpoint
from pretrain_core.train.checkpoint import Counters
from pretrain_core.train.job import Job
from pretrain_core.train.loss import NextTokenLoss
from pretrain_core.train.optimiser import clip, make_optimiser, require_gradients, set_rate
from pretrain_core.train.schedule import factor_at, progress_of
from pretrain_core.train.weights import make_model

logger = logging.getLogger(__name__)


class NonFiniteError(ArithmeticError):
    """Loss or gradient became NaN or infinite; the weights are still those before the step."""


class Trainer:
    """Model, optimiser, data position and counters of one rank; resumes by itself.

    `folder` holds the checkpoints; the newest complete one is loaded if there is any.
    """

    def __init__(self, job: Job, folder: Path, world: World) -> None:
        self.job, self.folder, self.world = job, folder, world
        self.model = make_model(job.config, job.init, job.seed).to(world.device)
        self.objective = NextTokenLoss(self.model)
        self.half = products_of(job.settings.dtype, world.device) == torch.bfloat16
        shard(self.objective, self.model, world)
        self.optimiser = make_optimiser(self.objective, job.settings.optimiser)
        self.loader = job.loader(world)
        self.counters = Counters()
        path = world.from_lead(checkpoint.newest(folder))
        if path is not None:
            facts = checkpoint.load(
                path, self.objective, self.optimiser, job.fingerprint(world), world
            )
            self.loader.load_state(facts["position"])
            self.counters = Counters(**facts["counters"])
            logger.info("resumed from %s", path)
        self._spent_before = self.counters.seconds
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent on training, including that before a resume."""
        return self._spent_before + time.monotonic() - self._started

    def agree(self, stop: StopSignal | None) -> tuple[float, bool]:
        """(seconds by rank 0's clock, whether any rank was asked to stop), the same on all."""
        asked = stop is not None and stop.requested
        rows = self.world.gather([self.seconds, float(asked)])
        return float(rows[0, 0]), bool(rows[:, 1].any())

    def progress(self, elapsed: float) -> float:
        """Share of the run that is over after the coming step."""
        return progress_of(
            self.counters.step, self.job.steps, elapsed, self.job.settings.max_seconds
        )

    def backward(self, step: Step) -> float:
        """Gradients of the mean loss over the *global* targets; returns that loss.

        Raises `NonFiniteError` naming step and documents, on every rank.
        """
        device = self.world.device
        # Weights are cast once per forward pass (autocast keeps the copies inside it).
        precision = torch.autocast(device.type, torch.bfloat16, enabled=self.half)
        # Sharding averages gradients over ranks, the loss is a sum: hence the factor `size`.
        scale = self.world.size / max(step.targets, 1)
        losses = []
        for batch in step.batches:
            with precision:
                loss = self.objective(
                    batch.tokens.to(device), batch.cu_seqlens, batch.targets.to(device)
                )
            (loss * scale).backward()
            losses.append(float(loss.detach()))
        summed = self.world.gather(losses)
        _require_finite_losses(summed, self.counters.step, step)
        if self.counters.step == 0:
            require_gradients(self.objective)
        return float(summed.sum()) / max(step.targets, 1)

    def update(self, progress: float, step: Step) -> dict[str, float]:
        """Clip and take the optimiser's step; returns rate and gradient norm before clipping."""
        settings = self.job.settings.optimiser
        norm = clip(self.objective, settings.clip)
        if not math.isfinite(norm):
            documents = [d for rank in step.documents for micro in rank for d in micro]
            raise NonFiniteError(
                f"step {self.counters.step}: the gradient norm is {norm} although the loss is "
                f"finite (documents {_some(documents)}); the optimiser did not step. "
                "Try dtype=float32 or a lower rate"
            )
        rate = settings.lr * factor_at(progress, settings.warmup, settings.final)
        set_rate(self.optimiser, rate)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.counters.step += 1
        self.counters.tokens += step.tokens
        self.counters.targets += step.targets
        return {"train/lr": rate, "train/grad_norm": norm}

    def save(self) -> Path:
        """Write a checkpoint of this moment, unless there is one; call on all ranks."""
        self.counters.seconds = self.seconds
        facts = {
            "counters": asdict(self.counters),
            "position": self.loader.state(),
            "fingerprint": self.job.fingerprint(self.world),
        }
        keep = self.job.settings.checkpoint.keep
        return checkpoint.save(self.folder, self.objective, self.optimiser, facts, self.world, keep)


def _require_finite_losses(losses: torch.Tensor, number: int, step: Step) -> None:
    if bool(losses.isfinite().all()):
        return
    bad = [
        document
        for rank, micro in (~losses.isfinite()).nonzero().tolist()
        for document in step.documents[rank][micro]
    ]
    raise NonFiniteError(
        f"step {number}: the loss is {float(losses.sum())} in the micro-batch with documents "
        f"{_some(bad)} of the store; the weights were not changed. Look at these documents "
        "(`pretrain-core data peek`), or resume from the last checkpoint with a lower rate"
    )


def _some(documents: list[int]) -> str:
    shown = ", ".join(map(str, documents[:12]))
    return shown + (f", … ({len(documents)} in all)" if len(documents) > 12 else "")
