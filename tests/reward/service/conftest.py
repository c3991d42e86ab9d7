"""Fixtures of the service's tests: a gateway without Ray, whose one replica is in this process."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reward.conditions import Conditions
from reward.model import create_reward_model
from reward.service.gateway import Gateway
from reward.service.models import ModelRef
from reward.service.replica import Models
from reward.service.settings import ServiceSettings

MakeGateway = Callable[..., Gateway]


@pytest.fixture(scope="session")
def other_folder(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, conditions: Conditions
) -> Path:
    """Another version under the same conditions."""
    out = tmp_path_factory.mktemp("other") / "model"
    return create_reward_model(model_folder, out, conditions, seed=8)


@pytest.fixture(scope="session")
def broken_folders(tmp_path_factory: pytest.TempPathFactory, other_folder: Path) -> dict[str, Path]:
    """Copies of a model with one fault each, by what the refusal must say."""
    root = tmp_path_factory.mktemp("broken")
    folders = {}
    for number, fault in enumerate(
        ("not finite", "the weights lack", "cannot be loaded", "no safetensors file")
    ):
        folder = folders[fault] = root / str(number)
        shutil.copytree(other_folder, folder)
        file = folder / "model.safetensors"
        weights = load_file(file)
        if fault == "not finite":
            weights["model.norm.weight"][3] = torch.nan
        if fault == "the weights lack":
            del weights["model.norm.weight"]
        save_file(weights, file, metadata={"format": "pt"})
        if fault == "cannot be loaded":
            file.write_bytes(file.read_bytes()[:-1000])
        if fault == "no safetensors file":
            file.unlink()
    return folders


@pytest.fixture
def make_gateway(reward_folder: Path) -> MakeGateway:
    """A gateway whose batches this process scores; keyword arguments are settings."""

    def make(folder: Path = reward_folder, **settings: object) -> Gateway:
        models = Models(threads=1, device="cpu")

        async def forward(ref: ModelRef, inputs: list[Sequence[int]]) -> list[float | None]:
            return await models.score(ref, inputs)

        return Gateway(ServiceSettings.model_validate(settings), folder, forward)

    return make
