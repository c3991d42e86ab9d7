"""One Ray for all tests of the actors."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from actors.placement import RaySession, RaySettings, start_ray


@pytest.fixture(scope="session")
def ray_session() -> Iterator[RaySession]:
    """A local Ray with room for all roles, ended with the session."""
    with start_ray(RaySettings(logical_cpus=24)) as session:
        yield session
    assert session.folder is not None
    assert not Path(session.folder).exists()


@pytest.fixture(scope="session")
def scoring_folder(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A sequence-classification folder with the body of `model_folder`."""
    folder = tmp_path_factory.mktemp("scoring")
    AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=1).save_pretrained(
        folder
    )
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    return folder
