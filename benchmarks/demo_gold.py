"""What the demo's annotators say, as gold: they made its preferences, and no policy saw them."""

from pathlib import Path

from cool_rlhf.annotation.programmatic import annotators
from cool_rlhf.hacks.judges import Judge
from cool_rlhf.online.fast_path import annotators_judge


def gold_of(demo: Path) -> Judge:
    """By the words of `demo`, a folder that `make demo` leaves in the cache."""
    return annotators_judge(annotators(frozenset((demo / "lexicon.txt").read_text().split())))
