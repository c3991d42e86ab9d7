"""The README.md of an exported reward model, generated from its card and its evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any

from pretrain_core.errors import InputError
from reward.card import RewardCard

PAIRS = "held-out preferences"

USAGE = """```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained(FOLDER, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
conversation = [
    {{"role": "system", "content": "SYSTEM PROMPT OF THE CONDITION, word for word"}},
    {{"role": "user", "content": "…"}},
    {{"role": "assistant", "content": "the reply to be scored"}},
]
inputs = tokenizer.apply_chat_template(conversation, return_tensors="pt", return_dict=True)
score = model(**inputs).logits.item()
```

The chat template puts the score token `{score_token}` after the reply; the score is read there.
Leave the system turn out for no condition. In vLLM:
`LLM(FOLDER, runner="pooling", dtype="float32")` and
`classify(…, pooling_params=PoolingParams(use_activation=False))` on the same tokens; without
`use_activation=False` you get a sigmoid of the score. Text that begins with white space or contains
control tokens such as `<|im_end|>` may be cut into other tokens than cool-rlhf makes of it; there
`reward.inputs.reward_input` is exact."""


class ModelCardError(InputError):
    """Metrics that do not belong to the model they are to describe."""


def model_card(card: RewardCard, metrics: Mapping[str, Any] | None = None) -> str:
    """README.md in Hugging Face style: YAML header with the accuracies, then what a user must know.

    `metrics`: what `cool-rlhf reward eval --out` wrote for this model, None if it was not
    evaluated. Raises ModelCardError for those of another model.
    """
    from huggingface_hub import ModelCardData
    from huggingface_hub.repocard_data import EvalResult

    if metrics is not None:
        check_metrics(card, metrics)
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type="preferences",
            dataset_name=f"{PAIRS}, {group}",
            dataset_config=group,  # results of equal type and configuration are merged into one
            metric_type="accuracy",
            metric_value=round(found["mean"], 4),
        )
        for group, found in _accuracies(metrics).items()
    ]
    header = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["reward-model", "conditional-reward-model", "cool-rlhf"],
        model_name=card.version,
        eval_results=results or None,
    )
    parts = [
        f"---\n{header.to_yaml()}\n---\n",
        f"# Conditional reward model {card.version}\n",
        _summary(card),
        "## Use\n\n" + USAGE.format(score_token=card.score_token),
        "## Conditions\n\n" + _conditions(card),
        "## Training\n\n" + _training(card),
        "## Evaluation\n\n" + _evaluation(metrics),
        "## Limits\n\n" + _limits(card, metrics),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def check_metrics(card: RewardCard, metrics: Mapping[str, Any]) -> None:
    """Raise ModelCardError unless these are an evaluation of this model."""
    found = metrics.get("version")
    if not isinstance(metrics.get("accuracy"), Mapping) or found is None:
        raise ModelCardError("these are no metrics of `cool-rlhf reward eval --out`")
    # What follows the plus sign names a calibration, which changes no raw score.
    if str(found).partition("+")[0] != card.version.partition("+")[0]:
        raise ModelCardError(f"the metrics are of {found}, the model is {card.version}")


def _summary(card: RewardCard) -> str:
    if not card.use_condition:
        return (
            "Scores a reply to a conversation; higher is better. It was trained without conditions."
        )
    return (
        "Scores a reply to a conversation; higher is better. A system prompt before the "
        "conversation says which preference to apply. The policy that is trained against it never "
        "sees that prompt."
    )


def _conditions(card: RewardCard) -> str:
    rows = [[c.name, c.description, c.system_prompt or "(none)"] for c in card.conditions]
    lead = f"Hash {card.conditions.hash}. Other wording than this is out of distribution.\n\n"
    return lead + _table(["name", "prefers", "system prompt"], rows)


def _training(card: RewardCard) -> str:
    training = card.training
    facts = [
        ("preference records", training.get("records")),
        ("pairs trained on", training.get("pairs")),
        ("left out (reply too long)", training.get("left_out")),
        ("optimiser steps", training.get("steps")),
        ("ended by", training.get("ended_by")),
        ("seed", training.get("seed")),
        ("longest input, tokens", card.max_length),
    ]
    rows = [[name, str(value)] for name, value in facts if value is not None]
    rows += [[f"made from: {name}", f"`{value}`"] for name, value in card.parents.items()]
    return _table(["", ""], rows)


def _evaluation(metrics: Mapping[str, Any] | None) -> str:
    found = _accuracies(metrics)
    if not found:
        return "Not evaluated. Do not use it before `cool-rlhf reward eval`."
    rows = [
        [group, str(i["n"]), f"{i['mean']:.3f}", f"[{i['low']:.3f}, {i['high']:.3f}]"]
        for group, i in found.items()
    ]
    return f"Accuracy on {PAIRS}, 95 % bootstrap intervals over judged pairs.\n\n" + _table(
        ["pairs", "n", "accuracy", "interval"], rows
    )


def _limits(card: RewardCard, metrics: Mapping[str, Any] | None) -> str:
    limits = [
        "Compare scores of replies to one prompt under one condition only.",
        f"Inputs above {card.max_length} tokens lose the beginning of their prompt; a longer reply "
        "is refused.",
        "Scores and the figures above are of fp32 weights.",
    ]
    if card.calibration is None:
        limits.append("Not calibrated: σ of a score difference is no probability.")
    else:
        limits.append(
            f"Calibrated scores are {card.calibration.scale:.4g} · (score − "
            f"{card.calibration.centre:.4g}), fitted on {card.calibration.pairs} pairs; the model "
            "itself returns raw ones."
        )
    limits += [
        f"On {group} the interval includes 0.5: no evidence that it beats chance there."
        for group, i in _accuracies(metrics).items()
        if i["low"] <= 0.5
    ]
    limits += [
        f"Probe “{probe['name']}” ({probe['expected']} expected): {probe['verdict']}."
        for probe in (metrics or {}).get("probes", [])
        if probe["verdict"] != "as expected"
    ]
    return "\n".join(f"- {limit}" for limit in limits)


def _accuracies(metrics: Mapping[str, Any] | None) -> dict[str, Any]:
    """Group of pairs → interval of the model itself, the first of each group."""
    if not metrics:
        return {}
    return {group: next(iter(found.values())) for group, found in metrics["accuracy"].items()}


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
