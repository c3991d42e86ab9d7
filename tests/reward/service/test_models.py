from pathlib import Path

import pytest
import torch

from reward.conditions import Condition, Conditions
from reward.model import RewardModel, RewardModelError
from reward.service.models import incompatible, input_builder, load_checked, reference

TALKS = [
    [{"role": "user", "content": "Say it." * n}, {"role": "assistant", "content": "A stone. " * n}]
    for n in (1, 3, 200)
]


def test_inputs_are_those_of_training_and_need_no_weights(reward_folder: Path) -> None:
    """Fault 3: the reward model fed with other tokens than it was trained on."""
    builder, model = input_builder(reward_folder), RewardModel.load(reward_folder)
    assert all(p.device.type == "meta" for p in builder.network.parameters())
    for talk in TALKS[:2]:
        for condition in ("bright", "dark", None):
            assert builder.input(talk, condition) == model.input(talk, condition)


def test_a_good_folder_loads_and_has_a_reference(reward_folder: Path, other_folder: Path) -> None:
    first, second = reference(reward_folder), reference(other_folder)
    assert first.version == RewardModel.load(reward_folder).version
    assert (first.version, first.hash) != (second.version, second.hash)
    assert torch.isfinite(load_checked(reward_folder, "cpu").score_conversations(TALKS[:1], [None]))


def test_broken_folders_are_refused_with_the_reason(
    broken_folders: dict[str, Path], model_folder: Path
) -> None:
    for fault, folder in broken_folders.items():
        read = (lambda f: load_checked(f, "cpu")) if list(folder.glob("*.safet*")) else reference
        with pytest.raises(RewardModelError, match=fault):
            read(folder)
    with pytest.raises(RewardModelError, match="no reward model"):
        reference(model_folder)


def test_conditions_may_be_added_but_not_lost_or_reworded(conditions: Conditions) -> None:
    dark = conditions.get("dark")
    more = Conditions([*conditions, Condition("grey", "Prefer grey replies.")])
    assert incompatible(conditions, more) is None
    assert "lacks the conditions grey" in str(incompatible(more, conditions))
    reworded = Conditions([Condition("bright", "Prefer short replies."), dark])
    assert "words the conditions bright differently" in str(incompatible(conditions, reworded))
