"""Put a PPO run together: check every input first, then load the actors, then train."""

import logging
import os
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from actors.crew import Crew, Models
from actors.rollout import Rollout
from actors.rollout.no_engine import NoEngine
from actors.scorer import Scorer
from actors.trajectories import RolloutLog
from cool_rlhf.hacks.judges import check_gold
from cool_rlhf.ppo.algorithm import KLControl, ScoreScale
from cool_rlhf.ppo.checkpoint import Checkpoints
from cool_rlhf.ppo.critic_init import critic_source
from cool_rlhf.ppo.evaluation.frontier import REFERENCE
from cool_rlhf.ppo.evaluation.job import Examination
from cool_rlhf.ppo.evaluation.jobs import Evaluations
from cool_rlhf.ppo.experience import ExperienceMaker
from cool_rlhf.ppo.monitor.guards import Guards
from cool_rlhf.ppo.monitor.health import Health
from cool_rlhf.ppo.monitor.watch import Watch
from cool_rlhf.ppo.pipeline import Pipeline
from cool_rlhf.ppo.pretrain_mix import PretrainMix
from cool_rlhf.ppo.rewards import Rewards
from cool_rlhf.ppo.sampling.ahead import RolloutsAhead
from cool_rlhf.ppo.sampling.environment import Environment, build_environment
from cool_rlhf.ppo.sampling.prompts import PromptSet, read_prompts
from cool_rlhf.ppo.sampling.rollouts import Rollouts
from cool_rlhf.ppo.settings import PPOSettings
from cool_rlhf.ppo.trainer import Trainer
from cool_rlhf.ppo.warmup import CriticWarmup
from pretrain_core.chat import PolicyChat
from pretrain_core.data import TokenStore
from pretrain_core.errors import InputError, RunFailed
from pretrain_core.runs import Run, StopSignal
from pretrain_core.settings import Resolved
from reward.card import read_conditions
from reward.compose import RewardComposer
from reward.conditions import Conditions

logger = logging.getLogger(__name__)


class PPOInputError(InputError):
    """A PPO run cannot start; the message names the key and the way out."""


@dataclass(frozen=True)
class Inputs:
    """Everything a run reads, checked before any actor starts."""

    chat: PolicyChat
    prompts: PromptSet
    pretrain: PretrainMix | None
    critic: Path | None
    """What the critic starts from, None without one."""
    held_out: PromptSet | None = None
    """What evaluation asks."""

    @property
    def references(self) -> dict[str, str]:
        """Of prompts, by id."""
        return {p.id: p.reference for p in self.prompts if p.reference is not None}


@dataclass(frozen=True)
class Trained:
    """The policies a run leaves: the first and the last checkpoint whose policy had moved."""

    early: Path
    late: Path
    selected: Path
    """By the evaluations; without them, the late one."""
    reason: str | None = None
    """Of the selection."""


def check_inputs(settings: PPOSettings) -> Inputs:
    """Read and check prompts, templates, conditions, lengths and pre-training text.

    Raises PPOInputError, PromptError, ChatError or the reader's own error.
    """
    _check_paths(settings)
    if settings.hacks.gold is not None:
        check_gold(settings.hacks.gold)
    chat = PolicyChat(AutoTokenizer.from_pretrained(settings.policy))
    conditions = read_conditions(settings.reward_model)
    prompts = read_prompts(settings.prompts, chat, conditions)
    # Built and ended again: what cannot be loaded is refused now.
    RewardComposer(settings.rewards, conditions).close()
    if settings.environment is not None:
        build_environment(settings.environment).close()
    for left_out in prompts.quarantined:
        logger.warning("%s:%d: %s", settings.prompts.path, left_out.line, left_out.reason)
    held_out = _held_out(settings, chat, conditions)
    asked = [*prompts, *(held_out or ())]
    longest = max(len(p.tokens) for p in asked) + settings.sampling.max_new_tokens
    context = settings.crew.rollout.max_model_len
    if longest > context:
        raise PPOInputError(
            f"the longest prompt and sampling.max_new_tokens make {longest} tokens, more than"
            f" crew.rollout.max_model_len {context}: raise it, or lower prompts.max_tokens"
        )
    critic = critic_source(settings) if settings.algorithm.has_critic else None
    return Inputs(chat, prompts, _pretrain(settings, longest), critic, held_out)


def _held_out(settings: PPOSettings, chat: PolicyChat, conditions: Conditions) -> PromptSet | None:
    """The prompts of the evaluation; raises PPOInputError for one that is trained on."""
    asked = settings.evaluation
    if asked is None:
        return None
    if asked.gold is not None:
        check_gold(asked.gold)
    if asked.text is not None:
        TokenStore.open(asked.text)
    own = settings.prompts.model_copy(update={"path": asked.prompts})
    prompts = read_prompts(own, chat, conditions)
    if asked.prompts.samefile(settings.prompts.path):
        raise PPOInputError(
            f"evaluation.prompts: {asked.prompts} is what the policy is trained on: hold some out"
        )
    return prompts


def _check_paths(settings: PPOSettings) -> None:
    for key in ("policy", "initial_policy", "reward_model"):
        folder: Path | None = getattr(settings, key)
        if folder is None:
            continue
        if inside_ray_job() and not folder.is_absolute():
            raise PPOInputError(
                f"{key}: {folder} is relative, but a Ray job runs in a temporary copy of the"
                " working directory: give an absolute path"
            )
        if not (folder / "config.json").is_file():
            raise PPOInputError(
                f"{key}: {folder} is no model folder (no config.json); `cool-rlhf demo` makes the"
                " artefacts of the tiny configurations"
            )
    if inside_ray_job() and not settings.run.root.is_absolute():
        raise PPOInputError(
            f"run.root: {settings.run.root} is relative inside a Ray job and would be lost with"
            " its temporary copy: give an absolute path or set COOL_RLHF_RUNS"
        )


def inside_ray_job() -> bool:
    """Whether this process is the driver of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _pretrain(settings: PPOSettings, longest: int) -> PretrainMix | None:
    if settings.pretrain is None:
        return None
    return PretrainMix(
        store=TokenStore.open(settings.pretrain.data),
        length=settings.pretrain.length,
        tokens_per_iteration=round(settings.pretrain.share * settings.batch.samples * longest),
        seed=settings.run.seed,
    )


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
    moved = [
        iteration
        for iteration in trainer.checkpoints.saved()
        if iteration >= trainer.warmup.iterations
    ]
    policy = trainer.checkpoints.policy
    return Trained(
        early=policy(moved[0]),
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
        crew, log, rollouts, settings.algorithm, rewards, scale, kl_control
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
