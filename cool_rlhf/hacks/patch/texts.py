"""The texts of a patch and of its gate, read and checked before anything is trained."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from cool_rlhf.hacks.gate import GateEvidence
from cool_rlhf.hacks.gate.evidence import sides
from cool_rlhf.hacks.judges import Judge
from cool_rlhf.hacks.patch.settings import PatchError
from cool_rlhf.hacks.samples import Comparison, Sample, SampleFile, compare, read_samples
from pretrain_core.chat import Message
from reward.data import Preference, read_preferences
from reward.evaluation.scoring import pair_keys, scorable
from reward.inputs import RewardInputError
from reward.model import RewardModel


@dataclass(frozen=True)
class PatchFiles:
    """Where the texts stand: preferences, and samples (`early`, `late`, `anchors`)."""

    pairs: Path
    old: Path
    held_out: Path
    legitimate: Path | None = None
    anchors: Path | None = None
    early: Path | None = None
    late: Path | None = None

    @property
    def given(self) -> dict[str, Path]:
        """The files that there are, by name."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: path for name, path in found.items() if path is not None}


@dataclass(frozen=True)
class PatchTexts:
    """What the files hold that the parent can read; `notes` say what was left out, and why."""

    pairs: Sequence[Preference]
    old: Sequence[Preference]
    held_out: Sequence[Preference]
    legitimate: Sequence[Preference]
    anchors: Sequence[Sample]
    comparison: Comparison | None
    notes: Sequence[str] = field(default=())

    def evidence(self, pattern_pairs: Sequence[Preference], gold: Judge | None) -> GateEvidence:
        """What the gate judges the child by."""
        return GateEvidence(
            pattern_pairs,
            self.held_out,
            self.anchors,
            self.legitimate,
            self.comparison,
            gold,
        )


def read_texts(files: PatchFiles, parent: RewardModel, least_common: float) -> PatchTexts:
    """Read the files of a patch; without anchors, the sides of the held-out old pairs are them.

    Raises PatchError for a file without a usable pair, for old pairs that are both replayed and
    held out, and for one of the two policies alone; SampleError, and RewardInputError for a sample
    that the parent cannot read.
    """
    notes: list[str] = []
    read = {
        name: _pairs(getattr(files, name), parent, notes)
        for name in ("pairs", "old", "held_out", "legitimate")
    }
    both = set(pair_keys(read["old"])) & set(pair_keys(read["held_out"]))
    if both:
        raise PatchError(
            f"{len(both)} pairs of {files.held_out} are in {files.old} too: what is replayed "
            "cannot show what was forgotten; take them out of one of the two"
        )
    comparison = _comparison(files, parent, least_common)
    if files.anchors is None:
        anchors = [side for pair in read["held_out"] for side in sides(pair)]
    else:
        anchors = list(_samples(files.anchors, parent).records)
    notes += comparison.notes if comparison else ()
    return PatchTexts(**read, anchors=anchors, comparison=comparison, notes=notes)


def _pairs(path: Path | None, parent: RewardModel, notes: list[str]) -> list[Preference]:
    if path is None:
        return []
    found = read_preferences(path, parent.conditions)
    kept, left_out = scorable([parent], found.records)
    if found.quarantined:
        notes.append(f"{path}: {found.summary()}")
    if left_out:
        notes.append(f"{path}: {len(left_out)} pairs left out; the first: {left_out[0].reason}")
    if not kept:
        raise PatchError(f"{path} holds no usable preference: {found.summary()}")
    return kept


def _comparison(files: PatchFiles, parent: RewardModel, least_common: float) -> Comparison | None:
    if files.early is None or files.late is None:
        if files.early or files.late:
            raise PatchError("give the samples of both policies, --early and --late, or of none")
        return None
    return compare(_samples(files.early, parent), _samples(files.late, parent), least_common)


def _samples(path: Path, parent: RewardModel) -> SampleFile:
    """The samples of a file; a reply that is too long is met here, not after the training."""
    found = read_samples(path)
    for sample in found.records:
        reply = Message(role="assistant", content=sample.reply)
        try:
            parent.input([*sample.prompt, reply], sample.condition)
        except RewardInputError as error:
            raise PatchError(f"{path}: a reply to prompt {sample.id!r}: {error}") from error
    return found
