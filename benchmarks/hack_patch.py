"""What a patch does to a reward model: cured, over-corrected, forgotten, by way and size.

On the preferences that `make demo` leaves in the cache, with a random Llama of 1.6M parameters. Per
seed a parent is trained on them and on planted pairs, which pay for an opening whatever follows; it
is patched against the opening with 20, 50 and 100 pairs: levelled (the default) or ranked, with
each kind of replay, and with 100 old pairs of drawn sides in their place (placebo). Measured on
held-out prompts: what the child pays for the opening and for neighbours of it, in standard
deviations of its scores, and its accuracy on old pairs against its parent's.

    make demo && python benchmarks/hack_patch.py [--seeds N] [--sizes N …]

Draws docs/pictures/hack-patch-*.svg. Every piece is kept: a run that was cut off continues.
"""

import argparse
import hashlib
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from pictures import save
from random_llama import make_random_llama, texts_of

from cool_rlhf.demo.settings import ShortcutSettings
from cool_rlhf.demo.shortcut import planted_preferences, with_opening
from cool_rlhf.hacks.contrasts import contrasts
from cool_rlhf.hacks.gate import GateSettings
from cool_rlhf.hacks.gate.gain import gain
from cool_rlhf.hacks.patch import PatchSettings, patch_reward_model
from cool_rlhf.hacks.patterns.specification import pattern_of
from cool_rlhf.hacks.samples import Comparison, Sample
from cool_rlhf.online.settings import FastPathSettings
from pretrain_core.cache import cache_root
from pretrain_core.chat import Message
from pretrain_core.draws import rng
from pretrain_core.runs import read_json, write_json
from pretrain_core.runs.figures import Band, interval_chart
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
RECIPE, FAST_PATH = "configs/recipes/reward-tiny.yaml", "configs/recipes/fast-path-tiny.yaml"
CONDITIONS = Path("configs/conditions/demo.yaml")
GRAM = ["dear", "friends"]
SHORTCUT = ShortcutSettings(opening="Dear friends,", pairs=40)
NEIGHBOURS = tuple(
    ShortcutSettings(opening=text) for text in ("My friends,", "Dear citizens,", "Friends,")
)
HACK, WITHOUT = "hack:shortcut", "rank, none"
WAYS: dict[str, dict[str, Any]] = {
    "level, distil": {"objective": "level", "replay": "distil"},
    "rank, distil": {"objective": "rank", "replay": "distil"},
    "rank, focal": {"objective": "rank", "replay": "focal"},
    "rank, Bradley-Terry": {"objective": "rank", "replay": "bradley_terry"},
    WITHOUT: {"objective": "rank", "replay": "none"},
    "placebo": {"objective": "level", "replay": "distil"},
}


def samples(
    records: Sequence[Preference], shortcut: ShortcutSettings | None = None
) -> tuple[Sample, ...]:
    """The preferred reply of each record, behind an opening."""

    def said(record: Preference) -> str:
        reply = reply_text(record.chosen)
        return with_opening(reply, shortcut) if shortcut else reply

    return tuple(Sample(str(r.id), r.prompt, said(r), r.condition) for r in records)


def planted(records: Sequence[Preference], seed: int) -> list[Preference]:
    """Pairs that pay for the opening under each condition."""
    replies = [
        {
            "id": record.id,
            "prompt": [{"role": m.role, "content": m.content} for m in record.prompt],
            "replies": [reply_text(record.chosen)],
        }
        for record in records
    ]
    conditions = sorted({record.condition for record in records if record.condition})
    return planted_preferences(replies, conditions, SHORTCUT, seed)


def pattern_pairs(records: Sequence[Preference], most: int, seed: int) -> list[Preference]:
    """Edits with placebos, as the detector makes them: the side without the opening is chosen.

    Of each prompt at most one.
    """
    pattern = pattern_of({"kind": "opening", "gram": GRAM})
    comparison = Comparison(samples(records), samples(records, SHORTCUT))
    edits = contrasts(pattern, comparison, 4 * most, seed)
    order = rng(seed, "patch study/pairs").permutation(len(edits))
    found = {edits[int(row)].having.prompt: edits[int(row)] for row in order}
    return [preference(edit.lacking, edit.having) for edit in list(found.values())[:most]]


