"""Stages `reward` and `gate`: the reward model learns the round's labels, and must not unlearn."""

import logging
import shutil

from cool_rlhf.hacks.patch.found import FoundHack, read_hacks
from cool_rlhf.online.context import FAST_PATH, PATCHED_PAIRS, Context
from cool_rlhf.online.sampling import pairs_file
from pretrain_core.draws import rng, seed_of
from pretrain_core.errors import RunFailed
from pretrain_core.runs import StopSignal, read_json, write_json
from reward.card import read_conditions
from reward.data import Preference, read_preferences, write_preferences
from reward.errors import RewardTrainingStopped
from reward.evaluation import non_inferiority, pair_scores
from reward.model import RewardModel
from reward.trainer import train_reward

logger = logging.getLogger(__name__)


def split_labels(context: Context, number: int) -> tuple[list[Preference], list[Preference]]:
    """(training, held-out) labels of a round; all labels of one pair fall on the same side."""
    labels = read_preferences(pairs_file(context, number).with_name("labels.jsonl")).records
    share, seed = context.settings.sample.held_out_share, context.settings.run.seed
    sides: tuple[list[Preference], list[Preference]] = ([], [])
    for label in labels:
        prompt = "\n".join(message.content for message in label.prompt)
        held_out = rng(seed, "held_out_labels", number, prompt).random() < share
        sides[held_out].append(label)
    return sides


def train_first_reward_model(context: Context, number: int, stop: StopSignal) -> None:
    """From the SFT model on, on the first labels but a share kept for gates; writes `rm/`.

    Raises RunFailed where there are too few labels for both.
    """
    settings, folder = context.settings, context.folder(number)
    assert settings.first_reward is not None
    training, held_out = split_labels(context, number)
    if not training or not held_out:
        raise RunFailed(
            f"{pairs_file(context, number).with_name('labels.jsonl')}: {len(training)} labels to"
            f" train on and {len(held_out)} to keep for gates: raise first_reward.prompts"
        )
    write_preferences(context.preferences, training)
    write_preferences(context.held_out_preferences, held_out)
    shutil.rmtree(folder / "rm", ignore_errors=True)
    try:
        train_reward(
            settings.first_reward.train,
            base=settings.sft,
            train=training,
            out=folder / "rm",
            conditions=context.conditions,
            parents={"sft": settings.sft},
            seed=seed_of(settings.run.seed, "reward", number),
            stop=stop,
        )
    except RewardTrainingStopped:
        stop.announce()


def update_reward_model(context: Context, number: int, stop: StopSignal) -> None:
    """Continue from the parent on the new labels with replay of old ones; writes `rm/`.

    So that no patch is undone, its pattern pairs are held level, and old pairs that have a patched
    pattern are not replayed. A round whose annotators had no preference leaves the reward model as
    it is.
    """
    settings, parent = context.settings, context.newest_reward_model(number)
    new, _ = split_labels(context, number)
    if not new:
        logger.warning("round %d has no label to learn from: the reward model stays", number)
        return
    old = list(read_preferences(context.preferences).records)
    for earlier in range(1, number):
        old += split_labels(context, earlier)[0]
    pattern_pairs, hacks = cured(context, number)
    old = [pair for pair in old if not any(hack.taints(pair) for hack in hacks)]
    order = rng(settings.run.seed, "replay", number).permutation(len(old))
    replay = [old[index] for index in order[: round(settings.replay_share * len(new))]]
    out = context.folder(number) / "rm"
    shutil.rmtree(out, ignore_errors=True)
    try:
        train_reward(
            settings.reward,
            base=parent,
            train=[*new, *replay],
            level=pattern_pairs,
            out=out,
            conditions=read_conditions(parent),
            parents={"reward_model": parent},
            seed=seed_of(settings.run.seed, "reward", number),
            stop=stop,
        )
    except RewardTrainingStopped:
        stop.announce()


def cured(context: Context, number: int) -> tuple[list[Preference], list[FoundHack]]:
    """The pattern pairs and hacks of the patches that this and earlier rounds promoted."""
    pairs: list[Preference] = []
    hacks: list[FoundHack] = []
    for earlier in range(1, number + 1):
        if context.patched(earlier) is not None:
            folder = context.folder(earlier) / FAST_PATH
            pairs += read_preferences(folder / PATCHED_PAIRS).records
            hacks += read_hacks(folder / "hacks.json", read_json(folder / "result.json")["patched"])
    return pairs, hacks


def gate_reward_model(context: Context, number: int, stop: StopSignal) -> None:
    """Promote the new model if it is not worse on old held-out pairs; writes `gate.json`.

    `pass` when the interval of the paired accuracy difference lies above −margin, `fail` when it
    lies below, or when one condition's surely does, else `undecided`; only `pass` is promoted.
    """
    gate = context.settings.gate
    if not (context.folder(number) / "rm").exists():
        write_json(
            context.folder(number) / "gate.json", {"verdict": "no new labels", "promoted": False}
        )
        return
    parent = RewardModel.load(context.newest_reward_model(number))
    child = RewardModel.load(context.folder(number) / "rm")
    old = list(read_preferences(context.held_out_preferences).records)
    new = split_labels(context, number)[1]
    report = {
        name: non_inferiority(
            pair_scores(child, pairs),
            pair_scores(parent, pairs),
            pairs,
            margin=gate.margin,
            confidence=gate.confidence,
        )
        for name, pairs in (("old", old), ("new", new))
        if pairs
    }
    comparisons = {name: found.difference for name, found in report.items()}
    comparisons |= {f"old, {name}": found for name, found in report["old"].under.items()}
    verdict = report["old"].verdict
    write_json(
        context.folder(number) / "gate.json",
        {
            "verdict": verdict,
            "promoted": verdict == "pass",
            "margin": gate.margin,
            "comparisons": {name: vars(found) for name, found in comparisons.items()},
        },
    )
