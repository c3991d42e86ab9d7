"""Mini-batches of one iteration: critic and actor learn from the same samples at the same time."""

from collections.abc import Mapping, Sequence

import numpy as np

from actors.batch import Experience, Sequences, Totals
from actors.crew import Crew
from actors.group import Pending
from cool_rlhf.ppo.batch import Batch
from cool_rlhf.ppo.settings import PPOSettings
from pretrain_core.draws import rng

UpdateMetrics = dict[str, float]


def update_actor_and_critic(
    crew: Crew,
    batch: Batch,
    pretrain: Sequences | None,
    settings: PPOSettings,
    iteration: int,
    *,
    train_policy: bool,
) -> UpdateMetrics:
    """All optimiser steps of an iteration; the actor rests while `train_policy` is False."""
    mini_batches = _mini_batches(batch.learnt, settings, iteration)
    steps = []
    for mini_batch, windows in zip(
        mini_batches, split_pretrain(pretrain, len(mini_batches)), strict=True
    ):
        totals = Totals.of(mini_batch.sequences, text=windows)
        pending = begin_step(
            crew,
            mini_batch,
            windows,
            totals,
            settings.sampling.temperature,
            train_policy=train_policy,
        )
        steps.append(step_metrics(pending))
    return update_metrics(steps)


def begin_step(
    crew: Crew,
    experience: Experience,
    pretrain: Sequences | None,
    totals: Totals,
    temperature: float,
    *,
    train_policy: bool = True,
) -> list[Pending[dict[str, float]]]:
    """Critic and actor begin one optimiser step, which ends with these samples."""
    pending = [crew.critic.update(experience, totals)] if crew.critic else []
    if train_policy:
        pending.append(crew.policy.update(experience, pretrain, totals, temperature))
    return pending


def step_metrics(pending: Sequence[Pending[dict[str, float]]]) -> dict[str, float]:
    """Those of critic and actor together, once both are done."""
    return {name: value for part in pending for name, value in part.result().items()}


def update_metrics(steps: Sequence[Mapping[str, float]]) -> UpdateMetrics:
    """Averages over steps; `policy/first_ratio` is that of the first step alone."""
    metrics = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
    if "policy/ratio_avg" in metrics:
        metrics["policy/first_ratio"] = steps[0]["policy/ratio_avg"]
    return metrics


def split_pretrain(pretrain: Sequences | None, parts: int) -> list[Sequences | None]:
    """Spread the pre-training windows evenly over the steps; each step gets at least one."""
    if pretrain is None:
        return [None] * parts
    rows = [list(range(part, pretrain.n, parts)) or [part % pretrain.n] for part in range(parts)]
    return [pretrain.select(part) for part in rows]


def _mini_batches(
    experience: Experience, settings: PPOSettings, iteration: int
) -> list[Experience]:
    if settings.batch.mini_batches == 1:
        return [experience] * settings.batch.epochs
    batches = []
    for epoch in range(settings.batch.epochs):
        order = rng(settings.run.seed, "mini_batches", iteration, epoch).permutation(
            experience.sequences.n
        )
        # Equal parts, or nearly so where replies were left out.
        parts = np.array_split(order, min(settings.batch.mini_batches, len(order)))
        batches += [experience.select(part.tolist()) for part in parts]
    return batches
