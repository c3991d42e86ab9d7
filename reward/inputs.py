"""The reward model's input: the one function behind training, scoring, serving and evaluation.

Layout: condition as first system turn (none for `default`), the prompt with its own system turns,
the reply, the score token. Too long: the prompt is cut on its left.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pretrain_core.chat import Message, as_messages, encode
from pretrain_core.errors import InputError
from reward.conditions import Conditions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCORE_TOKEN = "<|score|>"


class RewardInputError(InputError):
    """A conversation or tokenizer from which no reward-model input can be made."""


class InputTooLong(RewardInputError):
    """The reply, with condition and score token, exceeds max_length even without its prompt."""


def score_token_id(tokenizer: "PreTrainedTokenizerBase", score_token: str = SCORE_TOKEN) -> int:
    """Id of the score token; refuses one that is missing, padding, or the end of a text or turn.

    Such a token would occur elsewhere in the input, and the score be read at a wrong place.
    """
    found = tokenizer.convert_tokens_to_ids(score_token)
    if found is None or tokenizer.convert_ids_to_tokens(found) != score_token:
        raise RewardInputError(
            f"the tokenizer has no score token {score_token}: make a reward model with "
            "create_reward_model, which adds it"
        )
    taken = {
        "pad": tokenizer.pad_token_id,
        "end": tokenizer.eos_token_id,
        "end of turn": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "unknown": tokenizer.unk_token_id,
    }
    for role, token_id in taken.items():
        if found == token_id:
            raise RewardInputError(
                f"the score token {score_token} is also the {role} token: choose a token of its own"
            )
    return int(found)


def split_reply(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """(prompt, reply): the reply is what follows the last user or system turn.

    Raises RewardInputError if nothing follows, or the conversation does not end with the assistant.
    """
    cut = max(
        (index + 1 for index, m in enumerate(messages) if m.role in ("user", "system")), default=0
    )
    prompt, reply = list(messages[:cut]), list(messages[cut:])
    if not any(message.role == "user" for message in prompt):
        raise RewardInputError("the conversation has no user turn before the reply")
    if not reply:
        raise RewardInputError(f"the conversation has no reply after its last {prompt[-1].role}")
    if reply[-1].role != "assistant":
        raise RewardInputError(
            f"a reply ends with an assistant turn, this one with {reply[-1].role}"
        )
    last = reply[-1]
    if not last.content.strip() and not last.actions:
        raise RewardInputError("the reply is empty")
    return prompt, reply


def condition_turn(
    tokenizer: "PreTrainedTokenizerBase", conditions: Conditions, condition: str
) -> list[int]:
    """Tokens of the system turn that states a condition, none for `default`.

    Raises UnknownCondition; ChatError where the tokenizer has no such turns.
    """
    stated = conditions.get(condition).system_prompt
    system = [Message(role="system", content=stated)] if stated else []
    return encode(tokenizer, system).tokens


def reward_input(
    tokenizer: "PreTrainedTokenizerBase",
    conditions: Conditions,
    messages: Sequence[Mapping[str, Any] | Message],
    condition: str,
    max_length: int,
    score_token: str = SCORE_TOKEN,
) -> list[int]:
    """Tokens [≤ max_length] of a conversation that ends with a reply, judged under `condition`.

    Raises UnknownCondition, RewardInputError, or InputTooLong where the reply alone is too long.
    """
    prompt, reply = split_reply(as_messages(messages))
    head = condition_turn(tokenizer, conditions, condition)
    tail = [*encode(tokenizer, reply).tokens, score_token_id(tokenizer, score_token)]
    room = max_length - len(head) - len(tail)
    if room < 0:
        raise InputTooLong(
            f"condition ({len(head)}) and reply with score token ({len(tail)}) take "
            f"{len(head) + len(tail)} tokens, max_length is {max_length}: raise it or leave the "
            "reply out (a reply is never cut)"
        )
    body = encode(tokenizer, prompt).tokens
    return head + body[max(0, len(body) - room) :] + tail
