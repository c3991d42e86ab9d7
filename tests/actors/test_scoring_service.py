"""Settings of a scorer behind a service; tests/reward/service/test_serving.py scores through it."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from actors.crew import CrewSettings
from actors.scoring import Judged, ScorerSettings
from actors.scoring_service import ServiceScorerWorker, service_tokens
from actors.worker import Rank
from pretrain_core.chat import Message
from pretrain_core.errors import InputError
from pretrain_core.settings import SettingsError, load
from reward.service.access import ADMIN_VARIABLE, SCORE_VARIABLE
from reward.service.policies import ItemRefused

URL = "scorer.url=http://127.0.0.1:8400"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([URL], "url need kind: service"),
        (["scorer.on_failure=stop", "scorer.deadline=5"], "deadline, on_failure need kind"),
        (["scorer.kind=service"], "kind: service needs a url"),
        (["scorer.kind=service", URL, "scorer.world_size=2"], "one rank"),
        (["scorer.kind=remote"], "scorer.kind"),
    ],
)
def test_settings_without_effect_are_refused(overrides: list[str], said: str) -> None:
    """Fault 8."""
    with pytest.raises(SettingsError, match=said):
        load(CrewSettings, None, overrides)


def test_saved_settings_of_both_kinds_load_again() -> None:
    for overrides in ([], ["scorer.kind=service", URL]):
        settings = load(CrewSettings, None, overrides).value.scorer
        saved: dict[str, Any] = settings.model_dump(mode="json")
        assert ScorerSettings.model_validate(saved) == settings
        # Fault 13: only the names of variables are saved.
        assert saved["token_env"] == SCORE_VARIABLE


def test_tokens_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ScorerSettings(kind="service", url="http://127.0.0.1:8400")
    monkeypatch.delenv(SCORE_VARIABLE, raising=False)
    monkeypatch.delenv(ADMIN_VARIABLE, raising=False)
    with pytest.raises(InputError, match=SCORE_VARIABLE):
        service_tokens(settings)
    monkeypatch.setenv(SCORE_VARIABLE, "a-token")
    assert service_tokens(settings) == ("a-token", None)


class RefusingClient:
    """A service that scores a reply by its length and refuses the long ones."""

    def score(self, items: Sequence[Mapping[str, Any]], deadline: float) -> Any:
        lengths = [len(item["messages"][-1].content) for item in items]
        for index, length in enumerate(lengths):
            if length > 3:
                raise ItemRefused(index, "too_long", f"{length} tokens")
        return SimpleNamespace(values=tuple(map(float, lengths)), version="v")


def test_refused_items_are_answered_with_their_reasons() -> None:
    settings = ScorerSettings(kind="service", url="http://127.0.0.1:8400")
    worker = ServiceScorerWorker(Rank("scorer", 0, 1, 1, 0), settings)
    worker.client, worker.version = cast(Any, RefusingClient()), "v"
    replies = ["longer", "ab", "much longer", "abc"]
    rows = [((Message(role="assistant", content=reply),), "helpful") for reply in replies]
    assert worker.score(rows) == (
        ["too_long: 6 tokens", Judged(2.0), "too_long: 11 tokens", Judged(3.0)],
        "v",
    )
