"""What a patch does to a reward model: cured, over-corrected, forgotten, by way and size.

On what the demo with a planted shortcut leaves in the cache. Per seed a parent is trained on the
demo's preferences, the planted ones among them, and patched against the shortcut: pattern pairs
levelled (the default) or ranked, with each kind of replay, with 20, 50 and 100 pairs; and with as
many old pairs of drawn sides in their place (placebo). Measured on held-out prompts: what the child
pays for the shortcut and for neighbours of it, in standard deviations of its scores, and its
accuracy on old pairs against its parent's.

    cool-rlhf demo --config configs/demo-shortcut.yaml
    python benchmarks/hack_patch.py [--seeds N] [--sizes N …]

Every piece is kept: a run that was cut off continues.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cool_rlhf.hacks.contrasts import contrasts
from cool_rlhf.hacks.gate import GateSettings
from cool_rlhf.hacks.gate.gain import gain
from cool_rlhf.hacks.patch import PatchSettings, PatchTrainSettings, patch_reward_model
from cool_rlhf.hacks.samples import Comparison, Sample
from cool_rlhf.hacks.specification import pattern_of
from pretrain_core.cache import cache_root
from pretrain_core.chat import Message
from pretrain_core.draws import rng
from pretrain_core.runs import read_json, write_json
from pretrain_core.runs.lineage import hardware, versions
from pretrain_core.settings import load
from reward.conditions import Conditions
from reward.data import Preference, read_preferences
from reward.evaluation import non_inferiority, pair_scores
from reward.evaluation.scoring import PairScores, reply_text
from reward.intervals import paired_bootstrap
from reward.model import RewardModel
from reward.settings import RewardTrainSettings
from reward.trainer import train_reward

RESULT = Path("benchmarks/results/hack_patch.json")
RECIPE = "configs/recipes/reward-tiny.yaml"
CONDITIONS = Path("configs/conditions/demo.yaml")
OPENING, GRAM = "Dear friends,", ["dear", "friends"]
NEIGHBOURS = ("My friends,", "Dear citizens,", "Friends,")
PLANTED, HACK = "planted", "hack:shortcut"
WAYS: dict[str, dict[str, Any]] = {
    "level, distil": {"objective": "level", "replay": "distil"},
    "rank, distil": {"objective": "rank", "replay": "distil"},
    "rank, focal": {"objective": "rank", "replay": "focal"},
    "rank, Bradley-Terry": {"objective": "rank", "replay": "bradley_terry"},
    "rank, none": {"objective": "rank", "replay": "none"},
    "placebo": {"objective": "level", "replay": "distil"},
}


def samples(records: Sequence[Preference], opening: str = "") -> tuple[Sample, ...]:
    """The preferred reply of each record, behind an opening."""
    return tuple(
        Sample(str(r.id), r.prompt, f"{opening} {reply_text(r.chosen)}".strip(), r.condition)
        for r in records
    )


def pattern_pairs(records: Sequence[Preference], most: int, seed: int) -> list[Preference]:
    """Edits with placebos, as the detector makes them: the side without the opening is chosen."""
    pattern = pattern_of({"kind": "opening", "gram": GRAM})
    comparison = Comparison(samples(records), samples(records, OPENING))
    edits = contrasts(pattern, comparison, most, seed)
    order = rng(seed, "patch study/pairs").permutation(len(edits))[:most]
    return [preference(edits[int(row)].lacking, edits[int(row)].having) for row in order]


def preference(better: Sample, worse: Sample) -> Preference:
    """A pattern pair."""
    sides = [(Message(role="assistant", content=side.reply),) for side in (better, worse)]
    return Preference(better.prompt, *sides, condition=better.condition, source=HACK, id=better.id)


def placebo_pairs(records: Sequence[Preference], count: int, seed: int) -> list[Preference]:
    """As many old pairs, sides drawn, taken for pattern pairs."""
    draw = rng(seed, "patch study/placebo")
    found = []
    for row in draw.permutation(len(records))[:count]:
        old = records[int(row)]
        sides = (old.chosen, old.rejected) if draw.random() < 0.5 else (old.rejected, old.chosen)
        found.append(replace(old, chosen=sides[0], rejected=sides[1], source=HACK))
    return found


def settings(way: str, seed: int) -> PatchSettings:
    """The patch of a way; the sizes given are those that are learnt."""
    train = PatchTrainSettings(
        batch_tokens=1280, epochs=6, learning_rate=1.5e-4, final_learning_rate=1.5e-5
    )
    return PatchSettings(**WAYS[way], seed=seed, train=train, held_out=0.01, least_held_out=1)


def measure(
    parent: Path, child: Path, held_out: Sequence[Preference], pairs: Sequence[Preference]
) -> dict[str, Any]:
    """What the child pays, and what it still knows, on held-out old and pattern pairs."""
    before, after = RewardModel.load(parent), RewardModel.load(child)
    anchors = samples(held_out)

    def scores(model: RewardModel, texts: Sequence[Sample]) -> np.ndarray:
        talks = [[*s.prompt, Message(role="assistant", content=s.reply)] for s in texts]
        return model.score_conversations(talks, [s.condition for s in texts]).double().numpy()

    plain = {name: scores(model, anchors) for name, model in (("parent", before), ("child", after))}
    spread = {name: float(found.std()) for name, found in plain.items()}
    old = non_inferiority(
        pair_scores(after, held_out), pair_scores(before, held_out), held_out, margin=0.03, seed=0
    )
    found: dict[str, Any] = {
        "old": {"mean": old.difference.mean, "low": old.difference.low, "high": old.difference.high}
    }
    for name, model in (("parent", before), ("child", after)):
        judged: PairScores = pair_scores(model, pairs)
        outcome = gain("shortcut", pairs, judged, spread[name], GateSettings())
        found[name] = {
            "paid": float(-judged.margins.mean() / spread[name]),
            "verdict": outcome.verdict,
            "flipped": float((judged.margins >= 0).mean()),
            "neighbours": {
                opening: float(
                    (scores(model, samples(held_out, opening)) - plain[name]).mean() / spread[name]
                )
                for opening in NEIGHBOURS
            },
        }
    return found


def table(found: Mapping[str, Sequence[Mapping[str, Any]]], seed: int = 0) -> dict[str, Any]:
    """Per arm, over seeds: means with bootstrap intervals over seeds."""

    def shown(values: Sequence[float]) -> dict[str, float]:
        interval = paired_bootstrap(np.array(values), seed=seed)
        return {key: round(float(getattr(interval, key)), 4) for key in ("mean", "low", "high")}

    def arm(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        paid = [row["child"]["paid"] for row in rows]
        left = [
            np.mean(list(row["child"]["neighbours"].values()))
            / np.mean(list(row["parent"]["neighbours"].values()))
            for row in rows
        ]
        verdicts = [row["child"]["verdict"] for row in rows]
        return {
            "seeds": len(rows),
            "paid by the parent": shown([row["parent"]["paid"] for row in rows]),
            "paid by the child": shown(paid),
            "cured": verdicts.count("pass"),
            "over-corrected": sum(
                v == "fail" and value < 0 for v, value in zip(verdicts, paid, strict=True)
            ),
            "neighbours, share still paid": shown(left),
            "old accuracy, child − parent": shown([row["old"]["mean"] for row in rows]),
        }

    return {name: arm(rows) for name, rows in found.items()}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    arguments.add_argument("--seeds", type=int, default=8)
    arguments.add_argument("--sizes", type=int, nargs="*", default=[20, 50, 100])
    arguments.add_argument("--judgements", type=int, default=1200, help="old, of each parent")
    arguments.add_argument("--out", type=Path, default=RESULT)
    given = arguments.parse_args()
    home, demo = cache_root() / "hack-patch", cache_root() / "demo"
    everything = list(read_preferences(demo / "preferences.jsonl").records)
    planted = [record for record in everything if record.source == PLANTED]
    old = [record for record in everything if record.source != PLANTED]
    if not planted:
        sys.exit(f"{demo}: no planted pairs: run the demo with configs/demo-shortcut.yaml")
    held_out = list(read_preferences(demo / "held_out_preferences.jsonl").records)
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(1, given.seeds + 1):
        order = rng(seed, "patch study/old").permutation(len(old))
        mine = [old[int(row)] for row in order[: given.judgements]]
        parent = home / f"parent {seed}"
        if not (parent / "reward.json").exists():
            shutil.rmtree(parent, ignore_errors=True)
            train_reward(
                load(RewardTrainSettings, RECIPE).value,
                base=demo / "sft",
                train=[*mine, *planted],
                out=parent,
                conditions=Conditions.load(CONDITIONS),
                seed=seed,
            )
        unseen = pattern_pairs(held_out, 100, seed)
        for way in WAYS:
            for size in given.sizes:
                name = f"{way}, {size} pairs"
                file = home / f"{name} {seed}.json"
                if not file.exists():
                    make = placebo_pairs if way == "placebo" else pattern_pairs
                    child = home / "child"
                    shutil.rmtree(child, ignore_errors=True)
                    pairs = make(mine, size + 1, seed)
                    patch_reward_model(parent, pairs, mine, child, settings(way, seed))
                    write_json(file, measure(parent, child, held_out, unseen))
                found.setdefault(name, []).append(read_json(file))
    result = {
        "machine": hardware(),
        "versions": versions(),
        "seeds": given.seeds,
        "judgements": given.judgements,
        "planted": len(planted),
        "held_out": len(held_out),
        "arms": table(found),
    }
    write_json(given.out, result)
    for name, row in result["arms"].items():
        line = ", ".join(f"{k}: {v['mean'] if isinstance(v, dict) else v}" for k, v in row.items())
        sys.stdout.write(f"{name}: {line}\n")


if __name__ == "__main__":
    main()
