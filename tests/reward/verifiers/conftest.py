"""Helpers of the verifier tests."""

from collections.abc import Callable

import pytest

from pretrain_core.chat import Message


@pytest.fixture(scope="session")
def ask() -> Callable[[str], list[Message]]:
    """A prompt of one user turn."""
    return lambda text: [Message(role="user", content=text)]
