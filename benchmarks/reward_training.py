"""Useful tokens per second and peak memory of reward-model training, against `trl.RewardTrainer`.

Same pairs, model, dtype, threads, and the same mean number of tokens per forward pass, padding
included. Peers: TRL's default sampling, its length grouping by the chosen side, and by the pair's
longer side. Every repeat of a way runs in a process of its own, the ways in turn.

    python benchmarks/reward_training.py --data PAIRS.jsonl[.gz] [--model FOLDER] [--pairs N]

PAIRS: preferences in a format that `cool-rlhf reward data` reads (HH-RLHF, for one). What was
measured is kept: a run that was cut off continues.
"""

import argparse
import hashlib
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from random_llama import make_random_llama, texts_of

from pretrain_core.cache import cache_root
from pretrain_core.runs import read_json, write_json
from pretrain_core.runs.lineage import hardware, versions
from reward.conditions import Conditions
from reward.data import read_preferences
from reward.model import RewardModel, create_reward_model
from reward.packing import pad_right
from reward.pairs import tokenise_pairs
from reward.settings import RewardTrainSettings

RESULT = Path("benchmarks/results/reward_training.json")
WAYS = ("packed", "trl", "trl grouped by chosen", "trl grouped by pair")
WARM_UP = 8  # pairs


def prepare(home: Path, data: Path, base: Path | None, count: int) -> None:
    """A reward model, and the pairs as tokens."""
    records = list(read_preferences(data).records)[:count]
    if base is None:
        base = home / "base"
        make_random_llama(base, texts_of(records), hidden=512, layers=6, heads=8)
    folder = create_reward_model(base, home / "reward", Conditions([]), seed=0, max_length=1024)
    pairs, _ = tokenise_pairs(RewardModel.load(folder), records, seed=0)
    rows = [[pair.chosen_ids, pair.rejected_ids] for pair in pairs]
    write_json(home / "pairs.json", rows)


def batch_sizes(pairs: list[list[list[int]]], pairs_per_batch: int) -> dict[str, int]:
    """Tokens per packed batch, and pairs per batch of the peers, for one padded token budget."""
    longest = [max(map(len, pair)) for pair in pairs]
    draw = torch.Generator().manual_seed(0)
    order = torch.randperm(len(pairs), generator=draw).tolist()
    chosen = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]))
    by_pair = sorted(range(len(pairs)), key=lambda i: longest[i])

    def padded(ordered: list[int], size: int) -> float:
        groups = [ordered[i : i + size] for i in range(0, len(ordered), size)]
        return statistics.mean(2 * len(g) * max(longest[i] for i in g) for g in groups)

    budget = padded(order, pairs_per_batch)
    sizes = {"packed": round(budget), "trl": pairs_per_batch}
    for way, ordered in (("trl grouped by chosen", chosen), ("trl grouped by pair", by_pair)):
        sizes[way] = min(range(1, 65), key=lambda size: abs(padded(ordered, size) - budget))
    return sizes


