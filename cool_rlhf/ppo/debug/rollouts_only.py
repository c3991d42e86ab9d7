"""Sampling and scoring without training: to try prompts, rewards and engine settings alone."""

from contextlib import ExitStack, closing

from actors.placement import Placement, start_ray
from actors.rollout import Rollout
from actors.scorer import Scorer
from cool_rlhf.ppo.build import make_rewards, make_rollouts
from cool_rlhf.ppo.inputs import Inputs, check_inputs
from cool_rlhf.ppo.monitor.measure import Clock
from cool_rlhf.ppo.rewards import Rewards
from cool_rlhf.ppo.sampling.environment import build_environment
from cool_rlhf.ppo.sampling.rollouts import Rollouts
from cool_rlhf.ppo.settings import PPOSettings
from pretrain_core.runs import Progress, Run, StopSignal
from pretrain_core.settings import Resolved


def sample_only(resolved: Resolved[PPOSettings]) -> Run:
    """All iterations' samples of the first policy, logged with their scores; nothing learns.

    The log can be trained on (`--rollouts-of`), as long as it is on policy: one iteration's worth.
    """
    settings = resolved.value
    inputs = check_inputs(settings)
    parents = {"policy": settings.policy, "reward_model": settings.reward_model}
    run = Run.create(settings.run, resolved, kind="ppo", parents=parents)
    crew = settings.crew
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal("the same command"))
        stack.enter_context(closing(start_ray(crew.ray)))
        placement = Placement({"scorer": crew.scorer, "rollout": crew.rollout})
        stack.callback(placement.close)
        scorer = stack.enter_context(closing(Scorer.start(crew.scorer, placement)))
        rollout = stack.enter_context(closing(Rollout.start(crew.rollout, placement)))
        loading = scorer.load(settings.reward_model)
        rollout.load(settings.initial_policy or settings.policy, version=0)
        loading.result()
        rewards = stack.enter_context(closing(make_rewards(settings, inputs, scorer)))
        environment = None
        if settings.environment is not None:
            environment = stack.enter_context(closing(build_environment(settings.environment)))
        rollouts = make_rollouts(settings, inputs, run, rollout, environment)
        stack.callback(rollouts.close)
        _sample(settings, inputs, run, rollouts, rewards, stop)
    return run


def _sample(
    settings: PPOSettings,
    inputs: Inputs,
    run: Run,
    rollouts: Rollouts,
    rewards: Rewards,
    stop: StopSignal,
) -> None:
    progress = Progress(settings.iterations, "rollouts")
    for iteration in range(settings.iterations):
        clock = Clock()
        with clock("rollout"):
            prompts = inputs.prompts.draw(run.seed, iteration, settings.batch.prompts)
            trajectories = rollouts.collect(iteration, prompts)
        with clock("experience"):
            answer = rewards.ask(trajectories).result()
        for name, scores in answer.scores().items():
            rollouts.log.append_scores(iteration, name, scores)
        count = len(trajectories)
        totals = [one.total for one in answer.rewarded.values()]
        tokens = sum(t.actions for t in trajectories)
        metrics = {
            "objective/scores": sum(o.judged.value for o in answer.rewarded.values()) / count,
            "reward/total": sum(totals) / count,
            "rollout/reply_tokens": tokens / count,
            "rollout/stopped_share": sum(t.finish_reason == "stop" for t in trajectories) / count,
            "perf/rollout_tokens_per_second": tokens / clock.seconds["rollout"],
            **{f"timing_s/{phase}": seconds for phase, seconds in clock.seconds.items()},
        }
        run.log(iteration, metrics)
        shown = {name.rpartition("/")[2]: value for name, value in metrics.items()}
        progress.update(iteration, **shown)
        if stop.requested:
            stop.announce()
    progress.close()
