"""`cool-rlhf reward eval`, `calibrate` and `benchmark`: how good a reward model is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from pretrain_core.runs import hash_file, write_json
from pretrain_core.runs.files import write_text

if TYPE_CHECKING:
    from reward.model import RewardModel

console = Console(highlight=False)

Model = Annotated[
    str, typer.Argument(help="reward-model folder, or registry:NAME[@VERSION]", show_default=False)
]
Preferences = Annotated[Path, typer.Argument(help="held-out preferences (JSONL)")]


@dataclass(frozen=True)
class EvaluationOptions:
    """What `reward eval` measures beside the accuracy of its models."""

    per_condition: tuple[str, ...] = ()
    paraphrases: bool = False
    paraphrases_file: Path | None = None
    unseen: tuple[str, ...] = ()
    probes: bool = False
    seed: int = 0


def evaluate(
    model: Model,
    preferences: Preferences,
    against: Annotated[
        list[str] | None, typer.Option(help="another reward model to compare with; repeatable")
    ] = None,
    per_condition: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER, the condition's own model (upper anchor); repeatable"),
    ] = None,
    paraphrases: Annotated[
        bool, typer.Option("--paraphrases", help="also under the packaged rewordings")
    ] = False,
    paraphrases_file: Annotated[
        Path | None, typer.Option(help="rewordings of your own (YAML) instead")
    ] = None,
    unseen: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PROMPT, read in place of the trained system prompt; repeatable"),
    ] = None,
    probes: Annotated[
        bool, typer.Option("--probes", help="robustness to edits of replies")
    ] = False,
    seed: Annotated[int, typer.Option(help="of intervals and probes")] = 0,
    html: Annotated[Path | None, typer.Option(help="write a page with pictures")] = None,
    out: Annotated[Path | None, typer.Option(help="write the report as JSON")] = None,
) -> None:
    """Accuracy per condition and source, conflicts, calibration, length bias, probes."""
    options = EvaluationOptions(
        tuple(per_condition or ()),
        paraphrases,
        paraphrases_file,
        tuple(unseen or ()),
        probes,
        seed,
    )
    evaluate_models([model, *(against or [])], preferences, out, html, options)


def evaluate_models(
    references: Sequence[str | Path],
    preferences: Path,
    out: Path | None = None,
    html: Path | None = None,
    options: EvaluationOptions = EvaluationOptions(),
) -> None:
    """Print (and write) the evaluation of models on held-out preferences."""
    from reward.conditions import Condition, Conditions
    from reward.data import read_preferences
    from reward.evaluation.evaluate import evaluate as measure
    from reward.evaluation.page import evaluation_page
    from reward.evaluation.tables import tables

    loaded = dict(_named_model(reference) for reference in references)
    if len(loaded) < len(references):
        raise typer.BadParameter("the same model is given twice")
    first = next(iter(loaded.values()))
    own = {name: _load(folder) for name, folder in _split(options.per_condition).items()}
    unseen = _split(options.unseen)
    # Pairs of a condition that the model has never seen are read only if its prompt is given.
    new = [Condition(name, text) for name, text in unseen.items() if name not in first.conditions]
    data = read_preferences(preferences, Conditions([*first.conditions, *new]))
    console.print(f"{preferences}: {data.summary()}")
    paraphrases = None
    if options.paraphrases or options.paraphrases_file:
        from reward.conditions.paraphrases import load_paraphrases

        paraphrases = load_paraphrases(
            options.paraphrases_file, first.conditions if options.paraphrases_file else None
        )
    evaluation = measure(
        loaded,
        data.records,
        per_condition=own,
        paraphrases=paraphrases,
        unseen=unseen,
        probes=options.probes,
        seed=options.seed,
    )
    if evaluation.left_out:
        console.print(f"{evaluation.left_out} pairs left out: a reply is too long for a model")
    for part in tables(evaluation):
        _print(part.title, part.header, part.rows, part.note)
    if out is not None:
        write_json(out, evaluation.as_dict())
        console.print(f"report: {out}")
    if html is not None:
        write_text(html, evaluation_page(evaluation, f"Reward model {evaluation.version}"))
        console.print(f"page: {html}")


def calibrate(
    model: Model,
    preferences: Preferences,
    out: Annotated[Path, typer.Argument(help="folder of the calibrated version")],
    seed: Annotated[int, typer.Option(help="of folds and intervals")] = 0,
) -> None:
    """Fit the affine map of scores that makes σ(score difference) a frequency; a new version."""
    from reward.data import read_preferences
    from reward.evaluation.calibration import cross_fitted, fit_calibration, reliability
    from reward.evaluation.scoring import pair_keys, pair_scores, scorable
    from reward.export import write_calibrated
    from reward.model import RewardModel
    from reward.registry import resolve_model

    folder = resolve_model(model)
    loaded = RewardModel.load(folder)
    data = read_preferences(preferences, loaded.conditions)
    console.print(f"{preferences}: {data.summary()}")
    records, left_out = scorable([loaded], data.records)
    if left_out:
        console.print(f"{len(left_out)} pairs left out; the first: {left_out[0].reason}")
    if not records:
        raise typer.BadParameter(f"{preferences} holds no usable preference")
    scores, keys = pair_scores(loaded, records), pair_keys(records)
    calibration = fit_calibration(scores, hash_file(preferences))
    after = cross_fitted(scores.margins, keys, seed)
    rows = []
    for name, margins in (("raw", scores.margins), ("calibrated, cross-fitted", after)):
        found = reliability(margins, keys, seed=seed)
        rows.append([name, str(found.error), f"{found.noise:.3f}", str(found.log_loss)])
    header = ["scores", "calibration error", "by chance", "log loss"]
    _print(f"calibration on {len(records)} pairs", header, rows)
    card = write_calibrated(folder, out, calibration)
    console.print(
        f"{card.version}: {calibration.scale:.4g} · (score − {calibration.centre:.4g}): {out}"
    )


def benchmark(
    model: Model,
    path: Annotated[
        Path, typer.Argument(help="JSON, JSONL or Parquet file, or folder of dataset.json files")
    ],
    condition: Annotated[
        str | None, typer.Option(help="read every case under it; default: none")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="write the accuracies as JSON")] = None,
) -> None:
    """Accuracy on a pairwise set in the shape of RewardBench, LLMBar or RM-Bench."""
    from reward.evaluation.benchmark_files import read_benchmark
    from reward.evaluation.benchmarks import run_benchmark

    found = read_benchmark(path)
    _, loaded = _named_model(model)
    report = run_benchmark(loaded, found, condition)
    _print(f"{report.shape}, 95 % interval", *report.table())
    if report.left_out:
        first = f"; the first malformed: {found.quarantined[0].reason}" if found.quarantined else ""
        console.print(f"{report.left_out} cases left out (malformed or too long){first}")
    if out is not None:
        write_json(out, report.as_dict() | {"version": loaded.version, "condition": condition})
        console.print(f"report: {out}")


def _load(reference: str | Path) -> "RewardModel":
    from reward.model import RewardModel
    from reward.registry import resolve_model

    return RewardModel.load(resolve_model(reference))


def _named_model(reference: str | Path) -> tuple[str, "RewardModel"]:
    model = _load(reference)
    return f"{Path(str(reference)).name} ({model.version})", model


def _split(pairs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in pairs:
        name, separator, value = text.partition("=")
        if not separator or not name or not value:
            raise typer.BadParameter(f"{text!r}: expected NAME=VALUE")
        if name in found:
            raise typer.BadParameter(f"{name!r} is given twice")
        found[name] = value
    return found


def _print(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], note: str = ""
) -> None:
    table = Table(*header, title=title, caption=note or None, caption_justify="left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
