"""Environments that are a function of the test's own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from cool_rlhf.ppo.sampling.environment import (
    FunctionEnvironment,
    FunctionEnvironmentSettings,
    build_environment,
)

Make = Callable[[str], FunctionEnvironment]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made = []

    def build(source: str) -> FunctionEnvironment:
        file = tmp_path / "world.py"
        file.write_text(source)
        settings = FunctionEnvironmentSettings(file=file, max_turns=3)
        made.append(cast(FunctionEnvironment, build_environment(settings)))
        return made[-1]

    yield build
    for environment in made:
        environment.close()
