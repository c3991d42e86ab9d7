import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from reward.card import RewardModelError
from reward.data import Preference
from reward.heads import add_heads, bootstrap_counts
from reward.model import RewardModel, first_std, read_card

Opposed = Callable[[int, int], list[Preference]]


def with_heads(folder: Path, heads: int, seed: int = 0) -> RewardModel:
    model = RewardModel.load(folder)
    add_heads(model.network, heads, seed, first_std(model.network))
    model.card = replace(model.card, heads=heads)
    return model


def inputs_of(model: RewardModel, records: list[Preference]) -> list[list[int]]:
    return [model.input([*r.prompt, *r.chosen], r.condition) for r in records]


def test_further_heads_leave_the_score_and_the_hugging_face_folder_alone(
    reward_folder: Path, opposed: Opposed, tmp_path: Path
) -> None:
    plain, model = RewardModel.load(reward_folder), with_heads(reward_folder, 4)
    inputs = inputs_of(plain, opposed(3, 0))
    scores, spread = model.score_with_spread(inputs)
    assert torch.equal(scores, plain.score(inputs))
    assert bool((spread > 0).all())

    folder = model.save(tmp_path / "rm")
    assert read_card(folder).heads == 4
    again = RewardModel.load(folder)
    assert torch.equal(torch.stack(again.score_with_spread(inputs)), torch.stack((scores, spread)))
    theirs, report = AutoModelForSequenceClassification.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(report.values())
    alone = theirs(input_ids=torch.tensor([inputs[0]])).logits.item()
    assert alone == pytest.approx(float(scores[0]), abs=1e-5)
    # Readers that take every *.safetensors go by the index.
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == set(theirs.state_dict())
    assert set(index.values()) == {"model.safetensors"}


def test_heads_come_from_the_seed_and_are_dropped_on_request(reward_folder: Path) -> None:
    one, same, other = (with_heads(reward_folder, 3, seed) for seed in (1, 1, 2))
    weights = [model.network.ensemble.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    add_heads(one.network, 1, 0, 0.1)
    assert not hasattr(one.network, "ensemble")


def test_a_model_without_further_heads_has_no_spread(reward_folder: Path) -> None:
    with pytest.raises(RewardModelError, match="heads: 5"):
        RewardModel.load(reward_folder).score_with_spread([])


def test_heads_that_do_not_fit_the_card_are_refused(reward_folder: Path, tmp_path: Path) -> None:
    folder = with_heads(reward_folder, 3).save(tmp_path / "rm")
    card = json.loads((folder / "reward.json").read_text())
    (folder / "reward.json").write_text(json.dumps(card | {"heads": 4}))
    with pytest.raises(RewardModelError, match="the card's 4 heads need"):
        RewardModel.load(folder)
    (folder / "heads.safetensors").unlink()
    with pytest.raises(RewardModelError, match="is missing"):
        RewardModel.load(folder)
    shutil.rmtree(folder)


def test_bootstrap_draws_are_poisson_and_from_the_seed() -> None:
    counts = torch.tensor(
        [bootstrap_counts(5, 3, n, str(n)) for n in range(400)], dtype=torch.float32
    )
    assert counts.shape == (400, 4)
    assert counts.mean() == pytest.approx(1.0, abs=0.1)
    assert counts.var() == pytest.approx(1.0, abs=0.2)
    assert bootstrap_counts(5, 3, 0, "0") == bootstrap_counts(5, 3, 0, "0")
    assert bootstrap_counts(1, 3, 0, "0") == []
