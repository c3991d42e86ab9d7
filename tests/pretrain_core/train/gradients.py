"""Run by torchrun in a test: the full gradients of one step, written by rank 0."""

import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from pretrain_core.parallel import World
from pretrain_core.runs import Run, RunSettings
from pretrain_core.settings import load
from pretrain_core.train import TrainSettings
from pretrain_core.train.pretrain import prepare
from pretrain_core.train.trainer import Trainer


def main(config: str, out: Path) -> None:
    """Write loss and gradients of step 0 to `out`."""
    settings = load(TrainSettings, config).value
    with World.start() as world:
        run = None
        if world.leads:
            run = Run.create(RunSettings(root=out.parent, name=out.stem), None, kind="train")
        trainer = Trainer(prepare(settings, run, world), out.parent / "none", world)
        loss = trainer.backward(trainer.loader.step())
        gradients = {
            name: p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad
            for name, p in trainer.model.named_parameters()
        }
        if world.leads:
            torch.save({"loss": loss, "gradients": gradients}, out)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
