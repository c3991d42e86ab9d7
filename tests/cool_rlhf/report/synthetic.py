"""A run directory like that of an online run of two rounds, made without training anything."""

from __future__ import annotations

import logging
import math
import random
from pathlib import Path

from pretrain_core.runs import Run, RunSettings, write_json
from pretrain_core.settings import Settings, load


class Optimiser(Settings):
    learning_rate: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.95)


class Recipe(Settings):
    iterations: int = 40
    optimiser: Optimiser = Optimiser()
    run: RunSettings = RunSettings()


def log_ppo(run: Run, iterations: int, seed: int) -> None:
    """Metrics of the usual names, drifting as PPO's do."""
    draw = random.Random(seed)
    for step in range(iterations):
        share = step / iterations
        run.log(
            step,
            {
                "objective/scores": -0.4 + 1.3 * share + draw.gauss(0, 0.08),
                "objective/kl": 6 * share**1.5 + draw.gauss(0, 0.05),
                "objective/entropy": 3 - share + draw.gauss(0, 0.05),
                "policy/clipfrac_avg": abs(draw.gauss(0.06, 0.02)),
                "policy/learning_rate": 1e-5,
                "loss/policy_avg": draw.gauss(-0.01, 0.01),
                "loss/value_avg": 0.4 * math.exp(-3 * share) + abs(draw.gauss(0, 0.02)),
                "loss/pretrain_avg": math.nan if step < 3 else 4.1 + draw.gauss(0, 0.02),
                "critic/vf_explained_var": 1 - math.exp(-4 * share),
                "guard/logprob_gap_mean": abs(draw.gauss(2e-5, 5e-6)),
                "sync/seconds": abs(draw.gauss(0.1, 0.01)),
                "timing_s/rollout": abs(draw.gauss(2.0, 0.2)),
                "timing_s/update": abs(draw.gauss(3.1, 0.2)),
                "timing_s/push": abs(draw.gauss(0.1, 0.02)),
            },
        )


def online_run(root: Path) -> Run:
    """Write the run directory and return the run."""
    config = root / "tiny.yaml"
    config.write_text("iterations: 25\noptimiser:\n  learning_rate: 1e-5\n", encoding="utf-8")
    settings = RunSettings(root=root, name="demo")
    resolved = load(Recipe, config, ["optimiser.betas=[0.9, 0.99]"])
    (root / "sft").mkdir()
    (root / "sft" / "config.json").write_text("{}", encoding="utf-8")
    run = Run.create(settings, resolved, kind="online", parents={"sft": root / "sft"})
    run.record(engine="vllm")
    for number in (1, 2):
        with run.phase(f"round {number}: ppo"):
            inner = Run.create(
                RunSettings(root=run.path / "rounds", name=str(number), seed=number),
                None,
                kind="ppo",
            )
            with inner, inner.phase("checkpoint"):
                log_ppo(inner, 25, number)
        write_json(
            run.path / "rounds" / str(number) / "gate.json",
            {
                "verdict": "pass" if number == 1 else "undecided",
                "promoted": number == 1,
                "margin": 0.05,
                "comparisons": {"old": {"mean": 0.0123, "low": -0.021, "high": 0.044, "n": 240}},
            },
        )
    logging.getLogger("cool_rlhf").warning("2 prompts were longer than the context: left out")
    write_json(
        run.path / "stages.json",
        {
            "columns": ["stage", "gold score", "gain over SFT [95 %]", "KL (nats)", "text loss"],
            "rows": [
                ["SFT", "0.102", "-", "0.000", "4.0312"],
                ["round 1", "0.331", "+0.229 [0.161, 0.297]", "4.218", "4.0402"],
                ["round 2", "0.418", "+0.316 [0.240, 0.391]", "6.930", "4.0611"],
            ],
        },
    )
    write_json(
        run.path / "samples.json",
        [
            {
                "prompt": f"Write a short and <b>warm</b> message about the state of the year {n}.",
                "condition": "helpful" if n % 2 else "harmless",
                "before": "The year was such as it was, and the Congress of the States met in it.",
                "after": "The year was good, and the Congress of the happy States met in peace.\n"
                "<script>alert('never')</script>",
                "score_before": 0.1 + n / 50,
                "score_after": 0.9 - n / 8,
            }
            for n in range(9)
        ],
    )
    run.close()
    return run
