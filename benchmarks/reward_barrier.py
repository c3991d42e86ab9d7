"""What the log barrier does to a reward model's scores, and to the PPO that maximises them.

Three parts, on the artefacts that `make demo` leaves in the cache:

- *scale*: five reward models with the barrier and five without, by seed: mean and spread of scores;
- *ppo*: the same PPO settings against each of the ten: score and KL by iteration;
- *return*: from scores at ±8, training with the barrier, with a clamped one (no gradient outside
  the band), and with none. *Moved*: all scores around +8, or around -8. *Stretched*: pairs that are
  ranked right with both sides outside the band, so that nothing but the penalty can move them.

    make demo && python benchmarks/reward_barrier.py [--seeds N] [--iterations N]

Draws docs/pictures/reward-barrier-*.svg. Every piece is kept: a run that was cut off continues.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pictures import save

from pretrain_core.cache import cache_root
from pretrain_core.runs import Run, read_json, write_json
from pretrain_core.runs.figures import line_chart
from pretrain_core.runs.lineage import hardware, versions
from pretrain_core.runs.run import RunSettings
from pretrain_core.settings import load
from reward.conditions import Conditions
from reward.data import Preference, read_preferences
from reward.evaluation.scoring import pair_scores
from reward.model import RewardModel
from reward.settings import Penalty, RewardTrainSettings
from reward.trainer import train_reward

Rows = list[dict[str, Any]]
Curve = list[tuple[float, float]]

RESULT = Path("benchmarks/results/reward_barrier.json")
RECIPE = "configs/recipes/reward-tiny.yaml"
WITH_AND_WITHOUT: tuple[Penalty, ...] = ("barrier", "none")
ALL: tuple[Penalty, ...] = ("barrier", "clamped_barrier", "none")
NAMES = {"barrier": "barrier", "clamped_barrier": "clamped barrier", "none": "no barrier"}
START = 8.0
CLEAREST, OUTSIDE = 0.1, 5.5  # share of the pairs that are stretched, and how far all of them are
SLOW = 5.0e-5  # at the recipe's rate the ranking loss alone throws the mean about by whole points


def recipe(penalty: Penalty, **changes: Any) -> RewardTrainSettings:
    """The tiny recipe with this penalty; every step logged, for the curves."""
    overrides = [f"loss.penalty={penalty}", "log_every=1"]
    return load(RewardTrainSettings, RECIPE, overrides).value.model_copy(update=changes)


def train(
    home: Path, name: str, settings: RewardTrainSettings, base: Path, seed: int, records: Any
) -> tuple[Path, Rows]:
    """A reward model, and the metrics of its training."""
    out, log = home / name, home / f"{name}.json"
    if not log.exists():
        shutil.rmtree(out, ignore_errors=True)
        run = Run.create(RunSettings(root=home / "runs", seed=seed), None, kind="reward")
        train_reward(
            settings,
            base=base,
            train=records,
            out=out,
            conditions=Conditions.load(Path("configs/conditions/demo.yaml")),
            run=run,
            seed=seed,
        )
        write_json(log, metrics(run.path))
    return out, read_json(log)


def metrics(run: Path) -> Rows:
    """Rows of a run's metrics."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().split("\n") if line]


def scale(model: RewardModel, held_out: list[Preference]) -> dict[str, float]:
    """Scores of both sides of the held-out pairs."""
    found = pair_scores(model, held_out)
    return {
        "accuracy": round(float(found.right.mean()), 4),
        "mean": round(float(found.both.mean()), 3),
        "std": round(float(found.both.std()), 3),
        "largest": round(float(np.abs(found.both).max()), 3),
        "outside_band": round(float((np.abs(found.both) > 5).mean()), 4),
    }


