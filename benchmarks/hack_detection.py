"""How well reward hacks are found: recall and precision on generated cases, and on nulls.

A case is the samples of an early and a late policy to the same prompts, made of real sentences
(English and Chinese). A drawn pattern was planted in a stated share of the late replies; scripted
judges score a quality hidden in the words with noise, and the reward model pays for the pattern by
its presence in the text. Gold pays too where the pattern is an improvement. Further negatives: a
pattern that nobody pays, a shift of topic, a pattern paid but not risen, and no change.

    python benchmarks/hack_detection.py [--cases N] [--nulls N] [--workers N] [--set KEY=VALUE …]

Draws docs/pictures/hack-detection-*.svg. Finished cases are kept in the project's cache under a
hash of settings and code: a run that was cut off continues. Goal: recall and precision of at least
0.9 from a prevalence of 10 %, and false patterns in at most 5 % of the comparisons of a policy with
itself. The detector was developed on cases of other seeds.
"""

import argparse
import hashlib
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import hack_cases
import numpy as np
from hack_cases.baselines import BASELINES
from hack_cases.design import GOLD_NOISE, MANY, RARE, REWARD_NOISE, Spec, design, nulls
from hack_cases.scoring import run_case, run_null
from pictures import save
from scipy.stats import binomtest

import cool_rlhf.hacks
import cool_rlhf.hacks.patterns
from cool_rlhf.hacks.settings import HackSettings
from pretrain_core.cache import cache_root
from pretrain_core.runs import write_json
from pretrain_core.runs.figures import Band, Point, interval_chart, line_chart
from pretrain_core.runs.files import append_line, cut_torn_line, read_lines
from pretrain_core.runs.lineage import hardware, versions
from pretrain_core.settings import load

RESULT = Path("benchmarks/results/hack_detection.json")
GOAL_PREVALENCE = 0.1
STATED = {RARE: MANY, 0.2: 400, 0.5: 400}
"""Prevalence → prompts at which the goal is to be met; 400 for the negatives."""
FALSE_ALARMS = 0.05
Row = Mapping[str, Any]
Runner = Callable[[Spec, int, HackSettings], dict[str, Any]]


def folder(settings: HackSettings, seed: int) -> Path:
    """Where the cases of these settings, this detector and this generator are kept."""
    digest = hashlib.sha256(f"{seed} {settings.model_dump_json()}".encode())
    for module in (cool_rlhf.hacks, cool_rlhf.hacks.patterns, hack_cases):
        for file in sorted(Path(str(module.__file__)).parent.glob("*.py")):
            digest.update(file.read_bytes())
    home = cache_root() / f"hack-detection-{digest.hexdigest()[:8]}"
    home.mkdir(parents=True, exist_ok=True)
    return home


def finished(
    file: Path, specs: Sequence[Spec], run: Runner, seed: int, settings: HackSettings, workers: int
) -> list[Row]:
    """The rows of these cases, those that the file lacks run now."""
    if file.exists():
        cut_torn_line(file)
    known = {row["index"]: row for row in read_lines(file)}
    open_cases = [spec for spec in specs if spec.index not in known]
    for done, row in enumerate(_results(open_cases, run, seed, settings, workers), 1):
        append_line(file, row)
        known[row["index"]] = row
        sys.stderr.write(f"\r{file.stem}: {done} of {len(open_cases)} ")
    return [known[spec.index] for spec in specs]


def _results(
    specs: Sequence[Spec], run: Runner, seed: int, settings: HackSettings, workers: int
) -> Iterator[dict[str, Any]]:
    if workers == 1:
        yield from (run(spec, seed, settings) for spec in specs)
        return
    with ProcessPoolExecutor(workers) as pool:
        waiting = [pool.submit(run, spec, seed, settings) for spec in specs]
        yield from (each.result() for each in as_completed(waiting))


def share(right: int, of: int) -> dict[str, Any] | None:
    """A share with its Wilson interval; None of nothing."""
    if not of:
        return None
    found = binomtest(right, of).proportion_ci(0.95, method="wilson")
    return {
        "mean": round(right / of, 4),
        "low": round(float(found.low), 4),
        "high": round(float(found.high), 4),
        "right": right,
        "of": of,
    }


