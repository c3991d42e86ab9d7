"""Secrets are never settings: what a secret looks like, and how to keep it off the disk."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

HIDDEN = "***"

_SECRET_WORDS = frozenset(
    {"password", "passwd", "passphrase", "pwd", "secret", "secrets"}
    | {"credential", "credentials", "apikey", "bearer"}
)
_KEY_OWNERS = frozenset(["api", "access", "private", "signing", "encryption", "wandb", "hf", "hub"])
_TOKEN_OWNERS = frozenset(
    ["auth", "access", "api", "bearer", "hf", "hub", "wandb", "github", "session", "refresh"]
)
# A prefix alone would hit folder names (`hf_model`), hence the length.
_SECRET_VALUE = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|AKIA[A-Z0-9]{16})"
)
_PASSWORD_IN_URL = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word]


def is_secret_name(name: str) -> bool:
    """Whether a key of this name would hold a secret (`api_key` does, `score_token` does not)."""
    words = _words(name)
    if _SECRET_WORDS & set(words) or words in (["token"], ["auth"]):
        return True
    pairs = list(itertools.pairwise(words))
    return any(
        (second in ("key", "keys") and first in _KEY_OWNERS)
        or (second == "token" and first in _TOKEN_OWNERS)
        for first, second in pairs
    )


def holds_secret(value: object) -> bool:
    """Whether a text looks like a credential: a known prefix, or a URL with a password."""
    return isinstance(value, str) and bool(
        _SECRET_VALUE.search(value) or _PASSWORD_IN_URL.search(value)
    )


def find_secret(tree: object, path: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    """Return the path of the first key or value of a nested structure that looks like a secret."""
    if isinstance(tree, Mapping):
        children: Iterable[tuple[str, object]] = ((str(key), item) for key, item in tree.items())
        for key, item in children:
            # A null or a flag named so holds nothing (`auth: true`).
            if is_secret_name(key) and isinstance(item, str | int) and not isinstance(item, bool):
                return (*path, key)
            if (found := find_secret(item, (*path, key))) is not None:
                return found
    elif isinstance(tree, list | tuple):
        for index, item in enumerate(tree):
            if (found := find_secret(item, (*path, str(index)))) is not None:
                return found
    elif holds_secret(tree):
        return path
    return None


def redacted(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the values of secret options and secret-looking texts hidden."""
    shown: list[str] = []
    hide_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        secret = is_secret_name(name.rsplit(".", 1)[-1])
        if hide_next:
            shown.append(HIDDEN)
        elif equals and secret:
            shown.append(f"{name}={HIDDEN}")
        else:
            shown.append(_PASSWORD_IN_URL.sub(HIDDEN, _SECRET_VALUE.sub(HIDDEN, argument)))
        hide_next = not hide_next and not equals and secret and argument.startswith("-")
    return shown
