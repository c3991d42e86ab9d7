"""A reward model for the actors."""

from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer


@pytest.fixture(scope="session")
def scoring_folder(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A sequence-classification folder with the body of `model_folder`."""
    folder = tmp_path_factory.mktemp("scoring")
    AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=1).save_pretrained(
        folder
    )
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    return folder
