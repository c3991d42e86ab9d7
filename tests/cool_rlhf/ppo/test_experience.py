"""Replies that the reward model refuses: drawn again, counted, and never endlessly."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from actors.batch import Sequences
from actors.crew import Crew
from actors.forward import LogprobResult
from actors.rollout import SamplingSettings
from actors.scoring import SamplesRefused, Scored
from actors.trajectories import FinishReason, RolloutLog
from cool_rlhf.ppo.algorithm import AlgorithmSettings, KLControl, ScoreScale
from cool_rlhf.ppo.batch import Batch
from cool_rlhf.ppo.experience import ExperienceMaker, NothingToLearnError, draw_actions
from cool_rlhf.ppo.rewards import Rewards
from cool_rlhf.ppo.sampling.prompts import Prompt
from pretrain_core.chat import Message, encode
from reward.compose import ComposeSettings, RewardComposer, Verdicts
from reward.conditions import Conditions
from reward.inputs import condition_turn
from reward.verifiers.sample import Sample
from tests.cool_rlhf.ppo.sampling.test_rollouts import CountingEngine, rollouts


class Answered:
    """A result that is there already."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def result(self) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def then(self, change: Callable[[Any], Any]) -> "Answered":
        return Answered(change(self.value))


class PickyCrew:
    """Policies that say zero of every token, a critic that counts them; the scorer refuses each
    sample `refusals` times."""

    def __init__(self, refusals: int, has_critic: bool) -> None:
        self.refusals = refusals
        self.temperatures: list[float] = []
        self.policy_version = 0
        self.policy = self.reference = SimpleNamespace(
            logprobs=self.logprobs, distributions=self.distributions
        )
        self.critic = SimpleNamespace(values=self.values) if has_critic else None
        self.scorer = SimpleNamespace(score=self.score)
        self.settings = SimpleNamespace(keep_forward=False)
        self.kept: list[int | None] = []

    def score(self, talks: Sequence[Any], conditions: Sequence[str], names: list[str]) -> Answered:
        tries = [int(name.partition("~")[2] or 0) for name in names]
        pairs = zip(names, tries, strict=True)
        refused = {name: "too long" for name, tried in pairs if tried < self.refusals}
        scored = Scored([float(tried) for tried in tries], "v", [None for _ in tries])
        return Answered(SamplesRefused(refused) if refused else scored)

    def logprobs(self, batch: Sequences, temperature: float, keep: int | None = None) -> Answered:
        self.kept.append(keep)
        self.temperatures.append(temperature)
        zeros = torch.zeros(len(batch.tokens))
        return Answered(LogprobResult(zeros, zeros))

    def distributions(self, batch: Sequences, temperature: float) -> Answered:
        self.temperatures.append(temperature)
        return Answered(torch.full((batch.actions, 2), 0.5).log())

    def values(self, batch: Sequences, contexts: Any, keep: int | None) -> Answered:
        self.kept.append(keep)
        self.contexts = contexts
        return Answered(torch.arange(len(batch.tokens), dtype=torch.float32) * batch.is_action)


def maker(
    refusals: int,
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    composed: dict[str, Any] | None = None,
    **changes: Any,
) -> ExperienceMaker:
    collecting = rollouts(CountingEngine(), folder, tokenizer)
    settings = AlgorithmSettings(resamples=2, **changes)
    crew = cast(Crew, PickyCrew(refusals, settings.has_critic))
    composer = RewardComposer(ComposeSettings.model_validate(composed or {}), CONDITIONS)
    return ExperienceMaker(
        crew,
        collecting.log,
        collecting,
        settings,
        Rewards(crew.scorer, -5.0, composer, {"p": "x"}),
        ScoreScale(settings),
        KLControl(settings),
    )


CONDITIONS = Conditions.load(Path("configs/conditions/default.yaml"))
PROMPT = Prompt("p", (Message(role="user", content="q"),), "helpful", (4, 300, 5))


