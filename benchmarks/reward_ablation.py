"""What conditions do: one conditional reward model against its alternatives, over paired seeds.

The same pairs are judged twice: by the people of the file (condition `harmless`), and by a program
that prefers the shorter reply (condition `brief`). Per seed, from the same base and recipe:
*with* (one model, both judgements, conditions read), *wrong* (the same model, read under the
other condition), *without* (both judgements, no conditions), and *apart* (one model per condition;
together they train on what the first one trains on, so the compute is equal).

    python benchmarks/reward_ablation.py --data PAIRS.jsonl[.gz] [--base FOLDER] [--seeds N]

PAIRS: preferences in a format that `cool-rlhf reward data` reads (HH-RLHF, for one). Every training
is a process of its own, and what was trained is kept: a run that was cut off continues.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from random_llama import make_random_llama, texts_of

from pretrain_core.cache import cache_root
from pretrain_core.draws import rng
from pretrain_core.runs import read_json, write_json
from pretrain_core.runs.lineage import hardware, versions
from pretrain_core.settings import load
from reward.conditions import Conditions
from reward.data import Preference, read_preferences
from reward.evaluation.accuracy import groups_of
from reward.evaluation.length import length_differences
from reward.evaluation.scoring import pair_keys, pair_scores, reply_text, wrong_conditions
from reward.intervals import Interval, paired_bootstrap
from reward.model import RewardModel
from reward.settings import RewardTrainSettings
from reward.trainer import train_reward

RESULT = Path("benchmarks/results/reward_ablation.json")
RECIPE = "configs/recipes/reward-tiny.yaml"
CONDITIONS = Path("configs/conditions/demo.yaml")
PEOPLE, PROGRAM = "harmless", "brief"
TRAININGS = {"with": (PEOPLE, PROGRAM), "without": (PEOPLE, PROGRAM)} | {
    f"only {name}": (name,) for name in (PEOPLE, PROGRAM)
}


def both_judgements(record: Preference) -> list[Preference]:
    """The people's judgement, and the program's of the same two replies (none of equal lengths)."""
    people = replace(record, condition=PEOPLE, source="people", annotator=None)
    first, second = (len(reply_text(side).split()) for side in (record.chosen, record.rejected))
    if first == second:
        return [people]
    sides = (record.chosen, record.rejected) if first < second else (record.rejected, record.chosen)
    program = replace(
        people, chosen=sides[0], rejected=sides[1], condition=PROGRAM, source="program"
    )
    return [people, program]


def split(data: Path, words: int, train: int, test: int) -> tuple[list[Preference], ...]:
    """Judgements to train on and held out, of pairs whose sides have at most `words` words."""

    def size(record: Preference) -> int:
        said = sum(len(str(message.content).split()) for message in record.prompt)
        return said + max(len(reply_text(s).split()) for s in (record.chosen, record.rejected))

    records = [r for r in read_preferences(data).records if size(r) <= words]
    if len(records) < train + test:
        sys.exit(
            f"{data}: {len(records)} usable pairs of at most {words} words, not {train + test}"
        )
    order = rng(0, "ablation split").permutation(len(records))
    chosen = [records[int(row)] for row in order[: train + test]]
    parts = (chosen[test:], chosen[:test])
    return tuple([j for record in part for j in both_judgements(record)] for part in parts)


def measure(home: Path, arm: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train one model; which held-out judgements it gets right, also under the wrong condition."""
    train, test = split(given.data, given.words, given.train, given.test)
    conditions = Conditions.load(CONDITIONS)
    settings = load(RewardTrainSettings, RECIPE, given.set).value
    settings = settings.model_copy(update={"use_condition": arm != "without"})
    out = home / f"model {arm} {seed}"
    shutil.rmtree(out, ignore_errors=True)
    begun = time.perf_counter()
    train_reward(
        settings,
        base=given.base or home / "base",
        train=[p for p in train if p.condition in TRAININGS[arm]],
        out=out,
        conditions=conditions,
        seed=seed,
    )
    seconds = time.perf_counter() - begun
    model = RewardModel.load(out)
    found = {
        "seconds": round(seconds, 1),
        "steps": model.card.training["steps"],
        "right": pair_scores(model, test).right.tolist(),
    }
    if arm == "with":
        found["wrong"] = pair_scores(model, test, wrong_conditions(test)).right.tolist()
    shutil.rmtree(out)
    return found


