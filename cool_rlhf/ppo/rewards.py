"""What replies are worth: the reward model's score, and what else judges them."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from actors.group import Pending
from actors.scorer import Scorer
from actors.scoring import Judged, SamplesRefused, Scored
from actors.trajectories import REWARD, Score, Trajectory
from reward.compose import CannotCompose, RewardComposer, Verdicts
from reward.verifiers.replies import reply_text
from reward.verifiers.sample import Sample
from reward.verifiers.verdict import Verdict

TOTAL = "total"
"""Name, in the rollout log, of a reply's whole reward; that of a verifier has a prefix."""
_VERIFIER = "verifier/"


@dataclass(frozen=True)
class Rewarded:
    """A reply's whole reward, and what it was made of."""

    total: float
    judged: Judged
    verdicts: Verdicts = field(default_factory=dict)


@dataclass(frozen=True)
class RewardAnswer:
    """Rewards by trajectory id, and the one reward model that they come from."""

    rewarded: Mapping[str, Rewarded]
    rm_version: str

    def scores(self) -> dict[str, dict[str, Score]]:
        """For the rollout log: name → trajectory id → score."""
        named: dict[str, dict[str, Score]] = {REWARD: {}}
        for identifier, one in self.rewarded.items():
            value, spread = one.judged
            named[REWARD][identifier] = Score(
                value=value, rm_version=self.rm_version, spread=spread
            )
            if not one.verdicts:
                continue
            total = Score(value=one.total, rm_version=self.rm_version)
            named.setdefault(TOTAL, {})[identifier] = total
            for name, verdict in one.verdicts.items():
                if verdict.score is not None:
                    score = Score(value=verdict.score, rm_version=name)
                    named.setdefault(_VERIFIER + name, {})[identifier] = score
        return named


@dataclass
class Rewards:
    """Asks the scorer and the verifiers at the same time; to be closed.

    `references`: of prompts, by id. Verdicts that the rollout log holds are not asked for again: a
    function or a server may answer otherwise the second time.
    """

    scorer: Scorer
    empty_reply_score: float
    composer: RewardComposer
    references: Mapping[str, str] = field(default_factory=dict)
    at_once: int = 1
    """How many calls of `ask` are judged at the same time."""

    def __post_init__(self) -> None:
        self._executor = ThreadPoolExecutor(self.at_once, thread_name_prefix="verifiers")

    def close(self) -> None:
        """End the verifiers' processes."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self.composer.close()

    def ask(self, trajectories: Sequence[Trajectory]) -> "PendingRewards":
        """Begin; replies without text have `empty_reply_score` and are asked of nobody."""
        spoken = [t for t in trajectories if _says_something(t)]
        scores = self.scorer.score(
            [t.messages for t in spoken], [t.condition for t in spoken], [t.id for t in spoken]
        )
        verdicts = self._executor.submit(self._verdicts, spoken)
        return PendingRewards(self, trajectories, spoken, scores, verdicts)

    def sample(self, trajectory: Trajectory) -> Sample:
        """What verifiers judge: all that was sampled, after all that was given."""
        given = trajectory.given_messages
        return Sample(
            prompt=trajectory.messages[:given],
            reply=reply_text(trajectory.messages[given:]),
            condition=trajectory.condition,
            reference=self.references.get(trajectory.prompt_id),
        )

    def _verdicts(self, spoken: Sequence[Trajectory]) -> dict[str, Verdicts]:
        known = {t.id: _logged(t) for t in spoken}
        fresh = [t for t in spoken if not set(self.composer.asked(t.condition)) <= set(known[t.id])]
        found = self.composer.judge([self.sample(t) for t in fresh])
        return known | {t.id: verdicts for t, verdicts in zip(fresh, found, strict=True)}


@dataclass(frozen=True)
class PendingRewards:
    """Rewards on their way."""

    rewards: Rewards
    trajectories: Sequence[Trajectory]
    spoken: Sequence[Trajectory]
    scores: Pending[Scored]
    verdicts: Future[dict[str, Verdicts]]

    def result(self) -> RewardAnswer:
        """Wait for all.

        Raises SamplesRefused for replies without a score or a reward, GraderFailed.
        """
        scored = self.scores.result()
        verdicts = self.verdicts.result()
        empty = self.rewards.empty_reply_score
        rewarded = {t.id: Rewarded(empty, Judged(empty)) for t in self.trajectories}
        refused: dict[str, str] = {}
        for t, judged in zip(self.spoken, map(Judged, scored.values, scored.spreads), strict=True):
            try:
                rewarded[t.id] = self._rewarded(t, judged, verdicts.get(t.id, {}))
            except CannotCompose as error:
                refused[t.id] = str(error)
        if refused:
            raise SamplesRefused(refused)
        return RewardAnswer(rewarded, scored.rm_version)

    def _rewarded(self, trajectory: Trajectory, judged: Judged, verdicts: Verdicts) -> Rewarded:
        sample = self.rewards.sample(trajectory)
        composed = self.rewards.composer.compose(sample, judged.value, verdicts)
        return Rewarded(composed.total, judged, verdicts)


def _logged(trajectory: Trajectory) -> dict[str, Verdict]:
    """Verdicts of a reply that was judged before the run was resumed."""
    return {
        name.removeprefix(_VERIFIER): Verdict(score.value, score.value >= 0.5, "logged")
        for name, score in trajectory.scores.items()
        if name.startswith(_VERIFIER)
    }


def _says_something(trajectory: Trajectory) -> bool:
    reply = trajectory.messages[-1]
    return bool(reply.content.strip() or reply.actions)