def measure(home: Path, way: str, size: int, seed: int) -> dict[str, Any]:
    """Train on all pairs after a short warm-up; runs in a process of its own."""
    pairs = json.loads((home / "pairs.json").read_text())
    train = packed_epoch if way == "packed" else trl_epoch
    train(home, pairs[:WARM_UP], way, size, seed=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    tokens = sum(len(side) for pair in pairs for side in pair)
    rate = tokens / train(home, pairs, way, size, seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {
        "tokens_per_second": round(rate),
        "peak_mib": round(peak),
        "peak_mib_after_warm_up": round(before),
    }


def packed_epoch(home: Path, pairs: Any, way: str, size: int, seed: int) -> float:
    """Seconds of one epoch of ours."""
    from reward.packing import plan_batches
    from reward.pairs import Pair
    from reward.trl_trainer import make_trainer

    model = RewardModel.load(home / "reward")
    rows = [
        Pair(str(n), "default", chosen, rejected, 0.0) for n, (chosen, rejected) in enumerate(pairs)
    ]
    settings = RewardTrainSettings(batch_tokens=max(size, 2 * 1024), max_length=1024)
    lengths = [pair.lengths for pair in rows]
    with tempfile.TemporaryDirectory() as work:
        trainer = make_trainer(
            model,
            rows,
            settings,
            seed,
            None,
            lambda epoch, ranks: plan_batches(lengths, size, seed, epoch, ranks),
            Path(work),
        )
        return timed(trainer)


def trl_epoch(home: Path, pairs: Any, way: str, size: int, seed: int) -> float:
    """Seconds of one epoch of TRL's trainer."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, PrinterCallback
    from trl import RewardConfig, RewardTrainer

    network = AutoModelForSequenceClassification.from_pretrained(
        home / "reward", dtype=torch.float32
    )
    columns = {
        "chosen_ids": [chosen for chosen, _ in pairs],
        "rejected_ids": [rejected for _, rejected in pairs],
        "length": [
            max(len(c), len(r)) if way == "trl grouped by pair" else len(c) for c, r in pairs
        ],
    }
    with tempfile.TemporaryDirectory() as work:
        arguments = RewardConfig(
            output_dir=work,
            seed=seed,
            per_device_train_batch_size=size,
            num_train_epochs=1,
            train_sampling_strategy="random" if way == "trl" else "group_by_length",
            bf16=True,
            gradient_checkpointing=False,
            max_length=None,
            remove_unused_columns=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = RewardTrainer(
            model=network,
            args=arguments,
            train_dataset=Dataset.from_dict(columns),
            processing_class=AutoTokenizer.from_pretrained(home / "reward"),
        )
        trainer.remove_callback(PrinterCallback)
        return timed(trainer)


def timed(trainer: Any) -> float:
    """Wall seconds of `train`, its set-up included."""
    begun = time.perf_counter()
    trainer.train()
    return time.perf_counter() - begun


def largest_difference(home: Path) -> float:
    """Between scores of our packed pass and of Hugging Face's padded one, fp32."""
    from transformers import AutoModelForSequenceClassification

    model = RewardModel.load(home / "reward")
    theirs = AutoModelForSequenceClassification.from_pretrained(home / "reward").eval()
    inputs = [side for pair in json.loads((home / "pairs.json").read_text())[:16] for side in pair]
    tokens = pad_right(inputs, model.tokenizer.pad_token_id)
    mask = (tokens != model.tokenizer.pad_token_id).long()
    with torch.inference_mode():
        padded = theirs(input_ids=tokens, attention_mask=mask).logits[:, 0]
    return float((model.score(inputs) - padded).abs().max())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    arguments.add_argument("--data", type=Path, required=True, help="preferences")
    arguments.add_argument("--model", type=Path, help="base folder; default: a Llama of 20M")
    arguments.add_argument("--pairs", type=int, default=96)
    arguments.add_argument("--pairs-per-batch", type=int, default=8, help="of TRL's default")
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--out", type=Path, default=RESULT)
    arguments.add_argument("--measure", help=argparse.SUPPRESS)
    arguments.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    key = f"{given.data.resolve()} {given.model} {given.pairs} {given.pairs_per_batch}"
    home = cache_root() / f"reward-training-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    if not (home / "pairs.json").exists():
        shutil.rmtree(home, ignore_errors=True)
        prepare(home, given.data, given.model, given.pairs)
    pairs = json.loads((home / "pairs.json").read_text())
    sizes = batch_sizes(pairs, given.pairs_per_batch)
    if given.measure:
        found = measure(home, given.measure, sizes[given.measure], given.seed)
        write_json(home / f"{given.measure} {given.seed}.json", found)
        return
    ways: dict[str, dict[str, Any]] = {way: {"batch": sizes[way]} for way in WAYS}
    for seed in range(1, given.repeats + 1):
        for way in WAYS:
            file = home / f"{way} {seed}.json"
            if not file.exists():
                command = [sys.executable, *sys.argv, "--measure", way, "--seed", str(seed)]
                subprocess.run(command, check=True)
            for name, value in read_json(file).items():
                ways[way].setdefault(name, []).append(value)
    medians = {way: statistics.median(found["tokens_per_second"]) for way, found in ways.items()}
    model = RewardModel.load(home / "reward")
    result = {
        "machine": hardware(),
        "versions": versions(),
        "model": given.model.name if given.model else "Llama, made for this",
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "dtype": "bf16 autocast, fp32 weights",
        "pairs": len(pairs),
        "useful_tokens": sum(len(side) for pair in pairs for side in pair),
        "ways": ways,
        "median_tokens_per_second": medians,
        "ratio": {way: round(medians["packed"] / medians[way], 2) for way in WAYS[1:]},
        "largest_score_difference_fp32": largest_difference(home),
    }
    write_json(given.out, result)
    sys.stdout.write(f"{json.dumps(result['ratio'], indent=1)}\n")


if __name__ == "__main__":
    main()
