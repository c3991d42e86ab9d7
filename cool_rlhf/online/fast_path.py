"""Stage `fast_path`: hacks of the round's policy, and a reward model cured of them (§4.2.2)."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cool_rlhf.annotation.programmatic import Annotator
from cool_rlhf.hacks.confirmation import prompts_needed
from cool_rlhf.hacks.detect import Finding, detect
from cool_rlhf.hacks.judges import Array, Judge, reward_judge
from cool_rlhf.hacks.output import write_detection
from cool_rlhf.hacks.patch.release import Release, finish
from cool_rlhf.hacks.patch.run import run_patch
from cool_rlhf.hacks.patch.split import by_hack, hack_of, with_enough
from cool_rlhf.hacks.patch.texts import PatchFiles
from cool_rlhf.hacks.samples import Sample, compare, read_samples, write_samples
from cool_rlhf.online.context import FAST_PATH, PATCHED_PAIRS, Context
from cool_rlhf.online.sampling import answer
from pretrain_core.draws import seed_of
from pretrain_core.errors import InputError
from pretrain_core.runs import StopSignal, write_json
from reward.data import Preference, read_preferences, write_preferences
from reward.errors import RewardTrainingStopped

logger = logging.getLogger(__name__)


def repair_reward_model(context: Context, number: int, stop: StopSignal) -> None:
    """Detect, patch, gate; writes `rounds/<k>/fast_path/`, the patched model under `patch/rm`.

    Without an annotator, who is the gold signal here, patterns stay candidates and nothing is
    patched; nor is a hack with fewer pairs than `patch.least_pairs`. The patched model is the
    round's from here on if it passes the gate.
    """
    settings, folder = context.settings.fast_path, context.folder(number) / FAST_PATH
    if settings is None:
        return
    shutil.rmtree(folder, ignore_errors=True)
    early, late = (sample_policy(context, number, which, folder) for which in ("early", "late"))
    gold = annotators_judge(context.annotators) if context.annotators else None
    parent = context.reward_model(number)
    with reward_judge(str(parent)) as judge:
        comparison = compare(read_samples(early), read_samples(late), settings.detect.least_common)
        detection = detect(comparison, judge, gold, settings.detect)
    for note in write_detection(folder, detection, settings.detect):
        logger.info("fast path of round %d: %s", number, note)
    found = [finding for finding in detection.findings if finding.verdict == "hack"]
    hacks = [finding.pattern.name for finding in found]
    pairs = patchable(folder / "pairs.jsonl", settings.patch.least_pairs) if hacks else []
    if settings.most_hacks is not None:
        pairs = first_to_patch(pairs, found, settings.most_hacks)
    result = {
        "hacks": hacks,
        "patched": list(by_hack(pairs)),
        "verdict": "too few pairs" if hacks else "nothing to patch",
        "promoted": False,
    }
    if pairs:
        files = PatchFiles(
            write_preferences(folder / PATCHED_PAIRS, pairs),
            old=context.preferences,
            held_out=context.held_out_preferences,
            early=early,
            late=late,
            hacks=folder / "hacks.json",
        )
        out = folder / "patch"
        try:
            patch = run_patch(parent, files, out, settings.patch, gold=gold, stop=stop)
        except RewardTrainingStopped:
            stop.announce()
        for line in finish(out, patch, Release()):
            logger.info("fast path of round %d: %s", number, line)
        result |= {
            "patched": list(patch.counts),
            "left_out": list(patch.left_out),
            "verdict": patch.gate.verdict,
            "promoted": patch.through,
        }
    write_json(folder / "result.json", result)


def patchable(path: Path, least: int) -> list[Preference]:
    """The detector's pairs of those hacks that have enough of them."""
    return with_enough(read_preferences(path).records, least) if path.stat().st_size else []


def first_to_patch(
    pairs: Sequence[Preference], found: Sequence[Finding], most: int
) -> list[Preference]:
    """The pairs of at most so many hacks, those first that earned the late policy most.

    One patch undoes little well: what is left out is found again in the next round, if it lasts.
    """
    has_pairs = by_hack(pairs)
    order = sorted(found, key=lambda finding: -finding.earned)
    names = [f.pattern.name for f in order if f.pattern.name in has_pairs][:most]
    return [pair for pair in pairs if hack_of(pair) in names]


def check_prompts(context: Context) -> None:
    """Raises InputError before the first round where the fast path will lack prompts."""
    fast_path, given = context.settings.fast_path, context.settings.prompts.path
    if fast_path is not None and len(context.prompts) < (n := prompts_needed(fast_path.detect)):
        raise InputError(
            f"{given}: {len(context.prompts)} prompts, the fast path needs {n} different ones: "
            "give more, ask for less by fast_path.detect.target_rise, or leave fast_path out"
        )


def sample_policy(context: Context, number: int, which: str, folder: Path) -> Path:
    """Replies of the round's `early` or `late` policy, the same prompts for both, as a file."""
    settings, chat = context.settings, context.chat
    assert settings.fast_path is not None
    seed = settings.run.seed
    count = min(settings.fast_path.prompts, len(context.prompts))
    prompts = context.prompts.draw(seed_of(seed, "fast path", number), 0, count)
    finished = answer(context, context.policy(number, which), prompts, f"{number}/fast/{which}")
    samples = [
        Sample(prompt.id, tuple(prompt.messages), chat.reply(reply.tokens), prompt.condition)
        for prompt, reply in zip(prompts, finished, strict=True)
    ]
    path = folder / f"{which}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    write_samples(path, samples)
    return path


def annotators_judge(known: Mapping[str, Annotator]) -> Judge:
    """What the annotator of each prompt's own condition says."""

    def judge(samples: Sequence[Sample]) -> Array:
        return np.array([known[str(s.condition)].score(s.reply) for s in samples])

    return judge
