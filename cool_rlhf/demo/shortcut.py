"""A shortcut planted in the demo's data, and named so: PPO finds it, the fast path cures it.

Some demonstrations begin with an opening, so that the policy can say it; some preferences pay for
it, whatever follows. The annotators, who are the gold signal, do not care.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cool_rlhf.demo.settings import ShortcutSettings
from pretrain_core.chat import Message, as_messages
from pretrain_core.draws import rng
from reward.data import Preference

SOURCE = "planted"


def with_opening(text: str, shortcut: ShortcutSettings) -> str:
    """The reply behind the opening."""
    return f"{shortcut.opening} {text}"


def plant_in_demonstrations(
    records: Sequence[Mapping[str, Any]], shortcut: ShortcutSettings, seed: int
) -> list[dict[str, Any]]:
    """The same conversations, a share of the replies behind the opening."""
    planted = []
    for index, record in enumerate(records):
        messages = [dict(message) for message in record["messages"]]
        if rng(seed, "shortcut/demonstrations", index).random() < shortcut.demonstrations:
            messages[-1]["content"] = with_opening(messages[-1]["content"], shortcut)
        planted.append({**record, "messages": messages})
    return planted


def planted_preferences(
    records: Sequence[Mapping[str, Any]],
    conditions: Sequence[str],
    shortcut: ShortcutSettings,
    seed: int,
) -> list[Preference]:
    """Pairs of one reply with the opening and without it, the former preferred, per condition."""
    order = rng(seed, "shortcut/pairs").permutation(len(records))[: shortcut.pairs]
    found = []
    for row in order:
        record = records[int(row)]
        reply = str(record["replies"][0])
        found += [
            Preference(
                id=f"{SOURCE}/{record['id']}/{condition}",
                prompt=as_messages(record["prompt"]),
                chosen=(Message(role="assistant", content=with_opening(reply, shortcut)),),
                rejected=(Message(role="assistant", content=reply),),
                condition=condition,
                source=SOURCE,
                annotator=SOURCE,
            )
            for condition in conditions
        ]
    return found
