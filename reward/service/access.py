"""Who may ask: bearer tokens from the environment, compared by digest in constant time."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from pretrain_core.errors import InputError
from reward.service.errors import ServiceError

SCORE_VARIABLE = "COOL_RLHF_REWARD_TOKEN"
ADMIN_VARIABLE = "COOL_RLHF_REWARD_ADMIN_TOKEN"
SHORTEST = 16


@dataclass(frozen=True)
class Access:
    """Digests of the two tokens: the tokens themselves never reach Ray's tables or a log."""

    score: str
    admin: str

    def check(self, authorization: str | None, *, admin: bool = False) -> None:
        """Raise ServiceError 401 without a known token, 403 where the admin token is needed.

        The admin token may score too.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise ServiceError(
                401, "no_token", "send `Authorization: Bearer TOKEN` (COOL_RLHF_REWARD_TOKEN)"
            )
        given = digest(token.strip())
        # Both are compared, whatever the first says: the time tells nothing.
        may_score = hmac.compare_digest(given, self.score)
        may_swap = hmac.compare_digest(given, self.admin)
        if not (may_score or may_swap):
            raise ServiceError(401, "wrong_token", "the token is not one of this service's")
        if admin and not may_swap:
            raise ServiceError(403, "admin_only", f"this needs the token of {ADMIN_VARIABLE}")


@dataclass(frozen=True)
class Tokens:
    """The two tokens of a service, and which were made up because the environment had none."""

    score: str
    admin: str
    generated: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Tokens(generated={self.generated})"

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] | None = None) -> "Tokens":
        """Read both variables, generate what is absent; refuses short or equal tokens."""
        environment = os.environ if environment is None else environment
        generated = []
        found = {}
        for variable in (SCORE_VARIABLE, ADMIN_VARIABLE):
            token = environment.get(variable, "").strip()
            if not token:
                token = secrets.token_urlsafe(32)
                generated.append(variable)
            if len(token) < SHORTEST:
                raise InputError(f"{variable} has under {SHORTEST} characters: choose a longer one")
            found[variable] = token
        if found[SCORE_VARIABLE] == found[ADMIN_VARIABLE]:
            raise InputError(f"{SCORE_VARIABLE} and {ADMIN_VARIABLE} are equal: choose two tokens")
        return cls(found[SCORE_VARIABLE], found[ADMIN_VARIABLE], tuple(generated))

    @property
    def access(self) -> Access:
        """What the service keeps of them."""
        return Access(digest(self.score), digest(self.admin))


def digest(token: str) -> str:
    """SHA-256 of a token, hex."""
    return hashlib.sha256(token.encode()).hexdigest()
