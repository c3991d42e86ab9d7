"""Training states on disk: sharded, atomic, loadable under another number of ranks."""

import os
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from pretrain_core.errors import InputError
from pretrain_core.model import ModelConfig, Transformer
from pretrain_core.parallel import World
from pretrain_core.runs import read_json, write_json
from pretrain_core.runs.files import sync_folder

STATE_FILE = "state.json"
_NAME = re.compile(r"step-(\d{8})")


class CheckpointError(InputError):
    """A checkpoint that is missing or belongs to another run."""


@dataclass
class Counters:
    """Where the run stands: steps done, tokens and targets seen, seconds spent, data position."""

    step: int = 0
    tokens: int = 0
    targets: int = 0
    seconds: float = 0.0


def newest(folder: Path) -> Path | None:
    """The complete checkpoint with the most steps, or None; partial ones are never seen."""
    found = [p for p in folder.iterdir() if _NAME.fullmatch(p.name)] if folder.is_dir() else []
    return max(found, key=lambda path: path.name, default=None)


def save(
    folder: Path,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    facts: dict[str, Any],
    world: World,
    keep: int,
) -> Path:
    """Write `step-N` aside and rename it: it appears whole or not at all. Call on all ranks.

    `facts` is JSON with at least `counters.step`; all but the newest `keep` are removed. Weights of
    this step that are there already stay.
    """
    final = folder / f"step-{facts['counters']['step']:08d}"
    partial = folder / f".{final.name}.partial"
    if world.from_lead(final.is_dir()):
        # Same step, same weights; the time spent may have grown.
        if world.leads:
            write_json(final / STATE_FILE, facts)
        return final
    if world.leads:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
    world.barrier()
    weights, moments = get_state_dict(module, optimiser)
    state = {"module": weights, "optimiser": moments}
    with warnings.catch_warnings():
        # DCP tells each single process that it is one.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp_save(state, checkpoint_id=partial, no_dist=world.size == 1)
    if world.leads:
        write_json(partial / STATE_FILE, facts)
        os.rename(partial, final)
        sync_folder(folder)
        done = sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name))
        for old in done[:-keep]:
            shutil.rmtree(old)
    world.barrier()
    return final


def load(
    path: Path,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    fingerprint: dict[str, Any],
    world: World,
) -> dict[str, Any]:
    """Restore weights and moments; returns the facts that were saved with them.

    Raises `CheckpointError` naming every setting that differs from the saved run's.
    """
    facts: dict[str, Any] = read_json(path / STATE_FILE)
    saved = facts["fingerprint"]
    differing = [
        f"{key}: saved {saved.get(key)!r}, now {fingerprint.get(key)!r}"
        for key in sorted({*saved, *fingerprint})
        if saved.get(key) != fingerprint.get(key)
    ]
    if differing:
        raise CheckpointError(
            f"{path}: belongs to another training ({'; '.join(differing)}); "
            "resume with the same settings, or start a new run"
        )
    weights, moments = get_state_dict(module, optimiser)
    state = {"module": weights, "optimiser": moments}
    _read(state, path, alone=world.size == 1)
    set_state_dict(module, optimiser, model_state_dict=weights, optim_state_dict=moments)
    return facts


def load_model(path: Path) -> Transformer:
    """The model of one checkpoint on this process alone, without its optimiser."""
    if not (path / STATE_FILE).is_file():
        raise CheckpointError(f"{path}: not a checkpoint (it has no {STATE_FILE})")
    config = ModelConfig.model_validate(read_json(path / STATE_FILE)["fingerprint"]["model"])
    model = Transformer(config)
    state = {"module": {f"model.{name}": value for name, value in model.state_dict().items()}}
    _read(state, path, alone=True)
    return model


def _read(state: dict[str, Any], path: Path, alone: bool) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp_load(state, checkpoint_id=path, no_dist=alone)
