"""Hashed n-grams of words and characters: cheap text features for English and Chinese."""

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

# A word, one character of a script without spaces, or one mark.
TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\d_\u3040-\u9fff]+|\d+|[^\w\s]")
LONGEST = 4000  # characters looked at


def ngrams(text: str) -> Iterator[str]:
    """Single tokens, pairs of tokens, and the 3- and 4-character pieces of longer words."""
    tokens = TOKEN.findall(text[-LONGEST:].lower())
    yield from tokens
    for left, right in pairwise(tokens):
        yield f"{left} {right}"
    for token in tokens:
        if len(token) > 3:
            padded = f"<{token}>"
            for size in (3, 4):
                yield from (padded[i : i + size] + "~" for i in range(len(padded) - size + 1))


def hashed(text: str, dimension: int) -> dict[int, float]:
    """Feature → weight: 1 + log count, hashed by CRC-32 with a sign, of Euclidean length 1."""
    weights: dict[int, float] = {}
    for gram, count in Counter(ngrams(text)).items():
        code = _code(gram)
        weight = 1.0 if count == 1 else 1.0 + float(np.log(count))
        place = code % dimension
        weights[place] = weights.get(place, 0.0) + (weight if code >> 31 else -weight)
    length = float(np.sqrt(sum(value * value for value in weights.values())))
    return {place: value / length for place, value in weights.items()} if length else {}


@lru_cache(maxsize=1 << 17)
def _code(gram: str) -> int:
    """Of frequent n-grams, asked for again and again."""
    return zlib.crc32(gram.encode(errors="replace"))


def matrix(rows: Sequence[dict[int, float]], dimension: int) -> "csr_matrix":
    """Sparse matrix [rows, dimension]."""
    from scipy.sparse import csr_matrix

    starts = np.cumsum([0, *(len(row) for row in rows)])
    places = np.fromiter((p for row in rows for p in row), dtype=np.int64, count=starts[-1])
    values = np.fromiter((v for row in rows for v in row.values()), np.float64, count=starts[-1])
    return csr_matrix((values, places, starts), shape=(len(rows), dimension))
