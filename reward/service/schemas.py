"""Requests and answers of the service's HTTP interface, and the limits checked before them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError
from pydantic_core import from_json

from pretrain_core.chat import Message
from reward.service.errors import ServiceError
from reward.service.settings import LimitSettings

Name = Annotated[str, Field(max_length=200)]
Reason = Literal["too_long", "unknown_condition", "bad_conversation", "not_finite", "failed"]


class Schema(BaseModel):
    """Base of all: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ScoreItem(Schema):
    """One conversation that ends with the reply to be scored, under one condition."""

    messages: tuple[Message, ...] = Field(min_length=1)
    condition: Name | None = None
    id: Name | None = None


class ScoreRequest(Schema):
    """`POST /v1/score`."""

    items: tuple[ScoreItem, ...] = Field(min_length=1)
    deadline_ms: StrictInt | None = Field(None, gt=0)
    idempotency_key: Annotated[str, Field(min_length=8, max_length=200)] | None = None


class Refusal(Schema):
    """Why one item has no score."""

    reason: Reason
    message: str


class ItemScore(Schema):
    """Either `score` (raw, fp32) or `error`, never neither."""

    id: str | None = None
    score: float | None = None
    error: Refusal | None = None


class ScoreAnswer(Schema):
    """Scores in the order of the items, all given by the one model of that version."""

    scores: tuple[ItemScore, ...]
    version: str
    model: str


class SwapRequest(Schema):
    """`POST /v1/models`: serve another reward-model folder of the service's machine."""

    folder: str = Field(min_length=1, max_length=4096)


class ReplicaStatus(Schema):
    """One process that holds the model; `version` is what its next batch is scored with."""

    replica: str
    pid: int
    version: str | None
    loaded: tuple[str, ...]


class ModelStatus(Schema):
    """`GET /v1/models`, and the answer to a swap."""

    model: str
    version: str
    hash: str
    conditions: tuple[str, ...]
    conditions_hash: str
    max_length: int
    replicas: tuple[ReplicaStatus, ...]
    switched: bool = Field(description="every replica holds this version and no other")


class OpenRLHFRequest(Schema):
    """`POST /get_reward`: templated texts, as OpenRLHF's remote reward client sends them."""

    query: tuple[str, ...] = Field(min_length=1)
    prompts: tuple[str, ...] | None = None
    labels: tuple[str | None, ...] | None = None
    conditions: tuple[str | None, ...] | None = None


S = TypeVar("S", bound=Schema)


def parse(schema: type[S], body: bytes, limits: LimitSettings) -> S:
    """The request in a body; ServiceError 422 names the item, 413 what is too much.

    Limits are checked on the bare JSON: nothing is built of what is refused.
    """
    try:
        raw = from_json(body)
    except ValueError as error:
        raise ServiceError(422, "malformed", f"the body is not JSON: {error}") from error
    _check_limits(raw, limits)
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = list(first["loc"])
        item = path[1] if path[:1] == ["items"] and len(path) > 1 else None
        where = ".".join(str(part) for part in path) or "body"
        more = f" ({error.error_count()} faults in all)" if error.error_count() > 1 else ""
        raise ServiceError(
            422,
            "malformed",
            f"{where}: {first['msg']}{more}",
            item=item if isinstance(item, int) else None,
        ) from error


def _check_limits(raw: object, limits: LimitSettings) -> None:
    if not isinstance(raw, Mapping):
        return
    items = raw.get("items", raw.get("query"))
    if not isinstance(items, list):
        return
    if len(items) > limits.items:
        raise ServiceError(
            413, "too_many_items", f"{len(items)} items, at most {limits.items}: send several"
        )
    for index, item in enumerate(items):
        messages = item.get("messages") if isinstance(item, Mapping) else None
        if isinstance(messages, list) and len(messages) > limits.messages:
            raise ServiceError(
                413,
                "too_many_messages",
                f"item {index} has {len(messages)} messages, at most {limits.messages}",
                item=index,
            )
        characters = len(item) if isinstance(item, str) else _characters(messages)
        if characters > limits.characters:
            raise ServiceError(
                413,
                "too_many_characters",
                f"item {index} has {characters} characters, at most {limits.characters}",
                item=index,
            )


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_characters(part) for part in value.values())
    if isinstance(value, list):
        return sum(_characters(part) for part in value)
    return 0
