"""Conversations: roles, ChatML, per-token masks; the only place that tokenises a conversation."""

from pretrain_core.chat.chatml import (
    CHATML_TEMPLATE,
    IM_END,
    IM_START,
    Encoded,
    encode,
    encode_prompt,
    render,
)
from pretrain_core.chat.message import Action, ChatError, Message, as_messages, conversation
from pretrain_core.chat.policy import PolicyChat

__all__ = [
    "CHATML_TEMPLATE",
    "IM_END",
    "IM_START",
    "Action",
    "ChatError",
    "Encoded",
    "Message",
    "PolicyChat",
    "as_messages",
    "conversation",
    "encode",
    "encode_prompt",
    "render",
]
