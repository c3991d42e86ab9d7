import json

import pytest

from pretrain_core.errors import InputError
from pretrain_core.settings import SettingsError, load
from reward.service.errors import ServiceError
from reward.service.schemas import ScoreRequest, parse
from reward.service.settings import LimitSettings, ServiceSettings

TALK = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}]
LIMITS = LimitSettings(items=3, messages=4, characters=100)


def refused(body: object, limits: LimitSettings = LIMITS) -> ServiceError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ServiceError) as caught:
        parse(ScoreRequest, raw, limits)
    return caught.value


def test_a_good_request() -> None:
    body = {"items": [{"messages": TALK, "condition": "dark", "id": "x"}], "deadline_ms": 50}
    request = parse(ScoreRequest, json.dumps(body).encode(), LIMITS)
    assert [m.content for m in request.items[0].messages] == ["Hello?", "Hello."]
    assert (request.items[0].condition, request.deadline_ms) == ("dark", 50)


@pytest.mark.parametrize(
    ("change", "item", "said"),
    [
        ({"messages": [{"role": "user", "content": 5}]}, 1, "items.1.messages.0.content"),
        ({"messages": [{"role": "boss", "content": ""}]}, 1, "items.1.messages.0.role"),
        ({"messages": []}, 1, "items.1.messages"),
        ({"messages": "hello"}, 1, "items.1.messages"),
        ({"messages": TALK, "condition": 7}, 1, "items.1.condition"),
        ({"messages": TALK, "model": "x"}, 1, "items.1.model"),
    ],
)
def test_a_malformed_item_is_named(change: dict[str, object], item: int, said: str) -> None:
    error = refused({"items": [{"messages": TALK}, change]})
    assert (error.status, error.reason, error.item) == (422, "malformed", item)
    assert said in error.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b'"text"',
        b"\xff\xfe",
        b'{"items": []}',
        b'{"items": 3}',
        b'{"items": [{"messages": [{"role": "user", "content": "\\ud800"}]}]}',
        b"[" * 10_000,
        {"items": [{"messages": TALK}], "deadline_ms": "soon"},
        {"items": [{"messages": TALK}], "deadline_ms": True},
        {"items": [{"messages": TALK}], "deadline_ms": -1},
        {"items": [{"messages": TALK}], "idempotency_key": "short"},
        {"items": [{"messages": TALK}], "priority": 1},
    ],
)
def test_other_malformed_requests(body: object) -> None:
    error = refused(body)
    assert (error.status, error.reason) == (422, "malformed")


def test_limits_are_checked_before_anything_is_built() -> None:
    assert refused({"items": [{"messages": TALK}] * 4}).reason == "too_many_items"
    many = refused({"items": [{"messages": TALK}, {"messages": [1] * 5}]})
    assert (many.status, many.reason, many.item) == (413, "too_many_messages", 1)
    long = refused({"items": [{"messages": [{"role": "user", "content": "x" * 101}]}]})
    assert (long.status, long.reason, long.item) == (413, "too_many_characters", 0)


def test_settings_that_contradict_each_other_are_refused() -> None:
    for override, said in (
        (["openrlhf.enabled=true", "host=0.0.0.0"], "needs a loopback host"),
        (["batch_tokens=10", "queue_tokens=5"], "no batch would ever be full"),
        (["deadline_ms=10", "longest_deadline_ms=5"], "above longest_deadline_ms"),
        (["batch_token=10"], "batch_token"),
    ):
        with pytest.raises(SettingsError, match=said):
            load(ServiceSettings, None, override)
    assert issubclass(SettingsError, InputError)
    assert load(ServiceSettings, None, ["openrlhf.enabled=true"]).value.host == "127.0.0.1"