def ppo(home: Path, name: str, model: Path, iterations: int) -> Rows:
    """Score, KL and reply length by iteration of PPO on the demo's models against this one."""
    file = home / f"ppo {name}.json"
    if not file.exists():
        root = home / "ppo"
        shutil.rmtree(root / name.replace(" ", "-"), ignore_errors=True)
        command = [
            str(Path(sys.executable).with_name("cool-rlhf")),
            *("ppo", "configs/ppo/tiny.yaml", f"reward_model={model}", f"iterations={iterations}"),
            *(f"run.root={root}", f"run.name={name.replace(' ', '-')}"),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        kept = ("objective/scores", "objective/kl", "rollout/reply_tokens")
        rows = metrics(root / name.replace(" ", "-"))
        write_json(file, [{key: row[key] for key in kept} for row in rows])
    return list(read_json(file))


def moved(source: Path, out: Path, records: list[Preference], centre: float) -> Path:
    """The model with its head turned so that the mean score of these records is `centre`."""
    if out.exists():
        return out
    model = RewardModel.load(source)
    seen: list[torch.Tensor] = []
    hook = model.network.score.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].detach().float())
    )
    mean = float(pair_scores(model, records).both.mean())
    hook.remove()
    hidden = torch.cat([part.reshape(-1, part.shape[-1]) for part in seen]).mean(0)
    with torch.no_grad():
        model.network.score.weight += (centre - mean) * hidden / hidden.square().sum()
    model.save(out, parents={}, training=model.card.training)
    return out


def stretched(
    source: Path, out: Path, records: list[Preference], size: float
) -> tuple[Path, list[Preference]]:
    """The model with a longer head, and the pairs that it ranks right from outside the band.

    The head is scaled until these pairs' scores have the mean size `size`.
    """
    model = RewardModel.load(source)
    found = pair_scores(model, records)
    nearer = np.minimum(found.chosen, -found.rejected)
    rows = np.flatnonzero(nearer > np.quantile(nearer, 1 - CLEAREST))
    factor = size / float(found.margins[rows].mean() / 2)
    if nearer[rows].min() * factor <= OUTSIDE:
        sys.exit(f"{source} is unsure of its clearest pairs: {nearer[rows].min() * factor:.1f}")
    with torch.no_grad():
        model.network.score.weight *= factor
    if not out.exists():
        model.save(out, parents={}, training=model.card.training)
    return out, [records[row] for row in rows]


def mean_scores(rows: Rows, sign: int = 1) -> Curve:
    """Mean score of both sides by step; with sign -1, that of the rejected side turned round."""
    return [
        (row["step"], (row["rewards/chosen"] + sign * row["rewards/rejected"]) / 2)
        for row in rows
        if "rewards/chosen" in row
    ]


def spread(values: list[float]) -> dict[str, float]:
    """Mean, standard deviation and their ratio over seeds."""
    mean, std = float(np.mean(values)), float(np.std(values, ddof=1))
    return {
        "mean": round(mean, 3),
        "std": round(std, 3),
        "relative": round(std / max(abs(mean), 1e-9), 3),
    }


def train_models(
    home: Path, base: Path, seeds: int, epochs: int, records: list[Preference]
) -> dict[str, dict[int, Path]]:
    """Penalty → seed → model, from the same base and judgements."""
    return {
        penalty: {
            seed: train(
                home, f"{penalty} {seed}", recipe(penalty, epochs=epochs), base, seed, records
            )[0]
            for seed in range(1, seeds + 1)
        }
        for penalty in WITH_AND_WITHOUT
    }


def return_moved(home: Path, model: Path, records: list[Preference]) -> dict[str, Curve]:
    """Mean score by step, for each penalty and each start outside the band."""
    found = {}
    for centre in (START, -START):
        base = moved(model, home / f"moved {centre:+g}", records[:100], centre)
        for penalty in ALL:
            settings = recipe(penalty, learning_rate=SLOW, final_learning_rate=SLOW)
            _, rows = train(home, f"return {centre:+g} {penalty}", settings, base, 1, records)
            found[f"{NAMES[penalty]}, from {centre:+g}"] = mean_scores(rows)
    return found


