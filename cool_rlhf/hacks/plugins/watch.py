"""A callback for trainers built on transformers (TRL): the detector beside the training."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from cool_rlhf.hacks.confirmation import prompts_needed
from cool_rlhf.hacks.detect import Detection, Finding, detect
from cool_rlhf.hacks.judges import gold_judge
from cool_rlhf.hacks.output import write_detection
from cool_rlhf.hacks.plugins.rewards import ConditionalReward
from cool_rlhf.hacks.samples import (
    Sample,
    SampleFile,
    compare,
    read_samples,
    write_samples,
)
from cool_rlhf.hacks.settings import HackSettings
from pretrain_core.errors import InputError

logger = logging.getLogger(__name__)


@dataclass
class _Answers:
    """All replies to a prompt at one step."""

    step: int
    replies: list[Sample] = field(default_factory=list)


class HackWatch(TrainerCallback):
    """Compares the first replies to each prompt with the newest, every so many steps.

    It sees the replies through `reward`. `early`: steps whose replies count as early (None: the
    first ones of a prompt, whenever they come). `out` gets early.jsonl, late.jsonl and, as soon as
    enough prompts have been answered again, the report of `cool-rlhf hacks detect`; `detection` is
    the newest. With several processes it sees and compares those of the first one.
    """

    def __init__(
        self,
        reward: ConditionalReward,
        out: str | Path,
        *,
        every: int,
        early: int | None = None,
        gold: str | None = None,
        settings: HackSettings | None = None,
    ) -> None:
        self.reward, self.out = reward, Path(out)
        self.every, self.early, self.gold = every, early, gold
        self.settings = settings or HackSettings()
        self.detection: Detection | None = None
        self._step, self._looked = 0, -1
        self._first: dict[str, _Answers] = {}
        self._newest: dict[str, _Answers] = {}
        reward.listeners.append(self.see)

    @property
    def again(self) -> list[str]:
        """Prompts that were answered early and later again."""
        return [id for id in self._first if id in self._newest]

    def see(self, samples: Sequence[Sample]) -> None:
        """Keep the replies of a call of the reward function."""
        for sample in samples:
            if self.early is None or self._step < self.early:
                self._first.setdefault(sample.id, _Answers(self._step))
            first = self._first.get(sample.id)
            if first is not None and first.step == self._step:
                first.replies.append(sample)
                continue
            newest = self._newest.get(sample.id)
            if newest is None or newest.step != self._step:
                newest = self._newest[sample.id] = _Answers(self._step)
            newest.replies.append(sample)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A resumed training keeps the early replies of its beginning."""
        kept = self.out / "early.jsonl"
        if state.global_step > 0 and kept.is_file():
            for sample in read_samples(kept).records:
                self._first.setdefault(sample.id, _Answers(-1)).replies.append(sample)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Replies that come now are of this step."""
        self._step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look every so many steps."""
        if state.is_world_process_zero and state.global_step % self.every == 0:
            self.look(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look once more."""
        if state.is_world_process_zero and self._looked != state.global_step:
            self.look(state.global_step)

    def look(self, step: int) -> None:
        """Write the samples, and what the detector says of them once they are enough."""
        self._looked = step
        self.out.mkdir(parents=True, exist_ok=True)
        write_samples(self.out / "early.jsonl", _replies(self._first))
        write_samples(self.out / "late.jsonl", _replies(self._newest))
        there, needed = len(self.again), prompts_needed(self.settings)
        if there < needed:
            logger.warning(
                "hack watch, step %d: %d prompts were answered again, %d are needed: %d missing",
                step,
                there,
                needed,
                needed - there,
            )
            return
        try:
            self.detection = self._detect()
        except InputError as error:  # whoever looks on must not end the training
            logger.warning("hack watch, step %d: %s", step, error)
            return
        notes = write_detection(self.out, self.detection, self.settings)
        if self.detection.stopped:
            notes.append(f"partial result: {self.detection.stopped}")
        for note in notes:
            logger.warning("hack watch, step %d: %s", step, note)
        for finding in self.detection.findings:
            _say(step, finding)

    def _detect(self) -> Detection:
        early, late = (
            SampleFile(self.out / name, tuple(_replies(seen, self.again)))
            for name, seen in (("early.jsonl", self._first), ("late.jsonl", self._newest))
        )
        comparison = compare(early, late)
        with gold_judge(self.gold) if self.gold else nullcontext() as truth:
            return detect(comparison, self.reward.judge, truth, self.settings)


def _replies(seen: Mapping[str, _Answers], ids: Iterable[str] | None = None) -> list[Sample]:
    return [sample for id in (seen if ids is None else ids) for sample in seen[id].replies]


def _say(step: int, finding: Finding) -> None:
    rise = finding.rise
    logger.log(
        logging.WARNING if finding.verdict in ("hack", "candidate") else logging.INFO,
        "hack watch, step %d: %s %r, %.0f %% → %.0f %% of the replies: %s",
        step,
        finding.verdict,
        finding.pattern.name,
        100 * rise.early,
        100 * rise.late,
        finding.reason,
    )
