"""The training loop, the same for pre-training and SFT, for one process and for many."""

import logging

from pretrain_core.model import Transformer
from pretrain_core.parallel import World
from pretrain_core.precision import products_of
from pretrain_core.runs import Progress, Run, Stopped, StopSignal
from pretrain_core.train.job import Job
from pretrain_core.train.meter import Meter, measured_peak
from pretrain_core.train.trainer import Trainer

logger = logging.getLogger(__name__)


def fit(job: Job, run: Run | None, world: World, stop: StopSignal | None = None) -> Transformer:
    """Train until steps or seconds are used up, from the newest checkpoint of the run if any.

    Rank 0 holds the run. Returns the (sharded) model. Raises `NonFiniteError` before a bad step
    is taken, and `Stopped` after a requested stop, when all is saved.
    """
    settings = job.settings
    trainer = Trainer(job, world.shared_path(run.checkpoints if run else None), world)
    counters = trainer.counters
    meter = Meter(job.config, _peak(job, world))
    seconds = settings.max_seconds
    seconds_left = None if seconds is None else seconds - counters.seconds
    line = Progress(job.steps, job.kind, first=counters.step, max_seconds=seconds_left)
    if run:
        run.truncate_metrics(counters.step - 1)
    while counters.step < job.steps:
        elapsed, stopping = trainer.agree(stop)
        if settings.max_seconds is not None and elapsed >= settings.max_seconds:
            logger.info("the %g s are used up after %d steps", elapsed, counters.step)
            break
        if stopping:
            trainer.save()
            _leave(stop, world)
        number = counters.step
        progress = trainer.progress(elapsed)
        step = trainer.loader.step()
        loss = trainer.backward(step)
        taken = trainer.update(progress, step)
        meter.add(step.lengths)
        if run:
            row = {
                "train/loss": loss,
                **taken,
                "train/tokens": counters.tokens,
                "train/epoch": trainer.loader.epoch,
                "train/progress": progress,
                **meter.read(),
            }
            run.log(number, row)
            speed = f"{row['perf/throughput']:,.0f} tok/s, mfu {row['perf/mfu']:.0%}"
            line.update(number, loss=loss, lr=taken["train/lr"], speed=speed)
        if counters.step % settings.checkpoint.interval == 0:
            trainer.save()
    line.close()
    trainer.save()
    return trainer.model


def _leave(stop: StopSignal | None, world: World) -> None:
    if stop is not None and world.leads:
        stop.announce()
    raise Stopped(stop.resume_command if stop else "")


def _peak(job: Job, world: World) -> float:
    """FLOP/s of all ranks together."""
    if job.settings.peak_tflops is not None:
        return job.settings.peak_tflops * 1e12 * world.size
    products = products_of(job.settings.dtype, world.device)
    # Measured on all ranks at the same time, since on a CPU they share the cores.
    return float(world.gather([measured_peak(world.device, products)]).sum())
