"""The patch itself: a child that continues its parent on pattern pairs, with replay of old ones."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cool_rlhf.hacks.patch.replay import draw_replay
from cool_rlhf.hacks.patch.settings import PatchError, PatchSettings, recipe
from cool_rlhf.hacks.patch.split import split_pairs
from pretrain_core.draws import seed_of
from pretrain_core.runs import Run, StopSignal
from reward.card import read_card
from reward.data import Preference
from reward.trainer import train_reward

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patched:
    """A trained child, not yet judged: its folder, and which pairs it has seen."""

    folder: Path
    training: Sequence[Preference] = field(repr=False)
    held_out: Sequence[Preference] = field(repr=False)
    replay: Sequence[Preference] = field(repr=False)


def patch_reward_model(
    parent: Path,
    pairs: Sequence[Preference],
    old: Sequence[Preference],
    out: Path,
    settings: PatchSettings,
    *,
    parents: Mapping[str, Path] | None = None,
    run: Run | None = None,
    stop: StopSignal | None = None,
) -> Patched:
    """Teach `parent` the pattern pairs (chosen: without the pattern) and save the child to `out`.

    Part of each hack's prompts is held out, for a gate. `old`: what the replay is drawn from; pairs
    whose replies have the pattern would teach it anew. `parents`: further lineage, by name. Raises
    PatchError for pairs that make no patch, and what `train_reward` raises.
    """
    training, held_out = split_pairs(pairs, settings)
    replay: list[Preference] = []
    if settings.replay != "none":
        count = round(settings.replay_pairs * len(training))
        replay = draw_replay(old, count, settings.seed)
        if not replay:
            raise PatchError("no old pairs to replay: give some, or say replay=none")
        if len(replay) < count:
            logger.warning("%d old pairs to replay, %d were asked for", len(replay), count)
    level, distil = settings.objective == "level", settings.replay == "distil"
    card = read_card(parent)
    train_reward(
        recipe(settings, card),
        base=parent,
        train=[*([] if level else training), *([] if distil else replay)],
        distil=replay if distil else [],
        level=training if level else [],
        out=out,
        conditions=card.conditions,
        run=run,
        parents=parents,
        seed=seed_of(settings.seed, "hacks/patch"),
        stop=stop,
    )
    return Patched(out, training, held_out, replay)
