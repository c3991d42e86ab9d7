"""Two sets of weights for each of two architectures: what a push goes from and to."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from actors.placement import RaySession
from tests.actors.rollout.support import HolderPolicy, make_folder


@pytest.fixture(scope="session")
def untied(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast
) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("untied")
    made = make_folder(folder / "old", 1), make_folder(folder / "new", 2)
    for each in made:
        tokenizer.save_pretrained(each)
    return made


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tied")
    return make_folder(folder / "old", 3, tied=True), make_folder(folder / "new", 4, tied=True)


@pytest.fixture(scope="session")
def holder(ray_session: RaySession) -> Iterator[HolderPolicy]:
    policy = HolderPolicy()
    yield policy
    policy.close()
