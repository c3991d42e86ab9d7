"""Layout pipelined against split: seconds per PPO iteration, on the demo's models.

Same settings and threads for every role, runs in turn. Once the local reward model judges alone,
and once a reward server beside it judges one reply after another, as a remote verifier does: it
costs this machine nothing, and an iteration `--latency` seconds for each reply. On few cores the
first has little to gain, since every core is busy anyway.

    make demo && python benchmarks/ppo_pipelined.py [--latency SECONDS] [--chunks N]

Leave the machine alone meanwhile.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any

from pretrain_core.runs import write_json
from pretrain_core.runs.lineage import hardware, versions

RESULT = Path("benchmarks/results/ppo_pipelined.json")
CONFIG = "configs/ppo/tiny.yaml"
LAYOUTS, REWARDS = ("split", "pipelined"), ("local", "remote")
PHASES = ("rollout", "experience", "update", "push", "iteration")
UNMEASURED = 3
"""Critic-only iterations, which run as in split, and one more."""


@contextmanager
def slow_judge(latency: float) -> Iterator[str]:
    """A server that judges one reply at a time; yields its URL."""
    one_at_a_time = threading.Lock()

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            replies = body["query"]
            with one_at_a_time:
                time.sleep(latency * len(replies))
            answer = json.dumps({"rewards": [0.5] * len(replies)}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/get_reward"
    server.shutdown()
    thread.join()


def measure(
    given: argparse.Namespace, layout: str, url: str | None, seed: int
) -> list[dict[str, float]]:
    """Seconds of the phases of each iteration in which the policy learns."""
    changes = [
        *(f"iterations={given.iterations + UNMEASURED}", "checkpoint_every=1000", "hacks.every=0"),
        *("warmup.iterations=2", "warmup.max_iterations=2", f"run.seed={seed}"),
        *(f"batch.prompts={given.prompts}", "batch.mini_batches=1"),
        # Parts end one after the other where the engine cannot sample all of them at once.
        f"crew.rollout.max_num_seqs={given.prompts // given.chunks}",
        *(f"layout.name={layout}", f"layout.chunks={given.chunks}"),
    ]
    if url is not None:
        changes += [
            f"rewards.verifiers.judge={{kind: remote, url: '{url}', batch: 4}}",
            *(
                f"rewards.weights.{condition}={{rm: 1, verifiers: {{judge: 0.1}}}}"
                for condition in ("brief", "detailed")
            ),
        ]
    with tempfile.TemporaryDirectory() as folder:
        changes += [f"run.root={folder}", "run.name=run"]
        command = [sys.executable, "-m", "cool_rlhf", "ppo", CONFIG, *changes]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines][UNMEASURED:]
    return [{phase: row[f"timing_s/{phase}"] for phase in PHASES} for row in rows]


def medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each phase."""
    return {phase: round(statistics.median(row[phase] for row in rows), 3) for phase in PHASES}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    arguments.add_argument("--latency", type=float, default=0.1, help="seconds for each reply")
    arguments.add_argument("--prompts", type=int, default=64)
    arguments.add_argument("--chunks", type=int, default=4)
    arguments.add_argument("--iterations", type=int, default=6, help="measured, of each repeat")
    arguments.add_argument("--repeats", type=int, default=2)
    arguments.add_argument("--out", type=Path, default=RESULT)
    given = arguments.parse_args()
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    with slow_judge(given.latency) as url:
        for seed, rewards, layout in product(range(1, given.repeats + 1), REWARDS, LAYOUTS):
            found = measure(given, layout, url if rewards == "remote" else None, seed)
            rows.setdefault((rewards, layout), []).extend(found)
            sys.stderr.write(f"{seed} {rewards} {layout}: {medians(found)}\n")
    seconds = {key: medians(found) for key, found in rows.items()}
    result = {
        "machine": hardware(),
        "versions": versions(),
        "settings": {k: v for k, v in vars(given).items() if k != "out"},
        "iterations": len(rows["local", "split"]),
        "median_seconds": {
            rewards: {layout: seconds[rewards, layout] for layout in LAYOUTS} for rewards in REWARDS
        },
        "ratio": {
            rewards: round(
                seconds[rewards, "split"]["iteration"] / seconds[rewards, "pipelined"]["iteration"],
                2,
            )
            for rewards in REWARDS
        },
    }
    write_json(given.out, result)
    sys.stdout.write(f"{json.dumps(result['ratio'])}\n")


if __name__ == "__main__":
    main()
