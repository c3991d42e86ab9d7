import pytest

from pretrain_core.errors import InputError
from reward.service.access import ADMIN_VARIABLE, SCORE_VARIABLE, Tokens
from reward.service.errors import ServiceError

TOKENS = Tokens("score-token-0123456", "admin-token-0123456")


def test_the_admin_token_scores_and_the_other_does_not_swap() -> None:
    access = TOKENS.access
    access.check(f"Bearer {TOKENS.score}")
    access.check(f"bearer {TOKENS.admin}")
    access.check(f"Bearer {TOKENS.admin}", admin=True)
    with pytest.raises(ServiceError) as refused:
        access.check(f"Bearer {TOKENS.score}", admin=True)
    assert refused.value.status == 403


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic abc", "Bearer é", "Bearer wrong"])
def test_no_or_a_wrong_token_is_401(header: str | None) -> None:
    with pytest.raises(ServiceError) as refused:
        TOKENS.access.check(header)
    assert refused.value.status == 401
    assert refused.value.headers() == {"WWW-Authenticate": "Bearer"}


def test_tokens_come_from_the_environment_or_are_made() -> None:
    made = Tokens.of_environment({})
    assert made.generated == (SCORE_VARIABLE, ADMIN_VARIABLE)
    assert len({made.score, made.admin, Tokens.of_environment({}).score}) == 3
    given = Tokens.of_environment({SCORE_VARIABLE: TOKENS.score})
    assert (given.score, given.generated) == (TOKENS.score, (ADMIN_VARIABLE,))
    with pytest.raises(InputError, match="under 16"):
        Tokens.of_environment({SCORE_VARIABLE: "short"})
    with pytest.raises(InputError, match="equal"):
        Tokens.of_environment({SCORE_VARIABLE: TOKENS.score, ADMIN_VARIABLE: TOKENS.score})


def test_tokens_do_not_show_themselves() -> None:
    """Fault 13: keys that end up in saved files."""
    assert TOKENS.score not in repr(TOKENS)
    assert TOKENS.score not in repr(TOKENS.access)
