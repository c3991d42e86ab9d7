"""Online RLHF (report §4.2.2) as a persisted state machine: kill it anywhere, then resume it."""

import logging
from collections.abc import Callable

from cool_rlhf.online.context import Context
from cool_rlhf.online.evaluation import evaluate_round
from cool_rlhf.online.fast_path import repair_reward_model
from cool_rlhf.online.labels import label_pairs
from cool_rlhf.online.policy_round import train_policy
from cool_rlhf.online.reward_round import (
    gate_reward_model,
    train_first_reward_model,
    update_reward_model,
)
from cool_rlhf.online.sampling import sample_first_pairs, sample_pairs
from cool_rlhf.online.settings import OnlineSettings
from cool_rlhf.online.state import RoundState
from pretrain_core.runs import StopSignal

logger = logging.getLogger(__name__)

Stage = Callable[[Context, int, StopSignal], None]

STAGES: dict[str, Stage] = {
    "ppo": train_policy,
    "evaluate": evaluate_round,
    "fast path": repair_reward_model,
    "sample": sample_pairs,
    "label": label_pairs,
    "reward": update_reward_model,
    "gate": gate_reward_model,
}
"""Each stage writes its results under `rounds/<k>/` and may be run again after a kill inside it."""


FIRST_STAGES: dict[str, Stage] = {
    "sample": sample_first_pairs,
    "label": label_pairs,
    "reward": train_first_reward_model,
}
"""Of round 0, where the run is given no reward model."""


def run_rounds(context: Context, stop: StopSignal) -> None:
    """Run every stage that is not done, round after round.

    The last round ends with its evaluation: no further policy would use a newer reward model.
    """
    state = RoundState(context.run.path)
    for number in range(context.settings.rounds + 1):
        for name, stage in stages_of(context.settings, number).items():
            if not state.is_done(number, name):
                _run_stage(context, state, number, name, stage, stop)


def stages_of(settings: OnlineSettings, number: int) -> dict[str, Stage]:
    """The stages of a round, in their order; round 0 is what comes before any PPO."""
    if number == 0:
        first = FIRST_STAGES if settings.first_reward is not None else {}
        return {**first, "evaluate": evaluate_round}
    if number == settings.rounds:
        return {name: STAGES[name] for name in ("ppo", "evaluate")}
    return STAGES


def _run_stage(
    context: Context, state: RoundState, number: int, name: str, stage: Stage, stop: StopSignal
) -> None:
    logger.info("round %d: %s", number, name)
    with context.run.phase(f"round {number}: {name}"):
        stage(context, number, stop)
    state.mark_done(number, name)
    if stop.requested:
        stop.announce()