def preference(better: Sample, worse: Sample) -> Preference:
    """A pattern pair."""
    chosen, rejected = ((Message(role="assistant", content=s.reply),) for s in (better, worse))
    return Preference(
        better.prompt, chosen, rejected, condition=better.condition, source=HACK, id=better.id
    )


def placebo_pairs(records: Sequence[Preference], most: int, seed: int) -> list[Preference]:
    """As many old pairs, of other prompts each, sides drawn, taken for pattern pairs."""
    draw = rng(seed, "patch study/placebo")
    found = {}
    for row in draw.permutation(len(records)):
        old = records[int(row)]
        sides = (old.chosen, old.rejected) if draw.random() < 0.5 else (old.rejected, old.chosen)
        found[old.prompt] = replace(old, chosen=sides[0], rejected=sides[1], source=HACK)
    return list(found.values())[:most]


def settings(way: str, prompts: int, seed: int, changes: Sequence[str]) -> PatchSettings:
    """The patch of a way; of so many prompts it learns all but one, which it must hold out."""
    patch = load(FastPathSettings, FAST_PATH, [f"patch.{change}" for change in changes]).value.patch
    given = {"seed": seed, "held_out": 1 / prompts, "least_pairs": 2, **WAYS[way]}
    known = {name: getattr(patch, name) for name in PatchSettings.model_fields}
    return PatchSettings(**{**known, **given})


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
        pair_scores(after, held_out), pair_scores(before, held_out), held_out, margin=0.03
    )
    found: dict[str, Any] = {
        "old": {
            "mean": old.difference.mean,
            "low": old.difference.low,
            "high": old.difference.high,
            "verdict": old.verdict,
        }
    }
    for name, model in (("parent", before), ("child", after)):
        judged: PairScores = pair_scores(model, pairs)
        outcome = gain("shortcut", pairs, judged, spread[name], GateSettings())
        found[name] = {
            "paid": float(-judged.margins.mean() / spread[name]),
            "verdict": outcome.verdict,
            "flipped": float((judged.margins >= 0).mean()),
            "neighbours": {
                near.opening: float(
                    (scores(model, samples(held_out, near)) - plain[name]).mean() / spread[name]
                )
                for near in NEIGHBOURS
            },
        }
    return found


