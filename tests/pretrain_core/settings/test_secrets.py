"""Secrets are never settings, and never on disk."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from pretrain_core.settings import Settings, SettingsError, load
from pretrain_core.settings.secrets import find_secret, is_secret_name, redacted


class Free(Settings):
    engine: dict[str, Any] = Field(default_factory=dict)
    database: str = ""


@pytest.mark.parametrize(
    "name",
    [
        *["api_key", "apiKey", "wandb_api_key", "password", "db-password", "hf_token", "token"],
        *["client_secret", "access_token", "private_key", "credentials", "AWS_SECRET_ACCESS_KEY"],
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *["tokens", "max_tokens", "score_token", "pad_token", "tokenizer", "stop_token_ids", "key"],
        *["kv_cache_bytes", "keys", "micro_batch_tokens", "author", "token_budget", "keyword"],
    ],
)
def test_names_of_the_field_that_are_no_secrets(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("engine.api_key=abc", "engine.api_key"),
        ("engine={deep: {hf_token: abc}}", "engine.deep.hf_token"),
        ("database=postgresql://ada:pw@host/x", "database"),
        ("engine.x=hf_" + "a" * 34, "engine.x"),
    ],
)
def test_a_secret_is_refused_and_not_repeated(override: str, key: str) -> None:
    with pytest.raises(SettingsError, match="looks like a secret") as caught:
        load(Free, None, [override])
    assert key in str(caught.value)
    value = override.partition("=")[2].strip("{}").rpartition(" ")[2]
    assert value not in str(caught.value)


def test_a_schema_cannot_have_a_field_for_a_secret() -> None:
    with pytest.raises(TypeError, match=r"api_key: secrets are never settings"):
        type("Leaky", (Settings,), {"__annotations__": {"api_key": str}})


def test_harmless_trees_hold_no_secret() -> None:
    tree = {
        "token": None,
        "auth": True,
        "url": "http://host:80/x",
        "path": Path("a"),
        "n": [1, "b"],
    }
    assert find_secret(tree) is None


def test_a_command_line_is_redacted() -> None:
    command = [
        "python",
        "-m",
        "x",
        "--api-key",
        "abc",
        "run.hf_token=def",
        "--n=3",
        "db://u:pw@h/x",
    ]
    assert redacted(command) == [
        *["python", "-m", "x", "--api-key", "***", "run.hf_token=***", "--n=3", "db://***@h/x"]
    ]
