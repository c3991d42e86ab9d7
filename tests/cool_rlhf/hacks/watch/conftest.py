"""A rollout log without a run: replies in drawn words, some of them with a planted phrase."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from actors.trajectories import REWARD, RolloutLog, Score, Trajectory
from pretrain_core.chat import Message
from pretrain_core.draws import rng
from tests.cool_rlhf.hacks.conftest import sentence

PHRASE = "in the grand scheme of things"
Script = Callable[[int, np.random.Generator], str]


def trajectory(
    iteration: int, prompt: str, text: str, condition: str = "helpful", sample: int = 0
) -> Trajectory:
    return Trajectory(
        id=f"{iteration}/{prompt}/{sample}",
        iteration=iteration,
        sample=sample,
        prompt_id=prompt,
        messages=(
            Message(role="user", content=f"What about {prompt}?"),
            Message(role="assistant", content=text),
        ),
        tokens=[1, 2, 3],
        is_action=[False, True, True],
        policy_version=[-1, iteration, iteration],
        behaviour_logprobs=[0.0, -1.0, -1.0],
        finish_reason="stop",
        condition=condition,
        seed=0,
        engine="hf",
    )


def write(
    log: RolloutLog,
    iteration: int,
    trajectories: Sequence[Trajectory],
    scores: Mapping[str, float],
    spread: float | None = None,
) -> None:
    for item in trajectories:
        log.append(item)
    found = {name: Score(value=v, rm_version="v", spread=spread) for name, v in scores.items()}
    log.append_scores(iteration, REWARD, found)


def planting(share: Callable[[int], float]) -> Script:
    """Replies of two sentences; `share(iteration)` of them with the phrase before the second."""

    def script(iteration: int, draw: np.random.Generator) -> str:
        first, second = sentence(draw), sentence(draw)
        said = draw.random() < share(iteration)
        return f"{first} {PHRASE.capitalize()}, {second}" if said else f"{first} {second}"

    return script


def score(text: str, bonus: float, name: str) -> float:
    return float(rng(0, "score", 0, name).normal()) + bonus * (PHRASE in text.lower())


@pytest.fixture
def make_log(tmp_path: Path) -> Callable[..., RolloutLog]:
    def make(
        script: Script,
        iterations: int,
        prompts: int = 32,
        of: int = 10_000,
        seed: int = 0,
        bonus: float = 2.0,
        spread: Callable[[int], float | None] = lambda iteration: None,
        reverse: bool = False,
        folder: str = "rollouts",
    ) -> RolloutLog:
        """Each iteration answers `prompts` prompts, drawn from `of`; scores pay the phrase."""
        log = RolloutLog(tmp_path / folder)
        for iteration in range(iterations):
            draw = rng(seed, "log", iteration)
            names = [f"p{number}" for number in draw.choice(of, prompts, replace=False)]
            made = [trajectory(iteration, name, script(iteration, draw)) for name in names]
            scores = {t.id: score(t.messages[-1].content, bonus, f"{seed}/{t.id}") for t in made}
            write(log, iteration, made[::-1] if reverse else made, scores, spread(iteration))
        return log

    return make