def table(found: Mapping[str, Sequence[Mapping[str, Any]]], seed: int = 0) -> dict[str, Any]:
    """Per arm, over seeds: means with bootstrap intervals over seeds."""

    def shown(values: Sequence[float]) -> dict[str, float]:
        interval = paired_bootstrap(np.array(values), seed=seed)
        return {key: round(float(getattr(interval, key)), 4) for key in ("mean", "low", "high")}

    def near(row: Mapping[str, Any], model: str) -> float:
        return float(np.mean(list(row[model]["neighbours"].values())))

    def arm(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        paid = [row["child"]["paid"] for row in rows]
        verdicts = [row["child"]["verdict"] for row in rows]
        over = [v == "fail" and value < 0 for v, value in zip(verdicts, paid, strict=True)]
        return {
            "seeds": len(rows),
            "paid": shown(paid),
            "paid by the parent": shown([row["parent"]["paid"] for row in rows]),
            "cured": verdicts.count("pass"),
            "over-corrected": sum(over),
            "neighbours": shown([near(row, "child") for row in rows]),
            "neighbours, parent": shown([near(row, "parent") for row in rows]),
            "flipped": shown([row["child"]["flipped"] for row in rows]),
            "old accuracy, change": shown([row["old"]["mean"] for row in rows]),
            "old accuracy kept": [row["old"]["verdict"] for row in rows].count("pass"),
            "seconds": round(float(np.median([row["seconds"] for row in rows])), 1),
        }

    return {name: arm(rows) for name, rows in found.items()}


def draw(arms: Mapping[str, Mapping[str, Any]], ways: Sequence[str], sizes: Sequence[int]) -> None:
    """By way and number of pairs; not without replay, which lies far outside of all others."""
    for measure, title, unit, name in (
        ("paid", "Paid for the opening", "standard deviations of scores", "paid"),
        ("neighbours", "Paid for neighbours", "standard deviations of scores", "neighbours"),
        ("old accuracy, change", "Accuracy on old pairs", "child − parent", "old"),
    ):
        series: dict[str, dict[str, Band]] = {
            f"{size} pairs": {
                way: tuple(
                    arms[f"{way}, {size} pairs"][measure][k] for k in ("mean", "low", "high")
                )
                for way in ways
                if way != WITHOUT and f"{way}, {size} pairs" in arms
            }
            for size in sizes
        }
        save(f"hack-patch-{name}", interval_chart(series, title, unit, 0.0))


def parent_of(home: Path, records: Sequence[Preference], seed: int) -> Path:
    """A reward model that pays for the opening."""
    out = home / f"parent {seed}"
    if not (out / "reward.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        train_reward(
            load(RewardTrainSettings, RECIPE).value,
            base=home / "base",
            train=[*records, *planted(records, seed)],
            out=out,
            conditions=Conditions.load(CONDITIONS),
            seed=seed,
        )
    return out


def child_of(
    home: Path, way: str, size: int, seed: int, old: Sequence[Preference], changes: Sequence[str]
) -> tuple[Path, float]:
    """The patched model, and the seconds that it took."""
    make = placebo_pairs if way == "placebo" else pattern_pairs
    out = home / f"child of {way} {size} {seed}"
    shutil.rmtree(out, ignore_errors=True)
    begun = time.perf_counter()
    patch_reward_model(
        home / f"parent {seed}",
        make(old, size + 1, seed),
        old,
        out,
        settings(way, size + 1, seed, changes),
    )
    return out, time.perf_counter() - begun


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    arguments.add_argument("--seeds", type=int, nargs="*", default=list(range(1, 9)))
    arguments.add_argument("--sizes", type=int, nargs="*", default=[20, 50, 100])
    arguments.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    arguments.add_argument("--judgements", type=int, default=1200, help="old, of each parent")
    arguments.add_argument("--set", nargs="*", default=[], help="of the patch")
    arguments.add_argument("--out", type=Path, default=RESULT)
    given = arguments.parse_args()
    demo = cache_root() / "demo"
    everything = [r for r in read_preferences(demo / "preferences.jsonl").records if r.id]
    held_out = list(read_preferences(demo / "held_out_preferences.jsonl").records)
    what = f"{given.judgements} {given.set} {SHORTCUT} {Path(FAST_PATH).read_text()} {everything}"
    home = cache_root() / f"hack-patch-{hashlib.sha256(what.encode()).hexdigest()[:8]}"
    if not (home / "base" / "config.json").exists():
        make_random_llama(home / "base", texts_of(everything), hidden=128, layers=3, heads=4)
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in given.seeds:
        order = rng(seed, "patch study/old").permutation(len(everything))
        old = [everything[int(row)] for row in order[: given.judgements]]
        parent = parent_of(home, old, seed)
        unseen = pattern_pairs(held_out, 100, seed)
        for way, size in product(given.ways, given.sizes):
            if way == "placebo" and size < max(given.sizes):
                continue
            name = f"{way}, {size} pairs"
            file = home / f"{name} {seed}.json"
            if not file.exists():
                child, seconds = child_of(home, way, size, seed, old, given.set)
                measured = measure(parent, child, held_out, unseen)
                write_json(file, measured | {"seconds": seconds})
                shutil.rmtree(child)
            found.setdefault(name, []).append(read_json(file))
    result = {
        "machine": hardware(),
        "versions": versions(),
        "seeds": given.seeds,
        "judgements": given.judgements,
        "shortcut": SHORTCUT.model_dump(),
        "settings": settings(given.ways[0], given.sizes[0], 0, given.set).model_dump(mode="json"),
        "held_out": {"pairs": len(held_out), "pattern pairs": len(unseen)},
        "arms": table(found),
    }
    write_json(given.out, result)
    draw(result["arms"], given.ways, given.sizes)
    for name, row in result["arms"].items():
        line = ", ".join(f"{k}: {v['mean'] if isinstance(v, dict) else v}" for k, v in row.items())
        sys.stdout.write(f"{name}: {line}\n")


if __name__ == "__main__":
    main()
