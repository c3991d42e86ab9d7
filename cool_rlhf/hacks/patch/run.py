"""From the files of a patch to a child with the gate's verdict, and the record of both."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from cool_rlhf.hacks.gate import GateReport, GateSettings, gate
from cool_rlhf.hacks.judges import Judge, model_judge
from cool_rlhf.hacks.patch.patch import Patched, patch_reward_model
from cool_rlhf.hacks.patch.recalibration import recalibrated
from cool_rlhf.hacks.patch.replay import ids
from cool_rlhf.hacks.patch.settings import PatchError, PatchSettings
from cool_rlhf.hacks.patch.split import by_hack, hack_of
from cool_rlhf.hacks.patch.texts import PatchFiles, PatchTexts, read_texts
from pretrain_core.runs import StopSignal, hash_file, read_json, write_json
from reward.card import Calibration
from reward.data import Preference, write_preferences
from reward.evaluation.evaluate import Evaluation, evaluate
from reward.evaluation.scoring import PairScores, pair_scores
from reward.export import write_calibrated
from reward.model import RewardModel
from reward.remembering import RememberingModel

logger = logging.getLogger(__name__)

CHILD, CALIBRATED = "rm", "calibrated"
FIRST, LEFT = "rm_with_uncured", "left_out.json"
PAIRS, RECORD, PAGE = "held_out_pairs.jsonl", "patch.json", "report.html"


class PatchRunSettings(PatchSettings):
    """Settings of `cool-rlhf hacks patch`: the patch, and its gate."""

    gate: GateSettings = GateSettings()
    leave_uncured: bool = Field(
        False,
        description="where the own tests of some hacks alone keep the child from passing, patch "
        "the parent again without those",
    )


@dataclass(frozen=True)
class PatchResult:
    """A judged child. `folder`: what may be registered; `scores`: of the held-out pattern pairs.

    `accuracy`: of the child, then the parent, on the held-out old pairs. `left_out`: hacks
    whose own tests a first child did not pass, so that this one was made without them, each with
    the reason.
    """

    parent: Path
    folder: Path
    versions: tuple[str, str]
    files: PatchFiles
    texts: PatchTexts = field(repr=False)
    patched: Patched
    gate: GateReport
    accuracy: Evaluation = field(repr=False)
    scores: tuple[PairScores, PairScores] = field(repr=False)
    settings: PatchRunSettings
    calibration: Calibration | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def through(self) -> bool:
        """Whether the child may take its parent's place."""
        return self.gate.verdict == "pass"

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """(training, held-out) pairs of each hack."""
        trained, held = (by_hack(p) for p in (self.patched.training, self.patched.held_out))
        return {name: (len(own), len(held[name])) for name, own in trained.items()}

    def as_dict(self) -> dict[str, Any]:
        """JSON-able record: lineage, counts, settings, and the verdict with its evidence."""
        before, after = self.versions
        return {
            "parent": {"folder": str(self.parent), "version": before},
            "child": {"folder": str(self.folder), "version": after},
            "files": {
                name: {"path": str(path), "sha256": hash_file(path)}
                for name, path in self.files.given.items()
            },
            "pairs": {
                name: {"training": one, "held_out": other}
                for name, (one, other) in self.counts.items()
            },
            "left_out": dict(self.left_out),
            "replay": ids(self.patched.replay, self.texts.old),
            "settings": self.settings.model_dump(mode="json"),
            "calibration": vars(self.calibration) if self.calibration else None,
            "notes": list(self.texts.notes),
            "gate": self.gate.as_dict(),
        }


def run_patch(
    parent: Path,
    files: PatchFiles,
    out: Path,
    settings: PatchRunSettings,
    *,
    gold: Judge | None = None,
    recalibrate: bool = False,
    stop: StopSignal | None = None,
) -> PatchResult:
    """Patch, judge, and write `out`: the child, the held-out pairs and the record.

    With `leave_uncured` there may be a second child, judged by the same texts: the first one, which
    must have passed all that is not about a single hack, is then kept as `rm_with_uncured`.

    Raises PatchError for an `out` that has a child already, and what its parts raise.
    """
    if (out / CHILD).exists():
        raise PatchError(f"{out / CHILD} is there already: choose another --out or remove it")
    # Both read the held-out texts for the gate, for the accuracy and for the page.
    before = RememberingModel.load(parent)
    texts = read_texts(files, before, settings.gate)
    out.mkdir(parents=True, exist_ok=True)
    known = out / LEFT
    left = read_json(known) if settings.leave_uncured and known.exists() else {}

    def attempt(left: Mapping[str, str]) -> PatchResult:
        kept = replace(
            texts,
            pairs=[pair for pair in texts.pairs if hack_of(pair) not in left],
            legitimate=[pair for pair in texts.legitimate if hack_of(pair) not in left],
        )
        result = _judged(parent, before, files, kept, out, settings, gold, stop)
        return replace(result, left_out=left)

    result = attempt(left)
    if settings.leave_uncured and not left and (left := result.gate.uncured):
        logger.info("patched again without %s: not cured", ", ".join(left))
        shutil.rmtree(out / FIRST, ignore_errors=True)
        (out / CHILD).rename(out / FIRST)
        write_json(known, left)
        result = attempt(left)
    if recalibrate:
        result = _recalibrated(result, before, out / CALIBRATED)
    write_record(out, result)
    return result


def _judged(
    parent: Path,
    before: RewardModel,
    files: PatchFiles,
    texts: PatchTexts,
    out: Path,
    settings: PatchRunSettings,
    gold: Judge | None,
    stop: StopSignal | None,
) -> PatchResult:
    """One child, and what the gate and the held-out pairs say of it."""
    patched = patch_reward_model(
        parent, texts.pairs, texts.old, out / CHILD, settings, parents=files.given, stop=stop
    )
    write_preferences(out / PAIRS, patched.held_out)
    after = RememberingModel.load(patched.folder)
    evidence = texts.evidence(patched.held_out, gold)
    verdict = gate(model_judge(before), model_judge(after), evidence, settings.gate)
    return PatchResult(
        parent,
        patched.folder,
        (before.version, after.version),
        files,
        texts,
        patched,
        verdict,
        evaluate({"child": after, "parent": before}, texts.held_out, seed=settings.seed),
        (pair_scores(before, patched.held_out), pair_scores(after, patched.held_out)),
        settings,
    )


def write_record(out: Path, result: PatchResult, release: Mapping[str, Any] | None = None) -> None:
    """`patch.json`: the result, and what was done with the child."""
    write_json(out / RECORD, result.as_dict() | {"release": dict(release or {})})


def _recalibrated(result: PatchResult, before: RewardModel, folder: Path) -> PatchResult:
    """With a second folder of the child, whose card has a calibration; raw scores are the same."""
    old: Sequence[Preference] = result.texts.held_out
    parents, child = (
        pair_scores(model, old).both for model in (before, RewardModel.load(result.folder))
    )
    if before.card.calibration is not None:
        parents = before.card.calibrated(parents)
    found = recalibrated(parents, child, hash_file(result.files.held_out))
    card = write_calibrated(result.folder, folder, found)
    versions = (result.versions[0], card.version)
    return replace(result, folder=folder, versions=versions, calibration=found)
