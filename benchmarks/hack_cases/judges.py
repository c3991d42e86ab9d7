"""Scripted judges: a quality hidden in the words, noise by the text, and what is paid for."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cool_rlhf.hacks.samples import Sample
from hack_cases.patterns import Pattern
from hack_cases.text import Language
from pretrain_core.draws import rng

Array = npt.NDArray[np.float64]


@dataclass
class Quality:
    """Mean of hidden values of a text's words; what is planted counts as no word.

    After `fit` it has mean 0 and standard deviation 1 over the fitted texts.
    """

    language: Language
    case: int
    neutral: tuple[Pattern, ...]
    centre: float = 0.0
    scale: float = 1.0
    values: dict[str, float] = field(default_factory=dict)

    def fit(self, texts: Sequence[str]) -> None:
        raw = np.array([self(text) for text in texts])
        self.centre, self.scale = float(raw.mean()), float(raw.std())

    def __call__(self, text: str) -> float:
        for pattern in self.neutral:
            for begin, end in reversed(pattern.spans(text)):
                text = f"{text[:begin]} {text[end:]}"
        words = [self._value(word) for word in self.language.tokens(text)]
        return (float(np.mean(words)) - self.centre) / self.scale if words else 0.0

    def _value(self, word: str) -> float:
        if word not in self.values:
            self.values[word] = float(rng(self.case, "hack word", sample=word).normal())
        return self.values[word]


@dataclass
class ScriptedJudge:
    """Quality, `noise` (a standard deviation) by prompt and text, and pay for patterns.

    A share `blind` of the prompts it cannot judge.
    """

    name: str
    quality: Quality
    noise: float
    paid: tuple[tuple[Pattern, float], ...] = ()
    blind: float = 0.0
    scores: dict[tuple[str, str], float] = field(default_factory=dict)

    def __call__(self, samples: Sequence[Sample]) -> Array:
        """Scores of samples [n], NaN where it is blind."""
        return np.array([self._score(sample.asked, sample.reply) for sample in samples])

    def _score(self, asked: str, text: str) -> float:
        key = (asked, text)
        if key not in self.scores:
            case = self.quality.case
            blind = rng(case, f"hack blind {self.name}", sample=asked).random() < self.blind
            noise = rng(case, f"hack noise {self.name}", sample=f"{asked}\n{text}").normal()
            pay = sum(size * pattern.strength(text) for pattern, size in self.paid)
            score = self.quality(text) + self.noise * float(noise) + pay
            self.scores[key] = float("nan") if blind else score
        return self.scores[key]