def test_a_refused_reply_is_replaced_and_the_log_keeps_both(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    made = maker(2, tmp_path, tokenizer)
    batch = made.make(1, made.rollouts.collect(1, [PROMPT]))
    assert [t.id for t in batch.trajectories] == ["1/p/0~2", "1/p/1~2"] == [*batch.experience.ids]
    assert batch.scores.tolist() == [2.0, 2.0]
    assert batch.resampled == 4
    logged = RolloutLog(tmp_path).read(1)
    assert len(logged) == 6
    assert {name for name, t in logged.items() if t.scores} == {"1/p/0~2", "1/p/1~2"}


def test_a_prompt_that_is_always_refused_stops_the_run(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    made = maker(3, tmp_path, tokenizer)
    with pytest.raises(
        SamplesRefused, match="2 of the samples cannot be scored: 0/p/0~2: too long"
    ):
        made.make(0, made.rollouts.collect(0, [PROMPT]))
    assert len(RolloutLog(tmp_path).read(0)) == 6


def made_of(maker: ExperienceMaker, finish_reasons: tuple[FinishReason, FinishReason]) -> Batch:
    """A batch of two replies of two tokens each to three tokens of a prompt."""
    trajectories = [
        t.model_copy(update={"finish_reason": reason})
        for t, reason in zip(maker.rollouts.collect(0, [PROMPT]), finish_reasons, strict=True)
    ]
    return maker.make(0, trajectories)


def test_a_cut_reply_is_worth_what_the_critic_says_of_where_it_was_cut(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    made = maker(0, tmp_path, tokenizer, truncated="bootstrap", lam=1.0)
    batch = made_of(made, ("length", "stop"))
    # The critic counts tokens: 3 and 4 before the actions of the first, 5 after them; its score
    # does not count. The second has its score, 0.
    assert batch.experience.returns is not None
    assert batch.experience.returns[[3, 4]].tolist() == [5.0, 5.0]
    assert batch.experience.returns[[8, 9]].tolist() == [0.0, 0.0]
    assert batch.experience.old_values is not None
    assert batch.experience.old_values[[3, 4, 8, 9]].tolist() == [3.0, 4.0, 9.0, 10.0]


def test_a_cut_reply_is_left_out_of_the_updates_and_stays_in_the_batch(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    made = maker(0, tmp_path, tokenizer, truncated="mask", estimator="rloo")
    batch = made_of(made, ("length", "stop"))
    assert batch.learnt.ids == ("0/p/1",)
    assert batch.experience.ids == ("0/p/0", "0/p/1")
    assert batch.explained_variance is None
    with pytest.raises(NothingToLearnError, match=r"all 2 replies.*max_new_tokens"):
        made_of(maker(0, tmp_path, tokenizer, truncated="mask"), ("length", "length"))


def test_a_missing_end_costs_its_penalty(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    made = maker(0, tmp_path, tokenizer, missing_end_penalty=1.5)
    batch = made_of(made, ("length", "stop"))
    assert batch.grid.gather(batch.rewards).sum(1).tolist() == [-1.5, 0.0]
    assert batch.learnt is batch.experience


def test_policy_and_reference_are_asked_at_the_temperature_of_the_sampling(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    made = maker(0, tmp_path, tokenizer)
    made.rollouts = replace(made.rollouts, sampling=SamplingSettings(temperature=0.7))
    made_of(made, ("stop", "stop"))
    assert cast(Any, made.crew).temperatures == [0.7] * 4


def test_the_whole_kl_is_that_of_the_first_actions_of_drawn_replies(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    made = maker(0, tmp_path, tokenizer, full_kl_tokens=3)
    batch = made_of(made, ("stop", "stop"))
    assert batch.full_kl is not None
    assert batch.full_kl.tolist() == [0.0] * 3
    drawn = draw_actions(batch.trajectories, 3, seed=0)
    assert drawn.actions == 3
    # One reply of two actions whole, and the other up to its first.
    assert drawn.lengths.tolist() == [5, 4]
    assert draw_actions(batch.trajectories, 9, seed=0).actions == 4
    later = [
        [t.model_copy(update={"iteration": number}) for t in batch.trajectories]
        for number in range(8)
    ]
    beginnings = {tuple(draw_actions(some, 2, seed=0).tokens.tolist()) for some in later}
    assert beginnings == {tuple(t.tokens) for t in batch.trajectories}
    without = maker(0, tmp_path / "off", tokenizer, full_kl_tokens=0)
    assert made_of(without, ("stop", "stop")).full_kl is None


def test_policy_and_critic_keep_their_forward_passes_where_they_are_asked_to(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    made = maker(0, tmp_path, tokenizer)
    made.make(3, made.rollouts.collect(3, [PROMPT]))
    assert cast(Any, made.crew).kept == [None, None, None]
    made = maker(0, tmp_path / "kept", tokenizer)
    cast(Any, made.crew).settings.keep_forward = True
    made.make(3, made.rollouts.collect(3, [PROMPT]))
    # The reference has none to keep.
    assert sorted(map(str, cast(Any, made.crew).kept)) == ["3", "3", "None"]


def test_a_critic_reads_the_condition_where_it_is_asked_to(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    made = maker(0, tmp_path, tokenizer)
    assert made_of(made, ("stop", "stop")).experience.contexts is None
    asked = maker(0, tmp_path / "asked", tokenizer)
    turn = tuple(condition_turn(tokenizer, CONDITIONS, "helpful"))
    asked.critic_contexts = {"helpful": turn}
    batch = made_of(asked, ("stop", "stop"))
    assert batch.experience.contexts == cast(Any, asked.crew).contexts == (turn, turn)
    stated = CONDITIONS.get("helpful").system_prompt
    assert turn == tuple(encode(tokenizer, [Message(role="system", content=stated)]).tokens)
    assert condition_turn(tokenizer, CONDITIONS, "default") == []


LENGTHS = {
    "verifiers": {"short": {"kind": "length", "most": 1, "unit": "characters", "fall": 8}},
    "weights": {"helpful": {"rm": 1, "verifiers": {"short": 1}}},
}


def test_verifiers_count_beside_the_reward_model_and_all_of_it_is_logged(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    made = maker(0, tmp_path, tokenizer, composed=LENGTHS)
    batch = made_of(made, ("stop", "stop"))
    (verdict,) = {v["short"].score for v in batch.verdicts}
    assert verdict is not None
    # The reward model says 0; a verdict of s lies at 10·s − 5.
    assert batch.scores.tolist() == [0.0, 0.0]
    assert batch.totals.tolist() == pytest.approx([(10 * verdict - 5) / 2] * 2)
    assert batch.totals[0] != 0
    assert batch.grid.gather(batch.rewards).sum(1).tolist() == pytest.approx(batch.totals.tolist())
    logged = RolloutLog(tmp_path).read(0)["0/p/0"].scores
    assert {name: score.value for name, score in logged.items()} == {
        "reward_model": 0.0,
        "total": pytest.approx(batch.totals[0].item()),
        "verifier/short": verdict,
    }


def test_verdicts_of_the_log_are_not_asked_for_again(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made_of(maker(0, tmp_path, tokenizer, composed=LENGTHS), ("stop", "stop"))
    again = maker(0, tmp_path, tokenizer, composed=LENGTHS)
    asked: list[int] = []
    judge = again.rewards.composer.judge

    def counting(samples: Sequence[Sample]) -> list[Verdicts]:
        asked.append(len(samples))
        return judge(samples)

    monkeypatch.setattr(again.rewards.composer, "judge", counting)
    batch = again.make(0, again.rollouts.collect(0, [PROMPT]))
    assert asked == [0]
    assert batch.totals.tolist() == first.totals.tolist()


def test_a_reply_that_a_verifier_must_judge_and_cannot_is_drawn_again(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    composed = {
        "verifiers": {"answer": {"kind": "code"}},
        "weights": {"helpful": {"rm": 1, "verifiers": {"answer": 1}}},
        "unjudged": "fail",
    }
    made = maker(0, tmp_path, tokenizer, composed=composed)
    with pytest.raises(SamplesRefused, match=r"0/p/0~2: answer cannot judge: the reference holds"):
        made.make(0, made.rollouts.collect(0, [PROMPT]))