def table(
    test: Sequence[Preference], runs: Sequence[Mapping[str, Mapping[str, Any]]]
) -> dict[str, Any]:
    """Accuracy of each arm per group, means over seeds; differences to *with*, paired.

    A judgement's value is its mean over the seeds; the intervals are over judged pairs. The spread
    over seeds stands beside them.
    """
    people = np.array([p.condition == PEOPLE for p in test])

    def apart(run: Mapping[str, Mapping[str, Any]]) -> np.ndarray:
        rights = [np.array(run[f"only {name}"]["right"]) for name in (PEOPLE, PROGRAM)]
        return np.where(people, rights[0], rights[1])

    right = {
        "with": np.array([run["with"]["right"] for run in runs]),
        "wrong": np.array([run["with"]["wrong"] for run in runs]),
        "without": np.array([run["without"]["right"] for run in runs]),
        "apart": np.array([apart(run) for run in runs]),
    }
    keys = pair_keys(test)
    groups = {n: rows for n, rows in groups_of(test).items() if not n.startswith("source")}

    def shown(values: np.ndarray, rows: list[int]) -> dict[str, float]:
        mine = values[:, rows]
        found: Interval = paired_bootstrap(
            mine.mean(0), seed=0, clusters=[keys[row] for row in rows]
        )
        seeds = mine.mean(1)
        return {
            "mean": round(found.mean, 4),
            "low": round(found.low, 4),
            "high": round(found.high, 4),
            "spread_over_seeds": round(float(seeds.std(ddof=1)), 4) if len(seeds) > 1 else 0.0,
        }

    return {
        group: {
            "judgements": len(rows),
            "accuracy": {arm: shown(values, rows) for arm, values in right.items()},
            "with_minus": {
                arm: shown(right["with"] - right[arm], rows) for arm in right if arm != "with"
            },
        }
        for group, rows in groups.items()
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--base", type=Path, help="default: a random Llama of 1.6M parameters")
    arguments.add_argument("--seeds", type=int, default=8)
    arguments.add_argument("--train", type=int, default=480, help="pairs")
    arguments.add_argument("--test", type=int, default=250, help="pairs")
    arguments.add_argument("--words", type=int, default=100, help="longest side of a pair")
    arguments.add_argument(
        "--set", nargs="*", default=["max_length=512", "epochs=4"], help="of the recipe"
    )
    arguments.add_argument("--out", type=Path, default=RESULT)
    arguments.add_argument("--measure", choices=TRAININGS, help=argparse.SUPPRESS)
    arguments.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    what = [given.data.resolve(), given.base, given.train, given.test, given.words, given.set]
    home = cache_root() / f"reward-ablation-{hashlib.sha256(str(what).encode()).hexdigest()[:8]}"
    train, test = split(given.data, given.words, given.train, given.test)
    if given.measure:
        file = home / f"{given.measure} {given.seed}.json"
        write_json(file, measure(home, given.measure, given.seed, given))
        return
    if given.base is None and not (home / "base" / "config.json").exists():
        make_random_llama(home / "base", texts_of(train), hidden=128, layers=3, heads=4)
    runs: list[dict[str, Any]] = []
    for seed in range(1, given.seeds + 1):
        for arm in TRAININGS:
            if not (home / f"{arm} {seed}.json").exists():
                command = [sys.executable, *sys.argv, "--measure", arm, "--seed", str(seed)]
                subprocess.run(command, check=True)
        runs.append({arm: read_json(home / f"{arm} {seed}.json") for arm in TRAININGS})
    longer = length_differences([p for p in test if p.condition == PEOPLE]) > 0
    result = {
        "machine": hardware(),
        "versions": versions(),
        "base": given.base.name if given.base else "random Llama, made for this",
        "settings": load(RewardTrainSettings, RECIPE, given.set).value.model_dump(mode="json"),
        "seeds": given.seeds,
        "train_judgements": len(train),
        "test_judgements": len(test),
        "longer_wins_for_people": round(float(longer.mean()), 4),
        "seconds": {arm: [run[arm]["seconds"] for run in runs] for arm in TRAININGS},
        "steps": {arm: runs[0][arm]["steps"] for arm in TRAININGS},
        "groups": table(test, runs),
    }
    write_json(given.out, result)
    for group, found in result["groups"].items():
        line = {arm: value["mean"] for arm, value in found["accuracy"].items()}
        sys.stdout.write(f"{group} ({found['judgements']}): {line}\n")


if __name__ == "__main__":
    main()
