"""A reward model as a Hugging Face folder for other programs, checked against them."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pretrain_core.chat import CHATML_TEMPLATE
from pretrain_core.errors import RunFailed
from pretrain_core.runs.files import write_json, write_text
from reward.card import CARD, Calibration, RewardCard, RewardModelError, read_card
from reward.inputs import InputTooLong
from reward.model import RewardModel
from reward.model_card import model_card
from reward.network import quiet
from reward.soundness import check_reward_model

README = "README.md"
TOLERANCE = 1e-4
# Read by every export before it counts as one.
SAMPLES = (
    "Yes.",
    "Water boils at a lower temperature on a mountain, because there is less air above it.",
    "1. Open the lid.\n2. Fill in the flour.\n\nThat is all; wait for an hour.",
)


class ExportError(RunFailed):
    """An export whose scores are not those of the model."""


def export_reward_model(
    model: Path, out: Path, metrics: Mapping[str, Any] | None = None, *, vllm: bool = False
) -> Path:
    """Write `out`: weights as they are, a chat template that ends with the score token, README.md.

    Then scores sample inputs by `AutoModelForSequenceClassification`, and by vLLM's pooling runner
    in a child process if `vllm`. Raises ExportError where they differ by more than 1e-4,
    RewardModelError for a broken model or an `out` that is not empty.
    """
    check_reward_model(model)
    card = read_card(model)
    readme = model_card(card, metrics)
    source = RewardModel.load(model)
    inputs = sample_inputs(source)
    _refuse_full(out)
    # Nothing stands at `out` before its scores are right.
    aside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    copy_model(model, aside, card)
    template = score_template(card.score_token)
    if _renders_like_us(source, template):
        source.tokenizer.chat_template = template
        source.tokenizer.save_pretrained(aside)
    else:
        readme += (
            "- The chat template does not build this model's inputs: use "
            "`reward.inputs.reward_input`.\n"
        )
    write_text(aside / README, readme)
    expected = source.score(inputs)
    _compare("AutoModelForSequenceClassification", expected, _scores_by_transformers(aside, inputs))
    if vllm:
        from reward.vllm_scoring import scores_in_child

        found = torch.tensor(scores_in_child(aside, inputs, card.max_length))
        _compare("vLLM", expected, found)
    os.replace(aside, out)
    return out


def write_calibrated(model: Path, out: Path, calibration: Calibration) -> RewardCard:
    """The model with a calibration in its card, as a new version; the weights stay as they are."""
    check_reward_model(model)
    old = read_card(model)
    weights = old.version.partition("+")[0]
    card = replace(
        old,
        calibration=calibration,
        version=f"{weights}+{calibration.name}",
        parents={**old.parents, "calibrated from": old.version},
    )
    copy_model(model, out, card)
    return card


def copy_model(model: Path, out: Path, card: RewardCard) -> None:
    """Copy a model folder under another card, which is written last; refuses a non-empty `out`."""
    _refuse_full(out)
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(model.iterdir()):
        if file.is_file() and not file.name.startswith(".") and file.name not in (CARD, README):
            shutil.copyfile(file, out / file.name)
    write_json(out / CARD, card.as_dict())


def score_template(score_token: str) -> str:
    """ChatML of a whole conversation, then the score token."""
    opening = "{% if add_generation_prompt %}"
    return CHATML_TEMPLATE[: CHATML_TEMPLATE.index(opening)] + f"{{{{ '{score_token}' }}}}"


def sample_inputs(model: RewardModel) -> list[list[int]]:
    """Inputs of a few replies under every condition, as far as the model reads such lengths.

    Raises InputTooLong where not even the shortest fits.
    """
    inputs: list[list[int]] = []
    for reply in SAMPLES:
        for name in model.conditions.names:
            try:
                inputs.append(model.input(_sample(reply), name))
            except InputTooLong:
                if not inputs:
                    raise
    return inputs


def _refuse_full(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise RewardModelError(f"{out} is not empty: choose another place or remove it")


def _sample(reply: str) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": "Please explain it to me."},
        {"role": "assistant", "content": reply},
    ]


def _renders_like_us(model: RewardModel, template: str) -> bool:
    """Whether the template makes our inputs of the samples, where neither is cut."""
    for condition in model.conditions:
        prompt = condition.system_prompt if model.card.use_condition else ""
        system = [{"role": "system", "content": prompt}] if prompt else []
        for reply in SAMPLES:
            rendered = model.tokenizer.apply_chat_template(
                [*system, *_sample(reply)], chat_template=template, return_dict=True
            )
            theirs = list(rendered["input_ids"])
            if len(theirs) <= model.card.max_length and (
                theirs != model.input(_sample(reply), condition.name)
            ):
                return False
    return True


@torch.inference_mode()
def _scores_by_transformers(folder: Path, inputs: list[list[int]]) -> torch.Tensor:
    from transformers import AutoModelForSequenceClassification

    with quiet():
        network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    network.eval()
    rows = [network(input_ids=torch.tensor([tokens])).logits[0, 0] for tokens in inputs]
    return torch.stack(rows).float()


def _compare(program: str, expected: torch.Tensor, found: torch.Tensor) -> None:
    gap = float((expected - found).abs().max())
    if not gap <= TOLERANCE:
        raise ExportError(
            f"{program} scores the export differently, by up to {gap:.2g} (allowed: {TOLERANCE:g})"
        )
