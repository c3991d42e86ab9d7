"""What each part of PPO does, on the demo's models: one factor at a time from one baseline.

On what `make demo` leaves in the cache. Every arm of a seed begins with the same SFT model; its
last policy answers held-out prompts, each with the same draws in every arm. Measured: gold (what
the demo's annotators say under the prompt's own condition), the score of the conditional reward
model, KL to the SFT model, loss on held-out text (the alignment tax), and how much of the returns
the critic explains in the first iterations in which the policy moves. Differences to the baseline
of the same seed, with intervals over seeds.

    make demo && python benchmarks/ppo_ablations.py [--seeds N …] [--arms NAME …]

Each seed is stored in the result as soon as it is done, and
what the result has is not made again: days later or on another machine, with that machine's demo,
the benchmark goes on. What is compared is always of one seed, and so of one machine.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from demo_gold import gold_of
from transformers import AutoTokenizer

from actors.crew import Crew
from actors.placement import RaySession, RaySettings, start_ray
from cool_rlhf.hacks.judges import Judge
from cool_rlhf.hacks.samples import Sample
from cool_rlhf.ppo.build import train_ppo
from cool_rlhf.ppo.evaluation.job import Examination, evaluate_policy
from cool_rlhf.ppo.evaluation.settings import EvaluationSettings
from cool_rlhf.ppo.sampling.prompts import Prompt, PromptSettings, read_prompts
from cool_rlhf.ppo.settings import PPOSettings
from pretrain_core.cache import cache_root
from pretrain_core.chat import PolicyChat
from pretrain_core.runs import Run, StopSignal, read_json, write_json
from pretrain_core.runs.lineage import hardware, versions
from pretrain_core.settings import Resolved, load
from reward.card import read_conditions
from reward.intervals import paired_bootstrap

RESULT = Path("benchmarks/results/ppo_ablations.json")
CONFIG = "configs/ppo/tiny.yaml"
BASELINE, SFT = "baseline", "sft"
ARMS: dict[str, list[str]] = {
    BASELINE: [],
    "no critic-only iterations": ["warmup.iterations=0", "warmup.max_iterations=0"],
    "critic from the policy": ["critic_init=policy"],
    "critic reads the condition": ["crew.critic.reads_condition=true"],
    "no text": ["pretrain=null", "crew.policy.ptx_coef=0"],
    "KL 0": ["algorithm.kl_coef=0"],
    "KL 0.1": ["algorithm.kl_coef=0.1"],
    "no conditions": ["reward_model=cache:demo/reward_unconditional"],
    "second round, policy goes on": [],
    "second round, from SFT": [],
}
SECOND = {"second round, policy goes on": True, "second round, from SFT": False}
"""With other prompts than the baseline; whether its policy is begun with."""
MEASURED = ("gold", "score", "kl", "text_loss", "explained")
FIRST_MOVES = 5
Row = dict[str, Any]


def settings_of(home: Path, arm: str, seed: int) -> PPOSettings:
    """Of one run; the second rounds draw other prompts, by another seed."""
    number = seed + 1000 if arm in SECOND else seed
    changes = [*ARMS[arm], "hacks.every=0", "checkpoint_every=1000", f"run.seed={number}"]
    if SECOND.get(arm):
        changes.append(f"initial_policy={policy_of(home, BASELINE)}")
    changes += [f"run.root={home}", f"run.name={arm}"]
    return load(PPOSettings, CONFIG, changes).value


def policy_of(home: Path, arm: str) -> Path:
    """The last policy of a run that has ended."""
    return max((home / arm / "checkpoints").glob("*/policy"))


class Crews:
    """Actors for every way to set them up, each started once."""

    def __init__(self, session: RaySession, stack: ExitStack) -> None:
        self._session, self._stack = session, stack
        self._crews: dict[str, Crew] = {}

    def of(self, settings: PPOSettings) -> Crew:
        key = settings.crew.model_dump_json()
        if key not in self._crews:
            crew = Crew(settings.crew, self._session.borrowed(), engines=True)
            self._crews[key] = self._stack.enter_context(closing(crew))
        return self._crews[key]


def examine(policy: Path, prompts: Sequence[Prompt], gold: Judge, seed: int) -> Row:
    """Means over held-out prompts, one reply to each."""
    demo, settings = cache_root() / "demo", load(PPOSettings, CONFIG).value
    asked = Examination(
        settings=EvaluationSettings(
            prompts=demo / "held_out_prompts.jsonl", text=demo / "held_out_text", text_tokens=30_000
        ),
        prompts=tuple(prompts),
        reference=demo / "sft",
        reward_model=str(demo / "reward"),
        sampling=settings.sampling,
        rollout=settings.crew.rollout,
        seed=seed,
    )
    found = evaluate_policy(asked, policy)
    rows = found["samples"]
    said = [
        Sample(p.id, p.messages, row["reply"], p.condition)
        for p, row in zip(prompts, rows, strict=True)
    ]
    scores = [row["score"] for row in rows if row["score"] is not None]
    return {
        "gold": float(gold(said).mean()),
        "score": float(np.mean(scores)),
        "kl": float(np.mean([row["kl"] for row in rows])),
        "text_loss": found["text_loss"],
        "tokens": float(np.mean([row["tokens"] for row in rows])),
    }


def run_arm(home: Path, arm: str, seed: int, crews: Crews) -> Row:
    """Train; what its own metrics say."""
    settings = settings_of(home, arm, seed)
    shutil.rmtree(home / arm, ignore_errors=True)
    run = Run.create(settings.run, Resolved.of(settings), kind="ppo")
    with StopSignal("python benchmarks/ppo_ablations.py") as stop:
        train_ppo(settings, run, crews.of(settings), stop)
    rows = [row for row in run.metrics() if not row["warmup/critic_only"]]
    explained = [row["critic/vf_explained_var"] for row in rows[:FIRST_MOVES]]
    return {"explained": float(np.mean(explained)), "moves": len(rows)}


def run_seed(
    home: Path, seed: int, arms: Sequence[str], prompts: Sequence[Prompt], crews: Crews
) -> dict[str, Row]:
    """All arms of one seed, and the SFT model beside them."""
    demo = cache_root() / "demo"
    gold = gold_of(demo)
    found = {SFT: examine(demo / "sft", prompts, gold, seed)}
    for arm in arms:
        trained = run_arm(home, arm, seed, crews)
        found[arm] = trained | examine(policy_of(home, arm), prompts, gold, seed)
        sys.stderr.write(f"seed {seed}, {arm}: {found[arm]}\n")
    shutil.rmtree(home)
    return found


def table(seeds: Mapping[str, Mapping[str, Row]]) -> dict[str, Any]:
    """Means over seeds, and differences to the baseline of the same seed, with intervals."""
    arms = [arm for arm in (SFT, *ARMS) if all(arm in rows for rows in seeds.values())]
    return {
        arm: {
            name: {
                "mean": round(float(np.mean([rows[arm][name] for rows in seeds.values()])), 4),
                "less_baseline": interval(
                    [rows[arm][name] - rows[BASELINE][name] for rows in seeds.values()]
                ),
            }
            for name in MEASURED
            if all(name in rows[arm] for rows in seeds.values())
        }
        for arm in arms
    }


def interval(values: Sequence[float]) -> list[float]:
    """[mean, low, high], 95 %."""
    found = paired_bootstrap(values, seed=0)
    return [round(value, 4) for value in (found.mean, found.low, found.high)]


def held_out_prompts() -> Sequence[Prompt]:
    """The demo's, with their conditions."""
    demo = cache_root() / "demo"
    chat = PolicyChat(AutoTokenizer.from_pretrained(demo / "sft"))
    limit = load(PPOSettings, CONFIG).value.prompts.max_tokens
    source = PromptSettings(path=demo / "held_out_prompts.jsonl", max_tokens=limit)
    return list(read_prompts(source, chat, read_conditions(demo / "reward")))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    arguments.add_argument("--seeds", type=int, nargs="*", default=list(range(1, 9)))
    arguments.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    arguments.add_argument("--out", type=Path, default=RESULT)
    given = arguments.parse_args()
    arms = [arm for arm in ARMS if arm in given.arms or arm == BASELINE]
    stored = read_json(given.out) if given.out.exists() else {"seeds": {}}
    prompts = held_out_prompts()
    with ExitStack() as stack:
        session = stack.enter_context(start_ray(RaySettings(logical_cpus=32)))
        crews = Crews(session, stack)
        for seed in given.seeds:
            if str(seed) in stored["seeds"]:
                continue
            home = cache_root() / "ppo-ablations" / str(seed)
            rows = run_seed(home, seed, arms, prompts, crews)
            stored["seeds"][str(seed)] = {"machine": hardware(), "arms": rows}
            seeds = {name: found["arms"] for name, found in stored["seeds"].items()}
            result = {"versions": versions(), "prompts": len(prompts), "table": table(seeds)}
            write_json(given.out, stored | result)
    for arm, row in read_json(given.out)["table"].items():
        line = {name: value["less_baseline"] for name, value in row.items()}
        sys.stdout.write(f"{arm}: {line}\n")


if __name__ == "__main__":
    main()
