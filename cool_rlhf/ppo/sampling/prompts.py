"""The prompts of PPO: each carries exactly one condition, drawn in an order fixed by the seed."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, model_validator

from pretrain_core.cache import InputPath
from pretrain_core.chat import ChatError, Message, PolicyChat, conversation
from pretrain_core.draws import rng
from pretrain_core.errors import InputError
from pretrain_core.settings import Settings
from reward.conditions import Conditions, UnknownCondition
from reward.conditions.router import Router, choose
from reward.verifiers.replies import reference_text


class PromptError(InputError):
    """The prompt file cannot be used; the message names file, line and way out."""


class PromptSettings(Settings):
    """Which prompts a run draws from."""

    path: InputPath
    default_condition: str | None = Field(None, description="for prompts without a condition")
    router: InputPath | None = Field(
        None, description="router folder that chooses a condition for prompts without one"
    )
    max_tokens: int = Field(1024, gt=0, description="longer prompts are quarantined, never cut")

    @model_validator(mode="after")
    def _one_way(self) -> "PromptSettings":
        if self.router is not None and self.default_condition is not None:
            raise ValueError(
                "prompts.default_condition serves every prompt without a condition, so "
                "prompts.router would never be asked: leave one of them out"
            )
        return self


@dataclass(frozen=True)
class Prompt:
    """One prompt with its single condition and its tokens under the policy's template.

    `reference`: what verifiers compare a reply with.
    """

    id: str
    messages: tuple[Message, ...]
    condition: str
    tokens: tuple[int, ...]
    reference: str | None = None


@dataclass(frozen=True)
class Quarantined:
    """A record left out, with its line and the reason."""

    line: int
    reason: str


class PromptSet(Sequence[Prompt]):
    """Prompts in file order; `draw` gives those of one iteration."""

    def __init__(self, prompts: Sequence[Prompt], quarantined: Sequence[Quarantined]) -> None:
        self._prompts = tuple(prompts)
        self.quarantined = tuple(quarantined)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._prompts[index]

    def __len__(self) -> int:
        return len(self._prompts)

    def draw(self, seed: int, iteration: int, count: int) -> list[Prompt]:
        """The `count` prompts of an iteration: each pass over the set is a fresh permutation."""
        first = iteration * count
        return [self._at(seed, position) for position in range(first, first + count)]

    def _at(self, seed: int, position: int) -> Prompt:
        epoch, offset = divmod(position, len(self))
        order = rng(seed, "prompts", epoch).permutation(len(self))
        return self._prompts[order[offset]]


def read_prompts(settings: PromptSettings, chat: PolicyChat, conditions: Conditions) -> PromptSet:
    """Read a JSONL file `{"prompt": [messages], "condition"?, "id"?, "reference"?}`.

    Unreadable records, prompts without a user turn, with two conditions or too long are
    quarantined and counted. Raises PromptError when the file is missing, holds one id under two
    contents, names an unknown condition, or leaves no usable prompt.
    """
    if not settings.path.is_file():
        raise PromptError(f"{settings.path}: no such prompt file")
    router = Router.load(settings.router) if settings.router is not None else None
    prompts: dict[str, Prompt] = {}
    quarantined: list[Quarantined] = []
    with settings.path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{settings.path}:{number}"
            try:
                prompt = _parse(line, number, settings, chat, conditions, router)
            except (json.JSONDecodeError, ChatError, _Unusable) as error:
                quarantined.append(Quarantined(number, str(error)))
                continue
            except UnknownCondition as error:
                raise PromptError(f"{where}: {error}") from error
            if prompts.setdefault(prompt.id, prompt) != prompt:
                raise PromptError(
                    f"{where}: id {prompt.id!r} stands for another prompt or condition above;"
                    " each PPO prompt carries exactly one condition"
                )
    if not prompts:
        reasons = "; ".join(f"line {q.line}: {q.reason}" for q in quarantined[:3])
        raise PromptError(f"{settings.path}: no usable prompt ({reasons or 'empty file'})")
    return PromptSet(list(prompts.values()), quarantined)


class _Unusable(ValueError):
    """One record cannot serve as a prompt."""


def _parse(
    line: str,
    number: int,
    settings: PromptSettings,
    chat: PolicyChat,
    conditions: Conditions,
    router: Router | None,
) -> Prompt:
    record = json.loads(line)
    if not isinstance(record, dict) or not isinstance(record.get("prompt"), list):
        raise _Unusable("`prompt` must be a list of messages")
    messages = conversation(record["prompt"])
    condition = record.get("condition", settings.default_condition)
    if router is not None and condition is None:
        condition = choose(record, router=router).condition
    if not isinstance(condition, str):
        raise _Unusable(
            f"`condition` is {condition!r}: exactly one condition name is needed, in the record,"
            " as prompts.default_condition or by prompts.router"
        )
    conditions.get(condition)
    tokens = tuple(chat.prompt(messages))
    if len(tokens) > settings.max_tokens:
        raise _Unusable(f"{len(tokens)} tokens, more than prompts.max_tokens {settings.max_tokens}")
    reference = reference_text(record.get("reference"))
    return Prompt(str(record.get("id", f"line-{number}")), messages, condition, tokens, reference)


def write_prompts(path: Path, prompts: Iterable[tuple[str, Sequence[Message], str]]) -> None:
    """Write (id, messages, condition) records as JSONL."""
    with path.open("w", encoding="utf-8") as out:
        for identity, messages, condition in prompts:
            record = {
                "id": identity,
                "prompt": [message.model_dump(exclude_none=True) for message in messages],
                "condition": condition,
            }
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
