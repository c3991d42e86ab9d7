from pathlib import Path

import pytest
from typer.testing import CliRunner

from pretrain_core.errors import InputError
from reward.cli import app
from reward.service.access import SCORE_VARIABLE


@pytest.mark.parametrize(
    ("folder", "override", "said"),
    [
        ("model", "port=8400", "no reward model"),
        ("reward", "replica=2", "replica"),
        ("reward", "openrlhf={enabled: true, condition: brigth}", "did you mean 'bright'"),
    ],
)
def test_what_cannot_be_served_is_refused_before_ray_starts(
    model_folder: Path, reward_folder: Path, folder: str, override: str, said: str
) -> None:
    path = model_folder if folder == "model" else reward_folder
    with pytest.raises(InputError, match=said):
        CliRunner().invoke(app, ["serve", str(path), override], catch_exceptions=False)


def test_a_weak_token_is_refused(reward_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SCORE_VARIABLE, "short")
    with pytest.raises(InputError, match=SCORE_VARIABLE):
        CliRunner().invoke(app, ["serve", str(reward_folder)], catch_exceptions=False)
