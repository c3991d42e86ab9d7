"""The resolved plan of a PPO run in words, printed before anything starts."""

from actors.losses import PolicyLossSettings
from cool_rlhf.hacks.confirmation import visible_rise
from cool_rlhf.ppo.algorithm import AlgorithmSettings
from cool_rlhf.ppo.sampling.environment import EnvironmentSettings
from cool_rlhf.ppo.settings import PPORecipe
from reward.compose import ComposeSettings


def describe_plan(recipe: PPORecipe) -> list[tuple[str, str]]:
    """Rows of (what, how much): the batch arithmetic, the critic-only phase, the algorithm."""
    batch, warmup, algorithm = recipe.batch, recipe.warmup, recipe.algorithm
    per_step = batch.samples // batch.mini_batches
    steps = batch.mini_batches * batch.epochs
    gate = (
        ""
        if warmup.explained_variance is None
        else f", then until explained variance ≥ {warmup.explained_variance}"
        f" (at most {warmup.max_iterations})"
    )
    pretrain = (
        "none"
        if recipe.pretrain is None
        else f"{recipe.pretrain.share:.0%} of the samples' tokens in windows of"
        f" {recipe.pretrain.length}"
    )
    penalty = f" − {algorithm.kl_coef}·KL ({algorithm.kl})" if algorithm.kl_coef else ""
    critic_only = f", the first {warmup.iterations} critic-only{gate}"
    return [
        ("iterations", f"{recipe.iterations}{critic_only if algorithm.has_critic else ''}"),
        (
            "batch",
            f"{batch.prompts} prompts × {batch.samples_per_prompt} = {batch.samples} samples →"
            f" {steps} optimiser steps of {per_step} samples"
            f" ({batch.mini_batches} mini-batches × {batch.epochs} epochs)",
        ),
        ("layout", _layout(recipe)),
        ("reply", f"≤ {recipe.sampling.max_new_tokens} tokens, top_p {recipe.sampling.top_p}"),
        *_environment(recipe.environment),
        ("reward", f"conditional RM{penalty}"),
        *_verifiers(recipe.rewards),
        ("advantages", _advantages(algorithm)),
        ("policy loss", _loss(recipe.crew.policy.loss)),
        ("pre-training mix", pretrain),
        ("early warning", _early_warning(recipe)),
        ("checkpoints", f"every {recipe.checkpoint_every} iterations"),
    ]


def _layout(recipe: PPORecipe) -> str:
    """What overlaps."""
    layout = recipe.layout
    if layout.name == "pipelined":
        return f"pipelined, {layout.chunks} chunks of {recipe.batch.samples // layout.chunks}"
    if layout.name == "async":
        return f"async, tokens at most {layout.max_staleness} versions of the policy old"
    return layout.name


def _environment(environment: EnvironmentSettings | None) -> list[tuple[str, str]]:
    """What answers replies, if anything does."""
    if environment is None:
        return []
    return [("environment", f"{environment.kind}, ≤ {environment.max_turns} replies in each")]


def _verifiers(rewards: ComposeSettings) -> list[tuple[str, str]]:
    """What counts beside the reward model, a row for each condition."""
    rows = []
    for condition, weights in rewards.weights.items():
        terms = [("RM", weights.rm), *weights.verifiers.items()]
        named = " + ".join(f"{weight:g} {name}" for name, weight in terms if weight)
        rows.append((f"score, {condition}", named))
    return rows


def _advantages(algorithm: AlgorithmSettings) -> str:
    """The estimator with what it uses."""
    if algorithm.estimator == "gae":
        return f"gae, γ {algorithm.gamma} λ {algorithm.lam}"
    return f"{algorithm.estimator}, no critic"


def _loss(loss: PolicyLossSettings) -> str:
    """The policy's loss with its ranges."""
    high = loss.clip_range if loss.clip_range_high is None else loss.clip_range_high
    kl = f" + {loss.kl_coef}·KL ({loss.kl})" if loss.kl_coef else ""
    return f"{loss.name}{kl}, ratio in {1 - loss.clip_range:g}…{1 + high:g}, {loss.aggregation}"


def _early_warning(recipe: PPORecipe) -> str:
    """When the watcher looks, and how large a rise it can see."""
    watch, batch = recipe.hacks, recipe.batch
    looks = watch.looks(recipe.iterations, recipe.warmup.iterations)
    if not looks:
        return "none" if not watch.every else "none: too few iterations for two windows"
    replies, prompts = (
        min(watch.replies, min(watch.baseline, watch.recent) * per_iteration)
        for per_iteration in (batch.samples, batch.prompts)
    )
    rise = visible_rise(prompts, watch.detector(len(looks), seed=0))
    seen = "no rise is large enough to be seen" if rise is None else f"shows a rise to {rise:.0%}"
    return f"{len(looks)} looks of {replies} replies against the first {replies}: {seen}"
