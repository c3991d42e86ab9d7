"""Put a PPO run together from its checked inputs, load the actors, train; again after a death."""

import logging
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.crew import Crew, Models
from actors.rollout import Rollout
from actors.rollout.no_engine import NoEngine
from actors.scorer import Scorer
from actors.trajectories import RolloutLog
from cool_rlhf.ppo.algorithm import KLControl, ScoreScale
from cool_rlhf.ppo.checkpoint import Checkpoints
from cool_rlhf.ppo.evaluation.frontier import REFERENCE
from cool_rlhf.ppo.evaluation.job import Examination
from cool_rlhf.ppo.evaluation.jobs import Evaluations
from cool_rlhf.ppo.experience import ExperienceMaker
from cool_rlhf.ppo.inputs import Inputs, check_inputs
from cool_rlhf.ppo.monitor.guards import Guards
from cool_rlhf.ppo.monitor.health import Health
from cool_rlhf.ppo.monitor.watch import Watch
from cool_rlhf.ppo.pipeline import Pipeline
from cool_rlhf.ppo.rewards import Rewards
from cool_rlhf.ppo.sampling.ahead import RolloutsAhead
from cool_rlhf.ppo.sampling.environment import Environment, build_environment
from cool_rlhf.ppo.sampling.rollouts import Rollouts
from cool_rlhf.ppo.settings import PPOSettings
from cool_rlhf.ppo.trainer import Trainer
from cool_rlhf.ppo.warmup import CriticWarmup
from pretrain_core.errors import RunFailed
from pretrain_core.runs import Run, StopSignal
from pretrain_core.settings import Resolved
from reward.card import read_conditions
from reward.compose import RewardComposer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """The policies a run leaves: the first and the last checkpoint whose policy had moved."""

    early: Path
    late: Path
    selected: Path
    """By the evaluations; without them, the late one."""
    reason: str | None = None
    """Of the selection."""


def open_or_create_run(settings: PPOSettings, parents: dict[str, Path]) -> Run:
    """The run directory that the settings name, resumed when it exists."""
    if settings.run.name is not None and (settings.run.root / settings.run.name).exists():
        return Run.open(settings.run.root / settings.run.name)
    return Run.create(settings.run, Resolved.of(settings), kind="ppo", parents=parents)


def train_ppo(settings: PPOSettings, run: Run, crew: Crew, stop: StopSignal) -> Trained:
    """Train to the end, from the newest checkpoint if there is one.

    Where an actor dies, all start again, go back to the newest checkpoint and replay the rollout
    log: `crew.restarts` times in a row without an iteration between, then the failure is raised.
    """
    inputs = check_inputs(settings)
    deaths, reached = 0, -1
    while True:
        try:
            return _train(settings, inputs, run, crew, stop)
        except RunFailed as failure:
            # What dies while it is loaded would die again.
            dead = crew.dead() if crew.models is not None else []
            newest = len(run.metrics())
            deaths = deaths + 1 if newest <= reached else 1
            reached = max(reached, newest)
            if not dead or deaths > settings.crew.restarts:
                raise
            names = ", ".join(sorted({f"{one.role} rank {one.rank}" for one in dead}))
            logger.warning(
                "%s died (%s): all actors start again, from the newest checkpoint", names, failure
            )
            crew.restart()


def _train(
    settings: PPOSettings, inputs: Inputs, run: Run, crew: Crew, stop: StopSignal
) -> Trained:
    with ExitStack() as stack:
        rewards = stack.enter_context(closing(make_rewards(settings, inputs, crew.scorer)))
        environment = None
        if settings.environment is not None:
            environment = stack.enter_context(closing(build_environment(settings.environment)))
        rollouts = make_rollouts(settings, inputs, run, crew.rollout, environment)
        stack.callback(rollouts.close)
        rollouts.revive, rollouts.restarts = crew.revive_rollout, settings.crew.restarts
        trainer = _trainer(settings, inputs, run, crew, rewards, rollouts)
        evaluations = trainer.evaluations = _evaluations(settings, inputs, run)
        if evaluations is not None:
            stack.callback(evaluations.close)
            evaluations.begin(REFERENCE, settings.policy)
        late = trainer.train(stop)
        with run.phase("evaluations"):
            kept = evaluations.finish() if evaluations is not None else None
    run.record(engine=crew.rollout.engine, quarantined_prompts=len(inputs.prompts.quarantined))
    policy = trainer.checkpoints.policy
    return Trained(
        early=policy(trainer.moved()[0]),
        late=late,
        selected=late if kept is None else policy(int(kept.name)),
        reason=None if kept is None else kept.reason,
    )


