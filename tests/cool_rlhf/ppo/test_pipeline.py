"""Layout pipelined: what is learnt when, and what cannot be drawn again."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from transformers import PreTrainedTokenizerFast

from actors.batch import Experience, Sequences, Totals
from actors.crew import Crew
from cool_rlhf.ppo.batch import Batch
from cool_rlhf.ppo.experience import Asked, ExperienceMaker
from cool_rlhf.ppo.monitor.guards import Guards
from cool_rlhf.ppo.monitor.measure import Clock
from cool_rlhf.ppo.pipeline import Pipeline, RefusedTooLateError
from cool_rlhf.ppo.sampling.prompts import Prompt
from cool_rlhf.ppo.settings import GuardSettings, PPORecipe
from pretrain_core.chat import Message
from tests.cool_rlhf.ppo.test_experience import Answered, maker
from tests.cool_rlhf.ppo.test_settings import BASE

PROMPTS = [
    Prompt(f"p{n}", (Message(role="user", content="q"),), "helpful", (4, 300, 5)) for n in range(4)
]


class Told:
    """What policy and critic are told, in its order."""

    def __init__(self, role: str, events: list[str], totals: list[Totals]) -> None:
        self.role, self.events, self.totals = role, events, totals

    def accumulate(self, experience: Experience, totals: Totals, *_: Any) -> Answered:
        return self._note("adds", experience, totals)

    def update(self, experience: Experience, *arguments: Any) -> Answered:
        totals = next(a for a in arguments if isinstance(a, Totals))
        return self._note("steps on", experience, totals)

    def _note(self, what: str, experience: Experience, totals: Totals) -> Answered:
        self.events.append(f"{self.role} {what} {experience.ids[0]}")
        self.totals.append(totals)
        return Answered({f"{self.role}/ratio_avg": 1.0})


def pipeline_of(
    made: ExperienceMaker, monkeypatch: pytest.MonkeyPatch, mini_batches: int = 1
) -> tuple[Pipeline, list[str], list[Totals]]:
    """Four chunks; the events are in their order, rewards that are waited for among them."""
    events: list[str] = []
    totals: list[Totals] = []
    crew = cast(Any, made.crew)
    for role in ("policy", "critic"):
        told = Told(role, events, totals)
        both = {**vars(getattr(crew, role)), "accumulate": told.accumulate, "update": told.update}
        setattr(crew, role, SimpleNamespace(**both))
    finish = made.finish

    def noted(iteration: int, asked: Asked) -> Batch:
        events.append(f"waits for {asked.trajectories[0].id}")
        return finish(iteration, asked)

    monkeypatch.setattr(made, "finish", noted)
    guards = Guards(GuardSettings(logprob_gap=10))
    return Pipeline(cast(Crew, crew), made.rollouts, made, guards, 4, mini_batches), events, totals


def test_a_chunk_is_learnt_before_the_next_ones_rewards_are_waited_for(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, events, totals = pipeline_of(maker(0, tmp_path, tokenizer), monkeypatch)
    batch, metrics = pipeline.learn(0, PROMPTS, None, Clock())
    ids = [f"0/p{n}/0" for n in range(4)]
    assert events == [
        f"{who} {name}" for name in ids[:3] for who in ("waits for", "critic adds", "policy adds")
    ] + [f"{who} {ids[3]}" for who in ("waits for", "critic steps on", "policy steps on")]
    # Every part of the step has the denominators of the whole of it.
    assert set(totals) == {Totals(actions=16, sequences=8)}
    assert [t.id for t in batch.trajectories] == [f"0/p{n}/{m}" for n in range(4) for m in (0, 1)]
    assert batch.experience.sequences.n == len(batch.scores) == 8
    assert metrics["policy/first_ratio"] == 1.0


def test_every_step_has_chunks_and_denominators_of_its_own(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = maker(0, tmp_path, tokenizer)
    pipeline, events, totals = pipeline_of(made, monkeypatch, mini_batches=2)
    text = Sequences.pack([([1, 2, 3], [False, True, True])] * 2)
    pipeline.learn(0, PROMPTS, text, Clock())
    steps = [event for event in events if "policy steps" in event]
    assert steps == ["policy steps on 0/p1/0", "policy steps on 0/p3/0"]
    assert set(totals) == {Totals(actions=8, sequences=4, pretrain_tokens=2)}


def test_what_the_reward_model_refuses_is_drawn_again_before_anything_is_learnt(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, events, _ = pipeline_of(maker(1, tmp_path, tokenizer), monkeypatch)
    batch, _ = pipeline.learn(0, PROMPTS, None, Clock())
    assert batch.resampled == 8
    assert {t.id.partition("~")[2] for t in batch.trajectories} == {"1"}
    assert events[0] == "waits for 0/p0/0~1"


def test_what_a_verifier_refuses_later_stops_the_run_with_the_way_out(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = {
        "verifiers": {"answer": {"kind": "maths"}},
        "weights": {"helpful": {"verifiers": {"answer": 1.0}}},
        "unjudged": "fail",
    }
    made = maker(0, tmp_path, tokenizer, composed)
    made.rewards.references = {"p0": "7"}
    pipeline, events, _ = pipeline_of(made, monkeypatch)
    with pytest.raises(RefusedTooLateError, match=r"rewards\.unjudged to renormalise"):
        pipeline.learn(0, PROMPTS, None, Clock())
    assert "policy adds 0/p0/0" in events


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": {"name": "pipelined", "chunks": 3}}, r"must divide 8 prompts.*\[2, 4, 8\]"),
        ({"batch": {"prompts": 8, "epochs": 2}}, "batch.epochs over 1 looks at a whole"),
        ({"algorithm": {"normalise_advantages": True}}, "normalise_advantages looks at a whole"),
        ({"algorithm": {"score_scale": "all"}}, "score_scale looks at a whole"),
        ({"algorithm": {"truncated": "mask"}}, "truncated mask looks at a whole"),
    ],
)
def test_what_needs_a_whole_iteration_is_refused(changes: dict[str, Any], message: str) -> None:
    recipe = {**BASE, "batch": {"prompts": 8}, "layout": {"name": "pipelined"}}
    assert PPORecipe.model_validate(recipe).layout.chunks == 4
    with pytest.raises(ValueError, match=message):
        PPORecipe.model_validate(recipe | changes)
