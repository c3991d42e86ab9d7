"""The metrics of one PPO iteration, each with one definition; `docs/metrics.md` explains them."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from actors.rollout import PushReport
from cool_rlhf.ppo.batch import Batch
from cool_rlhf.ppo.monitor.guards import logprob_gap
from cool_rlhf.ppo.warmup import CriticWarmup


class Clock:
    """Wall seconds per phase of an iteration: `with clock("rollout"): …`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = time.perf_counter() - start

    @property
    def total(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._start


def push_metrics(report: PushReport | None) -> dict[str, float]:
    """What a weight push moved, and how far engine and trainer are apart after it, if there was
    one."""
    if report is None:
        return {}
    gap = report.probe.max_gap if report.probe else 0.0
    return {"sync/probe_gap": gap, "sync/megabytes": report.bytes / 1e6}


def iteration_metrics(
    batch: Batch, updates: Mapping[str, float], clock: Clock, warmup: CriticWarmup
) -> dict[str, float]:
    """One flat row for metrics.jsonl; all but `timing_s/*` and `perf/*` are reproducible."""
    actions = batch.grid.valid.sum(1).float()
    entropy = batch.grid.gather(batch.entropy)[batch.grid.valid]
    rewards = batch.grid.gather(batch.rewards).sum(1)
    staleness = batch.grid.gather(batch.staleness)[batch.grid.valid].float()
    stopped = sum(t.finish_reason == "stop" for t in batch.trajectories)
    tokens = len(batch.experience.sequences.tokens)
    metrics = {
        **updates,
        "objective/scores": float(batch.scores.mean()),
        "objective/scores_std": float(batch.scores.std(correction=0)),
        "objective/kl": float(batch.kl.mean()),
        "objective/kl_coef": batch.kl_coef,
        "objective/entropy": float(entropy.mean()),
        "objective/rlhf_reward": float(rewards.mean()),
        "rollout/reply_tokens": float(actions.mean()),
        "rollout/stopped_share": stopped / len(batch.trajectories),
        "rollout/resampled": float(batch.resampled),
        "rollout/staleness": float(staleness.mean()),
        "rollout/staleness_max": float(staleness.max()),
        "warmup/critic_only": 0.0 if warmup.open else 1.0,
        "guard/logprob_gap": logprob_gap(batch) or 0.0,
    }
    if batch.full_kl is not None:
        metrics["objective/full_kl"] = float(batch.full_kl.mean())
    if batch.explained_variance is not None:
        metrics["critic/vf_explained_var"] = batch.explained_variance
    metrics |= verifier_metrics(batch) | length_metrics(batch)
    for condition in sorted({t.condition for t in batch.trajectories}):
        rows = [i for i, t in enumerate(batch.trajectories) if t.condition == condition]
        metrics[f"rm/{condition}/score"] = float(batch.scores[rows].mean())
    metrics |= {f"timing_s/{phase}": seconds for phase, seconds in clock.seconds.items()}
    metrics["timing_s/iteration"] = clock.total
    metrics["perf/throughput"] = tokens / clock.total
    return metrics


def shown(metrics: Mapping[str, float]) -> dict[str, float]:
    """What the progress line shows."""
    names = {
        "score": "objective/scores",
        "kl": "objective/kl",
        "tokens": "rollout/reply_tokens",
        "ev": "critic/vf_explained_var",
        "s": "timing_s/iteration",
    }
    return {short: metrics[name] for short, name in names.items() if name in metrics}


def length_metrics(batch: Batch) -> dict[str, float]:
    """Correlation of reward and length, each less its mean under the reply's condition."""
    columns = torch.stack([batch.totals, batch.grid.valid.sum(1).to(batch.totals.dtype)])
    conditions = [t.condition for t in batch.trajectories]
    for condition in set(conditions):
        rows = torch.tensor([condition == other for other in conditions])
        columns[:, rows] -= columns[:, rows].mean(1, keepdim=True)
    deviations = columns.square().mean(1).sqrt()
    if not (deviations > 0).all():
        return {}
    return {"guard/length_correlation": float((columns[0] * columns[1]).mean() / deviations.prod())}


def verifier_metrics(batch: Batch) -> dict[str, float]:
    """Mean reward, and of each verifier its mean score and the share that it could not judge."""
    verdicts: dict[str, list[float | None]] = {}
    for given in batch.verdicts:
        for name, verdict in given.items():
            verdicts.setdefault(name, []).append(verdict.score)
    if not verdicts:
        return {}
    metrics = {"reward/total": float(batch.totals.mean())}
    for name, scores in sorted(verdicts.items()):
        judged = [score for score in scores if score is not None]
        metrics[f"reward/{name}/unjudged"] = 1 - len(judged) / len(scores)
        if judged:
            metrics[f"reward/{name}/score"] = sum(judged) / len(judged)
    return metrics