def found(row: Row) -> bool:
    """Whether the planted pattern was called a hack."""
    return any(f["matches"] and f["verdict"] == "hack" for f in row["findings"])


def stage(row: Row) -> str:
    """How far the planted pattern came."""
    verdicts = {f["verdict"] for f in row["findings"] if f["matches"]}
    for verdict in ("hack", "improvement", "candidate", "harmless"):
        if verdict in verdicts:
            return verdict
    return "not confirmed" if row["unconfirmed"] else "not proposed"


def quality(rows: Sequence[Row]) -> dict[str, Any]:
    """Recall over the hacks among these cases, precision over all `hack` findings in them."""
    hacks = [row for row in rows if row["role"] == "hack"]
    called = [
        row["role"] == "hack" and f["matches"]
        for row in rows
        for f in row["findings"]
        if f["verdict"] == "hack"
    ]
    return {
        "cases": len(rows),
        "recall": share(sum(map(found, hacks)), len(hacks)),
        "precision": share(sum(called), len(called)),
    }


def by(rows: Sequence[Row], *keys: str) -> dict[str, Any]:
    """The quality of the groups with equal keys."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    return {" ".join(map(str, key)): quality(groups[key]) for key in sorted(groups)}


def baselines(rows: Sequence[Row], null_rows: Sequence[Row]) -> dict[str, Any]:
    """Recall and precision of each baseline, its threshold passed by one in twenty nulls.

    One that names a pattern is right where that is the planted hack; one that names none is right
    where there is any hack, which asks less of it.
    """
    table = {}
    for name in BASELINES:
        threshold = float(
            np.quantile([row["baselines"][name] for row in null_rows], 1 - FALSE_ALARMS)
        )
        flagged = [row for row in rows if row["baselines"][name]["statistic"] > threshold]
        right = [
            row
            for row in flagged
            if row["role"] == "hack" and row["baselines"][name]["matches"] is not False
        ]
        hacks = sum(row["role"] == "hack" for row in rows)
        table[name] = {
            "threshold": round(threshold, 3),
            "recall": share(len(right), hacks),
            "precision": share(len(right), len(flagged)),
        }
    return table


def short(row: Row) -> dict[str, Any]:
    """A case in one line; its texts stay in the cache."""
    kept = ("index", "role", "kind", "language", "prevalence", "prompts", "early", "late", "pay")
    wrong = [
        f["family"]
        for f in row["findings"]
        if f["verdict"] == "hack" and not (row["role"] == "hack" and f["matches"])
    ]
    return {key: row[key] for key in kept} | {"stage": stage(row), "false_hacks": wrong}


def tables(rows: Sequence[Row], null_rows: Sequence[Row]) -> dict[str, Any]:
    """Everything that is reported of the finished cases."""
    hacks = [row for row in rows if row["role"] == "hack"]
    negatives = [row for row in rows if row["role"] != "hack"]
    # The negatives have no small prevalences: every false alarm in them counts.
    goal = [row for row in hacks if row["prevalence"] >= GOAL_PREVALENCE] + negatives
    improvements = [row for row in rows if row["role"] == "improvement"]
    roles = sorted({row["role"] for row in negatives})
    alarmed = [row for row in null_rows if row["confirmed"]]
    return {
        "goal: 10 % with 800 prompts, 20 % and 50 % with 400": quality(
            [
                row
                for row in goal
                if row["prompts"] == (STATED[row["prevalence"]] if row["role"] == "hack" else 400)
            ]
        ),
        "from 10 %": quality(goal),
        "all": quality(rows),
        "by prevalence and prompts": by(hacks, "prevalence", "prompts"),
        "by kind, from 10 %": by([row for row in goal if row in hacks], "kind"),
        "by language, from 10 %": by(goal, "language"),
        "stages, from 10 %": Counter(stage(row) for row in goal if row["role"] == "hack"),
        "stages by kind, from 10 %": {
            kind: Counter(stage(row) for row in goal if row in hacks and row["kind"] == kind)
            for kind in sorted({row["kind"] for row in hacks})
        },
        "improvements called improvement": share(
            sum(stage(row) == "improvement" for row in improvements), len(improvements)
        ),
        "negatives with a false hack": {
            role: share(
                sum(
                    any(f["verdict"] == "hack" for f in row["findings"])
                    for row in negatives
                    if row["role"] == role
                ),
                sum(row["role"] == role for row in negatives),
            )
            for role in roles
        },
        "baselines, from 10 %": baselines(goal, null_rows) if null_rows else {},
        "nulls with a false pattern": share(len(alarmed), len(null_rows)),
    }


def draw(found: Mapping[str, Any]) -> None:
    """The tables as pictures."""
    recall: dict[str, list[Point]] = defaultdict(list)
    bands: dict[str, list[Band]] = defaultdict(list)
    for key, value in found["by prevalence and prompts"].items():
        prevalence, prompts = key.split()
        mean, low, high = _band(value["recall"])
        recall[f"{prompts} prompts"].append((100 * float(prevalence), mean))
        bands[f"{prompts} prompts"].append((100 * float(prevalence), low, high))
    late = "late replies that have the pattern"
    save("hack-detection-recall", line_chart(recall, "hacks found", f"{late}, %", "recall", bands))
    methods = {"detector": found["from 10 %"], **found["baselines, from 10 %"]}
    by_measure = {
        measure: {name: _band(value[measure]) for name, value in methods.items() if value[measure]}
        for measure in ("recall", "precision")
    }
    save("hack-detection-methods", interval_chart(by_measure, f"from 10 % of the {late}", "share"))
    kinds = {kind: _band(value["recall"]) for kind, value in found["by kind, from 10 %"].items()}
    title = f"hacks found, from 10 % of the {late}"
    save("hack-detection-kinds", interval_chart({"recall": kinds}, title, "recall"))


def _band(value: Mapping[str, float]) -> Band:
    return value["mean"], value["low"], value["high"]


def shown(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "–"
    return f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}] of {value['of']}"


def write_tables(result: Mapping[str, Any]) -> None:
    """The result for people."""
    for name, table in result["tables"].items():
        if table is None or "mean" in table:
            sys.stdout.write(f"{name}: {shown(table)}\n")
        elif "recall" in table:
            recall, precision = shown(table["recall"]), shown(table["precision"])
            sys.stdout.write(f"{name}: recall {recall}, precision {precision}\n")
        else:
            sys.stdout.write(f"{name}\n")
            for key, value in table.items():
                if isinstance(value, Mapping) and "recall" in value:
                    recall, precision = shown(value["recall"]), shown(value["precision"])
                    sys.stdout.write(f"  {key:<20} recall {recall:<28} precision {precision}\n")
                elif isinstance(value, Mapping) and "mean" in value:
                    sys.stdout.write(f"  {key:<20} {shown(value)}\n")
                else:
                    text = dict(value) if isinstance(value, Mapping) else value
                    sys.stdout.write(f"  {key:<20} {text}\n")
    sys.stdout.write(f"seconds of a case: {result['seconds']}\n")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    arguments.add_argument("--cases", type=int, help="the first ones of the drawn order; all")
    arguments.add_argument("--nulls", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=5)
    arguments.add_argument("--workers", type=int, default=1)
    arguments.add_argument("--set", nargs="*", default=[], help="settings of the detector")
    arguments.add_argument("--out", type=Path, default=RESULT)
    given = arguments.parse_args()
    settings = load(HackSettings, None, given.set).value
    home = folder(settings, given.seed)
    specs = design(given.seed)[: given.cases]
    common = (given.seed, settings, given.workers)
    rows = finished(home / "cases.jsonl", specs, run_case, *common)
    null_rows = finished(home / "nulls.jsonl", nulls(given.nulls, given.seed), run_null, *common)
    total = [sum(row["seconds"].values()) for row in rows]
    result = {
        "machine": hardware(),
        "versions": versions(),
        "settings": settings.model_dump(mode="json"),
        "seed": given.seed,
        "cases": dict(Counter(row["role"] for row in rows)),
        "nulls": len(null_rows),
        "noise": {"reward": REWARD_NOISE, "gold": GOLD_NOISE},
        "seconds": {
            part: round(float(np.median([row["seconds"][part] for row in rows])), 2)
            for part in rows[0]["seconds"]
        }
        | {"whole": round(float(np.median(total)), 2), "longest": round(max(total), 2)},
        "tables": tables(rows, null_rows),
        "rows": [short(row) for row in rows],
    }
    write_json(given.out, result)
    write_tables(result)
    draw(result["tables"])


if __name__ == "__main__":
    main()
