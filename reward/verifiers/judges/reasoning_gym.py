"""Scores an answer by the scoring function of its reasoning-gym task.

Some of those functions evaluate the answer as Python: they must never run outside a sandbox.
"""

from typing import Any

import reasoning_gym


def handle(argument: dict[str, Any]) -> float:
    """The library's own score of `answer` for `entry`."""
    entry = argument["entry"]
    score = reasoning_gym.get_score_answer_fn(entry["metadata"]["source_dataset"])
    return float(score(argument["answer"], entry))
