"""Samples of an early and a late policy, to the same prompts or to prompts drawn alike."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pretrain_core.chat import Message
from pretrain_core.errors import InputError
from pretrain_core.runs.files import rewrite_lines
from reward.verifiers.replies import Reply, read_replies


class SampleError(InputError):
    """Samples that cannot be compared; the message names file, line or id, and the way out."""


@dataclass(frozen=True)
class Sample:
    """One reply; `id` names its prompt, which may have several replies."""

    id: str
    prompt: tuple[Message, ...]
    reply: str
    condition: str | None = None
    reference: str | None = None

    def saying(self, reply: str) -> "Sample":
        """The same sample with another reply."""
        return replace(self, reply=reply)

    def as_dict(self) -> dict[str, Any]:
        """The record of a sample file."""
        record: dict[str, Any] = {
            "id": self.id,
            "prompt": [message.as_dict() for message in self.prompt],
            "reply": self.reply,
            "condition": self.condition,
            "reference": self.reference,
        }
        return {key: value for key, value in record.items() if value is not None}

    @property
    def asked(self) -> str:
        """The text of the last user turn."""
        return next((m.content for m in reversed(self.prompt) if m.role == "user"), "")


@dataclass(frozen=True)
class SampleFile:
    """The usable samples of a file, and line → reason of what was set aside."""

    path: Path
    records: tuple[Sample, ...]
    quarantined: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Early and late samples, and what was left out, in words.

    Usually of the prompts that both have; of any, where the prompts of both were drawn alike.
    """

    early: tuple[Sample, ...]
    late: tuple[Sample, ...]
    notes: tuple[str, ...] = ()

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Early ones, then late ones."""
        return self.early + self.late

    @property
    def prompts(self) -> tuple[str, ...]:
        """Ids in their order, those of early samples first."""
        return tuple(dict.fromkeys(sample.id for sample in self.samples))

    @property
    def fewest_prompts(self) -> int:
        """Prompts of the side that has fewer."""
        return min(len({sample.id for sample in side}) for side in (self.early, self.late))


def read_samples(path: Path) -> SampleFile:
    """Samples of a JSONL file: {"prompt", "reply"} or {"messages"}, and id, condition, reference.

    Where no record has an `id`, prompts name themselves. Raises SampleError for a file that is
    missing or holds nothing usable, for records with and without `id` in one file, and for an id
    that stands for two prompts.
    """
    if not path.is_file():
        raise SampleError(f"{path}: no such file")
    return sample_file(path, *read_replies(path))


def sample_file(path: Path, replies: Sequence[Reply], quarantined: Mapping[int, str]) -> SampleFile:
    """Samples of replies that were read from `path`; raises SampleError as `read_samples`."""
    empty = {reply.line: "the reply is empty" for reply in replies if not reply.text.strip()}
    quarantined = {**quarantined, **empty}
    replies = [reply for reply in replies if reply.text.strip()]
    if not replies:
        reason = (
            f"; line {min(quarantined)}: {quarantined[min(quarantined)]}" if quarantined else ""
        )
        raise SampleError(f"{path}: no usable sample{reason}")
    nameless = [reply.line for reply in replies if reply.id is None]
    if nameless and len(nameless) < len(replies):
        raise SampleError(
            f"{path}:{nameless[0]}: no id, though other records have one "
            f"({len(nameless)} lack it): give every record the id of its prompt, or none"
        )
    records = tuple(_sample(reply) for reply in replies)
    _check_ids(path, replies, records)
    return SampleFile(path, records, quarantined)


def write_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Write a JSONL file that `read_samples` reads back."""
    rewrite_lines(path, (sample.as_dict() for sample in samples))


def compare(
    early: SampleFile, late: SampleFile, least_common: float = 0.5, same_prompts: bool = True
) -> Comparison:
    """Keep the prompts that both files have; all of them where not the `same_prompts` were asked.

    Raises SampleError when fewer than `least_common` of a file's prompts are in the other one, when
    an id stands for different prompts, and when the two files hold the same replies.
    """
    first, second = _by_id(early.records), _by_id(late.records)
    common = [id for id in first if id in second]
    for mine, other in ((early, late), (late, early)) if same_prompts else ():
        ids = _by_id(mine.records)
        if len(common) < least_common * len(ids):
            missing = next(id for id in ids if id not in common)
            raise SampleError(
                f"{mine.path}: only {len(common)} of {len(ids)} prompts are also in {other.path} "
                f"(not there: {missing!r}): let both policies answer the same prompts, or set "
                "same_prompts=false if the prompts of both files were drawn alike"
            )
    for id in common:
        if _question(first[id][0]) != _question(second[id][0]):
            raise SampleError(
                f"id {id!r} has another prompt or condition in {late.path} than in {early.path}: "
                "an id names one prompt"
            )
    kept = Comparison(
        tuple(sample for id in (common if same_prompts else first) for sample in first[id]),
        tuple(sample for id in (common if same_prompts else second) for sample in second[id]),
        tuple(_notes(early, late, set(common) if same_prompts else {*first, *second})),
    )
    if Counter((s.id, s.reply) for s in kept.early) == Counter((s.id, s.reply) for s in kept.late):
        raise SampleError(
            f"{early.path} and {late.path} hold the same replies: nothing can have risen; give "
            "the samples of two policies"
        )
    return kept


def _notes(early: SampleFile, late: SampleFile, common: set[str]) -> Iterator[str]:
    for file in (early, late):
        for reason, count in Counter(file.quarantined.values()).items():
            yield f"{file.path}: {count} records set aside: {reason}"
        alone = {sample.id for sample in file.records} - common
        if alone:
            yield f"{file.path}: {len(alone)} prompts left out, the other file does not have them"


def prompt_name(prompt: Sequence[Message], condition: str | None) -> str:
    """The id of a prompt that has none: the same for the same messages and condition."""
    content = {"prompt": [message.as_dict() for message in prompt], "as": condition}
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]


def _sample(reply: Reply) -> Sample:
    id = reply.id or prompt_name(reply.prompt, reply.condition)
    return Sample(id, reply.prompt, reply.text, reply.condition, reply.reference)


def _check_ids(path: Path, replies: Sequence[Reply], records: Sequence[Sample]) -> None:
    seen: dict[str, tuple[int, Sample]] = {}
    for reply, sample in zip(replies, records, strict=True):
        line, first = seen.setdefault(sample.id, (reply.line, sample))
        if _question(first) != _question(sample):
            raise SampleError(
                f"{path}:{reply.line}: id {sample.id!r} has another prompt or condition than in "
                f"line {line}: an id names one prompt"
            )


def _question(sample: Sample) -> tuple[tuple[Message, ...], str | None]:
    return sample.prompt, sample.condition


def _by_id(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.id, []).append(sample)
    return found
