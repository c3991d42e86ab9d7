"""The saved states of an unfinished training: which one may be continued."""

import hashlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pretrain_core.runs import read_json, write_json
from reward.conditions import Conditions
from reward.pairs import Pair
from reward.settings import RewardTrainSettings

logger = logging.getLogger(__name__)
IDENTITY = "identity.json"
COMPLETE = "complete.json"  # written into a checkpoint last; without it, it is none


def identity_of(
    settings: RewardTrainSettings,
    pairs: Sequence[Pair],
    conditions: Conditions,
    base: str,
    seed: int,
) -> dict[str, Any]:
    """What must be equal for a stopped training to be continued."""
    tokens = hashlib.sha256()
    for pair in pairs:
        tokens.update(repr(asdict(pair)).encode())
    return {
        "settings": settings.model_dump(mode="json"),
        "pairs": tokens.hexdigest(),
        "conditions": conditions.hash,
        "base": base,
        "seed": seed,
    }


def clear_work(work: Path, identity: dict[str, Any]) -> None:
    """Keep the checkpoint of a stopped training with this identity, remove other leftovers."""
    saved = work / IDENTITY
    if newest_checkpoint(work) is not None and saved.exists() and read_json(saved) == identity:
        return
    if work.exists():
        logger.warning("%s belongs to another training (or was cut off): starting anew", work)
        shutil.rmtree(work)
    work.mkdir(parents=True)
    write_json(saved, identity)


def newest_checkpoint(work: Path) -> Path | None:
    """The newest complete checkpoint in a work folder."""
    found = [file.parent for file in work.glob(f"checkpoint-*/{COMPLETE}")]
    return max(found, key=lambda path: int(path.name.split("-")[1]), default=None)
