"""The texts of a patch and of its gate, read and checked before anything is trained."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from cool_rlhf.hacks.gate import GateEvidence, GateSettings, anchors_of
from cool_rlhf.hacks.gate.evidence import sides
from cool_rlhf.hacks.judges import Judge
from cool_rlhf.hacks.patch.found import FoundHack, read_hacks, rightful
from cool_rlhf.hacks.patch.settings import PatchError
from cool_rlhf.hacks.patch.split import by_hack
from cool_rlhf.hacks.samples import Comparison, Sample, SampleFile, compare, read_samples
from pretrain_core.chat import Message
from reward.data import Preference, read_preferences
from reward.evaluation.scoring import pair_keys, scorable
from reward.inputs import RewardInputError
from reward.model import RewardModel

MOST_ANCHORS = 1000


@dataclass(frozen=True)
class PatchFiles:
    """Where the texts stand: preferences, samples (`anchors`, `early`, `late`), `hacks.json`."""

    pairs: Path
    old: Path
    held_out: Path
    legitimate: Path | None = None
    anchors: Path | None = None
    early: Path | None = None
    late: Path | None = None
    hacks: Path | None = None

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


def read_texts(files: PatchFiles, parent: RewardModel, settings: GateSettings) -> PatchTexts:
    """Read the files of a patch, and make of them what was not given.

    Where the hacks' patterns are known, old pairs that have one are not replayed, and rightful uses
    are looked for among the held-out ones. Anchors are early replies without the patterns, else the
    sides of held-out pairs without them.

    Raises PatchError for a file without a usable pair, for old pairs that are both replayed and
    held out, for one of the two policies alone, and for a sample that the parent cannot read.
    """
    notes: list[str] = []
    pairs, old, held_out = (
        _pairs(path, parent, notes) for path in (files.pairs, files.old, files.held_out)
    )
    both = set(pair_keys(old)) & set(pair_keys(held_out))
    if both:
        raise PatchError(
            f"{len(both)} pairs of {files.held_out} are in {files.old} too: what is replayed "
            "cannot show what was forgotten; take them out of one of the two"
        )
    hacks = _hacks(files, pairs, notes)
    clean = [pair for pair in old if not any(hack.taints(pair) for hack in hacks)]
    if len(clean) < len(old):
        notes.append(f"{files.old}: {len(old) - len(clean)} pairs have a pattern: not replayed")
    comparison = _comparison(files, parent, settings.probe.detector.least_common)
    notes += comparison.notes if comparison else ()
    return PatchTexts(
        pairs,
        clean,
        held_out,
        _pairs(files.legitimate, parent, notes) if files.legitimate else rightful(hacks, held_out),
        _anchors(files, parent, comparison, hacks, held_out, settings.seed),
        comparison,
        notes,
    )


def _hacks(files: PatchFiles, pairs: Sequence[Preference], notes: list[str]) -> list[FoundHack]:
    names = by_hack(pairs).keys()
    found = read_hacks(files.hacks, names) if files.hacks else []
    unknown = sorted(names - {hack.name for hack in found})
    if unknown:
        where = f"not in {files.hacks}" if files.hacks else "no hacks.json"
        notes.append(
            f"pattern of {', '.join(unknown)} unknown ({where}): old pairs that have it are not "
            "found, neither to be left out of the replay nor as rightful uses"
        )
    return found


def _anchors(
    files: PatchFiles,
    parent: RewardModel,
    comparison: Comparison | None,
    hacks: Sequence[FoundHack],
    held_out: Sequence[Preference],
    seed: int,
) -> list[Sample]:
    if files.anchors is not None:
        return list(_samples(files.anchors, parent).records)
    patterns = [hack.pattern for hack in hacks]
    if comparison is not None and patterns:
        return anchors_of(comparison, patterns, MOST_ANCHORS, seed)
    replies = [side for pair in held_out for side in sides(pair)]
    return [s for s in replies if not any(pattern.present(s) for pattern in patterns)]


def _pairs(path: Path, parent: RewardModel, notes: list[str]) -> list[Preference]:
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
