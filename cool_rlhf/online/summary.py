"""What a run of rounds achieved: a metric × stage table with paired intervals, and samples."""

from collections.abc import Mapping
from textwrap import shorten
from typing import Any

import numpy as np

from cool_rlhf.hacks.patch.found import FoundHack, read_hacks
from cool_rlhf.hacks.samples import Sample
from cool_rlhf.online.context import FAST_PATH, Context
from pretrain_core.chat import Message
from pretrain_core.runs import read_json, write_json
from reward.evaluation import Interval, paired_bootstrap

WIDEST_NAME = 36
"""Letters of a metric's name on the terminal."""


def evaluations(context: Context) -> dict[int, dict[str, Any]]:
    """The finished evaluations by round; 0 is the SFT model."""
    found = {}
    for number in range(context.settings.rounds + 1):
        path = context.folder(number) / "evaluation.json"
        if path.exists():
            found[number] = read_json(path)
    return found


def gold_gain(before: Mapping[str, Any], after: Mapping[str, Any], seed: int) -> Interval:
    """Mean gold score of `after` minus `before`, 95 % paired bootstrap over held-out prompts."""
    base = {sample["id"]: sample["gold"] for sample in before["samples"]}
    gains = np.array([sample["gold"] - base[sample["id"]] for sample in after["samples"]])
    return paired_bootstrap(gains, seed=seed)


def gold_wins(
    before: Mapping[str, Any], after: Mapping[str, Any], seed: int
) -> dict[str, Interval]:
    """By condition, the share of held-out prompts on which gold prefers `after`; a tie is half."""
    base = {sample["id"]: sample["gold"] for sample in before["samples"]}
    won: dict[str, list[float]] = {}
    for sample in after["samples"]:
        gain = sample["gold"] - base[sample["id"]]
        won.setdefault(sample["condition"], []).append(0.5 + 0.5 * float(np.sign(gain)))
    return {name: paired_bootstrap(wins, seed=seed) for name, wins in sorted(won.items())}


def hacks_found(context: Context) -> list[FoundHack]:
    """What the fast path of any round called a hack, each pattern once."""
    found: dict[str, FoundHack] = {}
    for number in range(1, context.settings.rounds):
        folder = context.folder(number) / FAST_PATH
        if (folder / "result.json").exists():
            names = read_json(folder / "result.json")["hacks"]
            found |= {hack.name: hack for hack in read_hacks(folder / "hacks.json", names)}
    return list(found.values())


def write_summary(context: Context) -> list[list[str]]:
    """Write `stages.json` and `samples.json` for the report.

    Returns the table for a terminal, stages side by side and metrics one below the other, their
    names shortened: a pattern may be named by whole sentences.
    """
    found, hacks = evaluations(context), hacks_found(context)
    seed = context.settings.run.seed
    conditions = sorted({sample["condition"] for sample in found[0]["samples"]})
    header = ["stage", "gold score", "gain over SFT [95 %]"]
    header += [f"preferred to SFT, {name} [95 %]" for name in conditions]
    header += ["KL (nats)", "text loss", "tokens"]
    header += [f"replies with {hack.name}" for hack in hacks]
    rows = []
    for number, report in found.items():
        samples = report["samples"]
        replies = [_sample(sample) for sample in samples]
        gain, wins = "-", dict.fromkeys(conditions, "-")
        if number and all("gold" in sample for sample in samples):
            gain = str(gold_gain(found[0], report, seed))
            wins |= {name: str(w) for name, w in gold_wins(found[0], report, seed).items()}
        rows.append(
            [
                "SFT" if number == 0 else f"round {number}",
                _mean(samples, "gold"),
                gain,
                *wins.values(),
                _mean(samples, "kl"),
                f"{report['text_loss']:.4f}" if "text_loss" in report else "-",
                _mean(samples, "tokens"),
                *(f"{np.mean([hack.pattern.present(s) for s in replies]):.0%}" for hack in hacks),
            ]
        )
    write_json(context.run.path / "stages.json", {"columns": header, "rows": rows})
    last = found[max(found)]
    before = {sample["id"]: sample for sample in found[0]["samples"]}
    write_json(
        context.run.path / "samples.json",
        [
            {
                "prompt": sample["prompt"],
                "condition": sample["condition"],
                "before": before[sample["id"]]["reply"],
                "after": sample["reply"],
                "score_before": before[sample["id"]].get("gold"),
                "score_after": sample.get("gold"),
            }
            for sample in last["samples"][:12]
        ],
    )
    names = [shorten(name, WIDEST_NAME, placeholder=" …") for name in header]
    return [list(line) for line in zip(names, *rows, strict=True)]


def _mean(samples: list[dict[str, Any]], key: str) -> str:
    values = [sample[key] for sample in samples if key in sample]
    return f"{np.mean(values):.3f}" if len(values) == len(samples) else "-"


def _sample(row: Mapping[str, Any]) -> Sample:
    asked = (Message(role="user", content=row["prompt"]),)
    return Sample(row["id"], asked, row["reply"], row["condition"])
