"""OpenRLHF's remote reward request: templated text parsed back into messages.

Its client posts `query` (prompt and reply under the policy's template) and reads `rewards`;
newer ones also send `prompts` and `labels` and read `scores` and `extra_logs`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pretrain_core.chat import ChatError, Message, as_messages
from pretrain_core.errors import InputError
from reward.service.errors import ServiceError
from reward.service.schemas import OpenRLHFRequest, ScoreAnswer, ScoreItem
from reward.service.settings import OpenRLHFSettings


class UnreadableQuery(InputError):
    """A query that is no conversation under a known template."""


@dataclass(frozen=True)
class Template:
    """How a chat template opens and closes a turn."""

    name: str
    opening: re.Pattern[str]
    closing: str


TEMPLATES = (
    Template(
        "ChatML (InternLM, Qwen)",
        re.compile(r"<\|im_start\|>(?P<role>\w+)(?: name=(?P<name>\S+))?\n"),
        "<|im_end|>",
    ),
    Template(
        "Llama 3",
        re.compile(r"<\|start_header_id\|>(?P<role>\w+)<\|end_header_id\|>\n\n(?P<name>(?!))?"),
        "<|eot_id|>",
    ),
)
ROLES = {"tool": "environment", "ipython": "environment"}
# Begin- and end-of-text tokens and padding, which stand around a conversation.
EDGE = r"(?:\s|<s>|</s>|<\|begin_of_text\|>|<\|end_of_text\|>|<\|endoftext\|>|<\|pad\|>)*"
ACTION = re.compile(
    r"<\|action_start\|><\|(?P<tool>plugin|interpreter)\|>\n(?P<content>.*?)<\|action_end\|>", re.S
)


def parse_query(query: str, prompt: str | None = None) -> tuple[Message, ...]:
    """Messages of a templated conversation; the last turn may lack its end.

    With `prompt`, its templated text, a reply that opens a turn of its own is noticed: text cannot
    tell a control token from its spelling. Raises UnreadableQuery.
    """
    template = template_of(query)
    if template is None:
        raise UnreadableQuery(
            "no turn of a known template (" + ", ".join(t.name for t in TEMPLATES) + ")"
        )
    openings = list(template.opening.finditer(query))
    if not re.fullmatch(EDGE, query[: openings[0].start()]):
        raise UnreadableQuery("text before the first turn")
    if prompt is not None:
        _check_reply(query, prompt, template)
    turns = []
    for index, opening in enumerate(openings):
        last = index + 1 == len(openings)
        end = len(query) if last else openings[index + 1].start()
        content, closed, rest = query[opening.end() : end].partition(template.closing)
        if not closed and not last:
            raise UnreadableQuery(f"turn {index} ({opening['role']}) has no end")
        if not re.fullmatch(EDGE, rest):
            raise UnreadableQuery(f"text after the end of turn {index} ({opening['role']})")
        if not closed:
            content = re.sub(EDGE + r"\Z", "", content)
        turns.append(_turn(opening, content))
    try:
        return as_messages(turns)
    except ChatError as error:
        raise UnreadableQuery(str(error)) from error


def template_of(text: str) -> Template | None:
    """The template that opens most turns of a text, None where none opens any."""
    opened = {template: len(template.opening.findall(text)) for template in TEMPLATES}
    template = max(opened, key=lambda template: opened[template])
    return template if opened[template] else None


def _check_reply(query: str, prompt: str, template: Template) -> None:
    if not query.startswith(prompt):
        raise UnreadableQuery("the query does not begin with its prompt")
    if template.opening.search(query, len(prompt)):
        raise UnreadableQuery("the reply opens a turn of its own")


def _turn(opening: re.Match[str], content: str) -> dict[str, Any]:
    role = ROLES.get(opening["role"], opening["role"])
    turn: dict[str, Any] = {"role": role, "content": content}
    if opening["name"]:
        turn["name"] = opening["name"]
    actions = [match.groupdict() for match in ACTION.finditer(content)]
    if actions and role == "assistant":
        turn |= {"content": ACTION.sub("", content), "actions": actions}
    return turn


def items_of(request: OpenRLHFRequest, settings: OpenRLHFSettings) -> tuple[ScoreItem, ...]:
    """Items of a request; ServiceError 422 names the query that cannot be read.

    Condition: `conditions` of the request, else its labels if so set, else the default one.
    """
    count = len(request.query)
    for name in ("prompts", "labels", "conditions"):
        values = getattr(request, name)
        if values is not None and len(values) != count:
            raise ServiceError(
                422, "malformed", f"{len(values)} {name} for {count} queries: one each"
            )
    named: Sequence[str | None] = request.conditions or (None,) * count
    if request.conditions is None and settings.labels_are_conditions:
        named = request.labels or named
    items = []
    for index, query in enumerate(request.query):
        try:
            messages = parse_query(query, request.prompts[index] if request.prompts else None)
        except UnreadableQuery as error:
            raise ServiceError(422, "unreadable", f"query {index}: {error}", item=index) from error
        items.append(ScoreItem(messages=messages, condition=named[index] or settings.condition))
    return tuple(items)


def answer_of(answer: ScoreAnswer) -> dict[str, Any]:
    """The answer that OpenRLHF reads; its format has no place for a missing score, so 422."""
    for index, item in enumerate(answer.scores):
        if item.error is not None:
            raise ServiceError(
                422, item.error.reason, f"query {index}: {item.error.message}", item=index
            )
    scores = [item.score for item in answer.scores]
    return {"rewards": scores, "scores": scores, "extra_logs": {}}