def _evaluations(settings: PPOSettings, inputs: Inputs, run: Run) -> Evaluations | None:
    if settings.evaluation is None or inputs.held_out is None:
        return None
    examination = Examination(
        settings=settings.evaluation,
        prompts=tuple(inputs.held_out),
        reference=settings.policy,
        reward_model=str(settings.reward_model),
        sampling=settings.sampling,
        rollout=settings.crew.rollout,
        seed=run.seed,
    )
    return Evaluations(run.path, examination)


def make_rewards(settings: PPOSettings, inputs: Inputs, scorer: Scorer) -> Rewards:
    """What judges the replies of a run."""
    composer = RewardComposer(settings.rewards, read_conditions(settings.reward_model))
    chunks = settings.layout.chunks if settings.layout.name == "pipelined" else 1
    return Rewards(
        scorer,
        settings.algorithm.empty_reply_score,
        composer,
        inputs.references,
        at_once=chunks,
    )


def make_rollouts(
    settings: PPOSettings,
    inputs: Inputs,
    run: Run,
    rollout: Rollout | NoEngine,
    environment: Environment | None,
) -> Rollouts:
    """The rollout side of a run; to be closed."""
    common: dict[str, Any] = {
        "log": RolloutLog(run.rollouts),
        "chat": inputs.chat,
        "sampling": settings.sampling,
        "samples_per_prompt": settings.batch.samples_per_prompt,
        "seed": run.seed,
        "context": settings.crew.rollout.max_model_len,
        "environment": environment,
        "references": inputs.references,
    }
    if settings.layout.name != "async" or isinstance(rollout, NoEngine):
        return Rollouts(rollout, **common)
    return RolloutsAhead(
        rollout=rollout,
        **common,
        prompts_of=lambda later: inputs.prompts.draw(run.seed, later, settings.batch.prompts),
        iterations=settings.iterations,
        max_staleness=settings.layout.max_staleness,
    )


def _trainer(
    settings: PPOSettings,
    inputs: Inputs,
    run: Run,
    crew: Crew,
    rewards: Rewards,
    rollouts: Rollouts,
) -> Trainer:
    log = rollouts.log
    warmup, kl_control = CriticWarmup(settings.warmup), KLControl(settings.algorithm)
    scale = ScoreScale(settings.algorithm)
    experience = ExperienceMaker(
        crew, log, rollouts, settings.algorithm, rewards, scale, kl_control, inputs.critic_contexts
    )
    guards = Guards(settings.guards, settings.layout.staleness)
    pipeline = None
    if settings.layout.name == "pipelined":
        batch = settings.batch
        pipeline = Pipeline(
            crew, rollouts, experience, guards, settings.layout.chunks, batch.mini_batches
        )
    return Trainer(
        settings=settings,
        run=run,
        crew=crew,
        models=Models(
            policy=settings.initial_policy or settings.policy,
            reference=settings.policy,
            reward_model=settings.reward_model,
            actor_optim=settings.actor,
            critic_optim=settings.critic,
            seed=run.seed,
            critic=inputs.critic,
        ),
        prompts=inputs.prompts,
        rollouts=rollouts,
        experience=experience,
        pretrain=inputs.pretrain,
        warmup=warmup,
        kl_control=kl_control,
        guards=guards,
        health=Health(settings.health, run.path),
        watch=Watch(
            settings=settings.hacks,
            run=run,
            log=log,
            looks=settings.hacks.looks(settings.iterations, settings.warmup.iterations),
            reward_model=settings.reward_model,
            references=inputs.references,
        ),
        checkpoints=Checkpoints(
            run.checkpoints,
            settings.checkpoint_every,
            settings.iterations,
            driver={"warmup": warmup, "kl_control": kl_control, "score_scale": scale},
        ),
        pipeline=pipeline,
    )
