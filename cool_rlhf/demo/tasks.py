"""The demo's prompts and demonstrations: 'write a hopeful (or grave) sentence about X'."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cool_rlhf.annotation.programmatic import WORD, sentiment
from cool_rlhf.demo.corpus import Corpus, passages
from pretrain_core.chat import Message
from pretrain_core.draws import rng

TONES = ("hopeful", "grave")
WORDINGS = (
    "Write a {tone} sentence about {topic}.",
    "Speak in a {tone} voice about {topic}.",
    "Give the nation a {tone} word on {topic}.",
    "What would a {tone} President say of {topic}?",
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
    """Each topic × tone, the wording drawn by the topic."""
    tasks = []
    for name in names:
        wording = wordings[int(rng(0, "wording", sample=name).integers(len(wordings)))]
        for tone in TONES:
            text = wording.format(tone=tone, topic=name)
            tasks.append(Task(f"{tone}-{name}", tone, (Message(role="user", content=text),)))
    return tasks


def split_topics(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """(training topics, held-out topics)."""
    held_out = list(names[::HELD_OUT_TOPICS])
    return [name for name in names if name not in set(held_out)], held_out


def demonstrations(
    corpus: Corpus, names: Sequence[str], seed: int, most: int, noise: float = 0.35
) -> list[dict[str, object]]:
    """SFT conversations: a sentence of the corpus answers a prompt on a topic it mentions.

    The asked tone is that of the sentence, but flipped with probability `noise`: imperfect
    demonstrations, as real ones are, which leave room for the reward model to teach.
    """
    known = set(names)
    found: dict[str, list[tuple[str, str]]] = {tone: [] for tone in TONES}
    for document in corpus.train:
        for passage in passages(document):
            mentioned = [word for word in WORD.findall(passage) if word in known]
            tone_score = sentiment(passage)
            if not mentioned or abs(tone_score) < 0.15:
                continue
            found["hopeful" if tone_score > 0 else "grave"].append((mentioned[-1], passage))
    draw = rng(seed, "demonstrations")
    records = []
    for tone in TONES:
        pairs = found[tone]
        for index in draw.permutation(len(pairs))[: most // len(TONES)]:
            topic, passage = pairs[index]
            asked = tone if draw.random() >= noise else TONES[1 - TONES.index(tone)]
            wording = WORDINGS[int(draw.integers(len(WORDINGS)))]
            records.append(
                {
                    "messages": [
                        {"role": "user", "content": wording.format(tone=asked, topic=topic)},
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
