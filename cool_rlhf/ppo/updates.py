"""Mini-batches of one iteration: critic and actor learn from the same samples at the same time."""

from collections import defaultdict

import numpy as np

from actors.batch import Experience, Sequences, Totals
from actors.crew import Crew
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
    """All optimiser steps of an iteration; the actor rests while `train_policy` is False.

    Returns the metrics averaged over steps; `policy/first_ratio` is that of the first step alone.
    """
    sums: dict[str, list[float]] = defaultdict(list)
    steps = _mini_batches(batch.learnt, settings, iteration)
    text = _split_pretrain(pretrain, len(steps))
    for step, mini_batch in enumerate(steps):
        windows = text[step] if text else None
        totals = Totals.of(mini_batch.sequences, windows)
        pending = [crew.critic.update(mini_batch, totals)] if crew.critic else []
        if train_policy:
            pending.append(
                crew.policy.update(mini_batch, windows, totals, settings.sampling.temperature)
            )
        for part in pending:
            for name, value in part.result().items():
                sums[name].append(value)
    metrics = {name: sum(values) / len(values) for name, values in sums.items()}
    if train_policy:
        metrics["policy/first_ratio"] = sums["policy/ratio_avg"][0]
    return metrics


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


def _split_pretrain(pretrain: Sequences | None, parts: int) -> list[Sequences] | None:
    """Spread the pre-training windows evenly over the steps; each step gets at least one."""
    if pretrain is None:
        return None
    rows = [list(range(part, pretrain.n, parts)) or [part % pretrain.n] for part in range(parts)]
    return [pretrain.select(part) for part in rows]