def return_stretched(home: Path, model: Path, records: list[Preference]) -> dict[str, Curve]:
    """Mean size of the scores of pairs already ranked right by step, for each penalty."""
    found = {}
    base, settled = stretched(model, home / "stretched", records, START)
    for penalty in ALL:
        settings = recipe(
            penalty,
            epochs=4,
            learning_rate=SLOW,
            final_learning_rate=SLOW,
            condition_dropout=0.0,  # without its condition a pair may stand inside the band
        )
        _, rows = train(home, f"return stretched {penalty}", settings, base, 1, settled)
        found[NAMES[penalty]] = mean_scores(rows, sign=-1)
    return found


def over_seeds(scales: list[dict[str, float]], runs: list[Rows]) -> dict[str, dict[str, float]]:
    """How much the models of one penalty differ, and what PPO makes of them."""
    last = [float(np.mean([row["objective/kl"] for row in rows[-3:]])) for rows in runs]
    return {
        "scale (std of scores)": spread([found["std"] for found in scales]),
        "mean of scores": spread([found["mean"] for found in scales]),
        "accuracy": spread([found["accuracy"] for found in scales]),
        "KL of the last three iterations": spread(last),
    }


def draw_ppo(name: str, key: str, runs: dict[str, list[Rows]]) -> None:
    """Mean and range over the models of each penalty, by iteration."""
    means: dict[str, Curve] = {}
    ranges: dict[str, list[tuple[float, float, float]]] = {}
    for penalty, found in runs.items():
        values = np.array([[row[key] for row in rows] for rows in found])
        means[NAMES[penalty]] = list(enumerate(values.mean(0).tolist()))
        low, high = values.min(0).tolist(), values.max(0).tolist()
        ranges[NAMES[penalty]] = list(zip(range(len(low)), low, high, strict=True))
    title = f"PPO against each model: {name}, mean and range"
    save(f"reward-barrier-ppo-{name}", line_chart(means, title, "iteration", name, ranges))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--iterations", type=int, default=12, help="of each PPO")
    arguments.add_argument("--judgements", type=int, default=700, help="of each training")
    arguments.add_argument("--epochs", type=int, default=3, help="until scores reach the band")
    arguments.add_argument("--out", type=Path, default=RESULT)
    given = arguments.parse_args()
    home, demo = cache_root() / "reward-barrier", cache_root() / "demo"
    all_records = list(read_preferences(demo / "preferences.jsonl").records)
    records = all_records[: given.judgements]
    held_out = list(read_preferences(demo / "held_out_preferences.jsonl").records)
    models = train_models(home, demo / "sft", given.seeds, given.epochs, records)
    moved_lines = return_moved(home, models["barrier"][1], records)
    stretched_lines = return_stretched(home, models["barrier"][1], all_records)
    scales = {p: [scale(RewardModel.load(m), held_out) for m in models[p].values()] for p in models}
    runs = {
        penalty: [ppo(home, f"{penalty} {n}", m, given.iterations) for n, m in found.items()]
        for penalty, found in models.items()
    }
    result = {
        "machine": hardware(),
        "versions": versions(),
        "judgements": len(records),
        "epochs": given.epochs,
        "models": scales,
        "ppo": runs,
        "return": {"moved": moved_lines, "stretched": stretched_lines},
        "over_seeds": {p: over_seeds(scales[p], runs[p]) for p in models},
    }
    write_json(given.out, result)
    save(
        "reward-barrier-moved",
        line_chart(moved_lines, "Scores moved out of the band", "step", "mean score"),
    )
    title = "Scores stretched out of the band"
    save(
        "reward-barrier-stretched",
        line_chart(stretched_lines, title, "step", "mean size of a score"),
    )
    draw_ppo("score", "objective/scores", runs)
    draw_ppo("kl", "objective/kl", runs)
    sys.stdout.write(json.dumps(result["over_seeds"], indent=1) + "\n")


if __name__ == "__main__":
    main()
