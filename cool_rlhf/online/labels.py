"""Stage `label`: pairs become preferences, by a file that people fill or by named annotators."""

import json
from collections.abc import Iterator, Mapping

from cool_rlhf.annotation.programmatic import Annotator
from cool_rlhf.online.context import Context
from cool_rlhf.online.sampling import pairs_file
from cool_rlhf.online.state import WaitingForLabels
from pretrain_core.chat import Message, as_messages
from pretrain_core.runs import StopSignal
from reward.data import Preference, read_preferences, write_preferences


def label_pairs(context: Context, number: int, stop: StopSignal) -> None:
    """Write `pairs/labels.jsonl` in the preference format, or wait for people to write it.

    Raises WaitingForLabels while the file is missing or has no usable record.
    """
    labels = pairs_file(context, number).with_name("labels.jsonl")
    if context.settings.labels.mode == "programmatic":
        records = [
            json.loads(line)
            # Not splitlines: replies may hold U+2028 or U+0085, which it takes for line ends.
            for line in pairs_file(context, number).read_text(encoding="utf-8").split("\n")
            if line
        ]
        every = context.settings.labels.conditions == "all"
        write_preferences(
            labels,
            [
                preference
                for record in records
                for preference in judge(record, context.annotators, number, every=every)
            ],
        )
        return
    if not labels.exists() or not read_preferences(labels).records:
        raise WaitingForLabels(
            f"round {number} waits for labels: judge the pairs of {pairs_file(context, number)} and"
            f" write them as preferences (prompt, chosen, rejected, condition) to {labels}"
        )


def judge(
    record: Mapping[str, object],
    annotators: Mapping[str, Annotator],
    number: int,
    *,
    every: bool,
) -> Iterator[Preference]:
    """The preferences of one pair, one per condition under which its annotator has any."""
    prompt = as_messages(record["prompt"])  # type: ignore[arg-type]
    replies: list[str] = list(record["replies"])  # type: ignore[call-overload]
    conditions = list(annotators) if every else [str(record["condition"])]
    for condition in conditions:
        annotator = annotators[condition]
        better = annotator.prefers(replies)
        if better is None:
            continue
        yield Preference(
            id=f"{record['id']}/{condition}",
            prompt=prompt,
            chosen=(Message(role="assistant", content=replies[better]),),
            rejected=(Message(role="assistant", content=replies[1 - better]),),
            condition=condition,
            source=f"programmatic:{annotator.name}",
            annotator=annotator.name,
            round=number,
        )
