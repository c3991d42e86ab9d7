"""The demo's prompts and demonstrations: 'write a brief (or detailed) sentence about X'."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cool_rlhf.annotation.programmatic import WORD
from cool_rlhf.demo.corpus import Corpus, passages
from pretrain_core.chat import Message
from pretrain_core.draws import rng

STYLES = ("brief", "detailed")
SHORT, LONG = 12, 18  # words: at most and at least
WORDINGS = (
    "Write a {style} sentence about {topic}.",
    "Say something {style} about {topic}.",
    "Give the nation a {style} statement on {topic}.",
    "What would a President say of {topic}, in a {style} way?",
)
# Nouns, without a dictionary: English derives them with these endings.
NOUN = re.compile(r"[a-z]{3,}(tion|ment|ity|ness|ance|ence|ism|ship|ture|dom)s?")
HELD_OUT_TOPICS = 5  # every fifth topic is kept for held-out prompts


@dataclass(frozen=True)
class Task:
    """One prompt; its text implies its condition."""

    id: str
    condition: str
    messages: tuple[Message, ...]


def topics(corpus: Corpus, most: int = 300) -> list[str]:
    """The most used derived nouns of the training text, by falling count."""
    counts = Counter(
        word for document in corpus.train for word in WORD.findall(document) if NOUN.fullmatch(word)
    )
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [word for word, _ in ordered[:most]]


def prompts(names: Sequence[str], wordings: Sequence[str] = WORDINGS) -> list[Task]:
    """Each topic × style, the wording drawn by the topic."""
    tasks = []
    for name in names:
        wording = wordings[int(rng(0, "wording", sample=name).integers(len(wordings)))]
        for style in STYLES:
            text = wording.format(style=style, topic=name)
            tasks.append(Task(f"{style}-{name}", style, (Message(role="user", content=text),)))
    return tasks


def split_topics(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """(training topics, held-out topics)."""
    held_out = list(names[::HELD_OUT_TOPICS])
    return [name for name in names if name not in set(held_out)], held_out


def demonstrations(
    corpus: Corpus, names: Sequence[str], seed: int, most: int, noise: float = 0.35
) -> list[dict[str, object]]:
    """SFT conversations: a sentence of the corpus answers a prompt on a topic it mentions.

    The asked style is that of the sentence, but flipped with probability `noise`: imperfect
    demonstrations, as real ones are, which leave room for the reward model to teach.
    """
    known = set(names)
    found: dict[str, list[tuple[str, str]]] = {style: [] for style in STYLES}
    for document in corpus.train:
        for passage in passages(document):
            words = WORD.findall(passage)
            mentioned = [word for word in words if word in known]
            if mentioned and not SHORT < len(words) < LONG:
                style = "brief" if len(words) <= SHORT else "detailed"
                found[style].append((mentioned[-1], passage))
    draw = rng(seed, "demonstrations")
    records = []
    for style, other in (STYLES, STYLES[::-1]):
        pairs = found[style]
        for index in draw.permutation(len(pairs))[: most // 2]:
            topic, passage = pairs[index]
            asked = style if draw.random() >= noise else other
            wording = WORDINGS[int(draw.integers(len(WORDINGS)))]
            records.append(
                {
                    "messages": [
                        {"role": "user", "content": wording.format(style=asked, topic=topic)},
                        {"role": "assistant", "content": passage},
                    ]
                }
            )
    order = draw.permutation(len(records))
    return [records[index] for index in order]


def write_jsonl(path: Path, records: Iterable[dict[str, object]]) -> Path:
    """One JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as out:
        for record in records:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
    return path
