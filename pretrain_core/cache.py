"""Where artefacts that any run may reuse are kept, and paths in settings that point there."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator


def cache_root() -> Path:
    """`$COOL_RLHF_CACHE`, or `~/.cache/cool-rlhf`."""
    return Path(os.environ.get("COOL_RLHF_CACHE", "~/.cache/cool-rlhf")).expanduser()


def expand(value: object) -> object:
    """Turn `cache:demo/sft` and `~/models/x` into paths; anything else passes unchanged."""
    if not isinstance(value, str):
        return value
    if value.startswith("cache:"):
        return cache_root() / value.removeprefix("cache:")
    return Path(value).expanduser()


InputPath = Annotated[Path, BeforeValidator(expand)]
"""A path in a settings file: `cache:NAME`, `~/NAME`, absolute or relative."""
