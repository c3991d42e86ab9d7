"""A policy's own chat format: whatever template its tokenizer carries, checked before use."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from pretrain_core.chat.chatml import (
    ACTION_END,
    ACTION_START,
    CHATML_TEMPLATE,
    IM_END,
    TOOL_TOKEN,
    Encoded,
    control_id,
    encode,
    encode_continuation,
    encode_prompt,
    plain_ids,
)
from pretrain_core.chat.message import Action, ChatError, Message, as_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PolicyChat:
    """Prompts and replies of a policy in its tokenizer's own template.

    Raises `ChatError` if the tokenizer has no template or the template drops the system role.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer
        template = tokenizer.chat_template
        if not template:
            raise ChatError(
                "the tokenizer has no chat template: set tokenizer.chat_template "
                "(pretrain_core.chat.CHATML_TEMPLATE is ours) and save it beside the model"
            )
        self._ours = template == CHATML_TEMPLATE
        self.stop_token_ids = [control_id(tokenizer, IM_END)] if self._ours else self._closing_ids()
        if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in self.stop_token_ids:
            self.stop_token_ids.append(int(tokenizer.eos_token_id))

    def prompt(self, messages: Sequence[Mapping[str, Any] | Message]) -> list[int]:
        """Tokens up to where the assistant starts to speak."""
        checked = as_messages(messages)
        if self._ours:
            return encode_prompt(self.tokenizer, checked)
        marked, contents = _mark(checked)
        text = self._render(marked, generation_prompt=True)
        self._require_all(text, marked)
        return self._tokens(text, contents)

    def continuation(self, turns: Sequence[Mapping[str, Any] | Message]) -> list[int]:
        """Tokens of `turns` after a sampled reply's stop token, up to where the assistant speaks.

        Raises `ChatError` where the template rewrites earlier turns, or has no place for a role.
        """
        checked = as_messages(turns)
        if self._ours:
            return encode_continuation(self.tokenizer, checked)
        talk = [Message(role="user", content="user"), Message(role="assistant", content="reply")]
        marked, contents = _mark([*talk, *checked])
        text = self._render(marked, generation_prompt=True)
        self._require_all(text, marked)
        start = self._prefix(text, marked[:2], index=1)
        said = text.index(marked[1].content) + len(marked[1].content)
        closing = self._tokens(text[said:start], contents)
        stops = [i for i, token in enumerate(closing) if token in self.stop_token_ids]
        if not stops:
            raise ChatError("the template does not close the assistant turn")
        return closing[stops[-1] + 1 :] + self._tokens(text[start:], contents)

    def reply(self, tokens: Sequence[int]) -> str:
        """Text of sampled tokens up to the first stop token (not included)."""
        return self._decode(self._until_stop(tokens))

    def reply_message(self, tokens: Sequence[int]) -> Message:
        """The reply as a message, its trailing tool calls parsed into `actions`.

        A call that is not well formed stays in the content as text.
        """
        ids = self._until_stop(tokens)
        actions: list[Action] = []
        while (call := self._trailing_call(ids)) is not None:
            start, action = call
            actions.insert(0, action)
            ids = ids[:start]
        return Message(role="assistant", content=self._decode(ids), actions=tuple(actions))

    def encode(self, messages: Sequence[Mapping[str, Any] | Message]) -> Encoded:
        """Tokens and loss mask: True on assistant content and the stop token that closes it.

        Raises `ChatError` where the template rewrites earlier turns, since a mask cannot be right.
        """
        checked = as_messages(messages)
        if self._ours:
            return encode(self.tokenizer, checked)
        marked, contents = _mark(checked)
        whole = self._render(marked)
        self._require_all(whole, marked)
        tokens: list[int] = []
        mask: list[bool] = []
        done = 0
        for index, message in enumerate(marked):
            if message.role != "assistant":
                continue
            start = self._prefix(whole, marked[:index], index, generation_prompt=True)
            end = self._prefix(whole, marked[: index + 1], index)
            before = self._tokens(whole[done:start], contents)
            said = self._tokens(whole[start:end], contents)
            stops = [i for i, token in enumerate(said) if token in self.stop_token_ids]
            if not stops:
                raise ChatError(f"message {index}: the template does not close the assistant turn")
            tokens += before + said
            mask += [False] * len(before) + [i <= stops[-1] for i in range(len(said))]
            done = end
        rest = self._tokens(whole[done:], contents)
        return Encoded(tokens + rest, mask + [False] * len(rest))

    def _closing_ids(self) -> list[int]:
        """Probe a foreign template: the system role must arrive; returns what closes a reply."""
        probe, _ = _mark(
            [Message(role=role, content=role) for role in ("system", "user", "assistant")]
        )
        text = self._render(probe)
        if probe[0].content not in text:
            raise ChatError(
                "the chat template drops the system role, so instructions would be lost "
                "silently: use a template that keeps system turns"
            )
        self._require_all(text, probe)
        tail = text[text.index(probe[2].content) + len(probe[2].content) :]
        special = set(self.tokenizer.all_special_ids)
        closing = [t for t in self.tokenizer.encode(tail, add_special_tokens=False) if t in special]
        return [int(token) for token in closing[:1]]

    def _render(self, messages: Sequence[Message], generation_prompt: bool = False) -> str:
        if any(message.actions for message in messages):
            raise ChatError("tool calls need our ChatML template; this one has no place for them")
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [message.as_dict() for message in messages],
                    tokenize=False,
                    add_generation_prompt=generation_prompt,
                )
            )
        except TemplateError as error:
            raise ChatError(f"the chat template refuses this conversation: {error}") from error

    def _require_all(self, text: str, marked: Sequence[Message]) -> None:
        for index, message in enumerate(marked):
            if message.content not in text:
                raise ChatError(f"message {index}: the template drops its {message.role} content")
            if message.name and message.name not in text:
                raise ChatError(f"message {index}: the template drops its name {message.name!r}")

    def _prefix(
        self, whole: str, part: Sequence[Message], index: int, generation_prompt: bool = False
    ) -> int:
        text = self._render(part, generation_prompt)
        if not whole.startswith(text):
            raise ChatError(f"message {index}: the template rewrites earlier turns as a chat grows")
        return len(text)

    def _tokens(self, text: str, contents: Mapping[str, str]) -> list[int]:
        """Tokens of rendered text in which marks stand for contents, which stay plain text.

        Only contents that look like special tokens are cut out: elsewhere the whole is tokenised
        at once, as the template's other users do.
        """
        specials = self.tokenizer.get_added_vocab()
        for mark, content in contents.items():
            if not any(special in content for special in specials):
                text = text.replace(mark, content)
        tokens: list[int] = []
        while text:
            found = [(text.find(mark), mark) for mark in contents if mark in text]
            at, mark = min(found, default=(len(text), ""))
            if at:
                tokens += self.tokenizer.encode(text[:at], add_special_tokens=False)
            if mark and contents[mark]:
                tokens += plain_ids(self.tokenizer, contents[mark])
            text = text[at + len(mark) :]
        return tokens

    def _decode(self, ids: Sequence[int]) -> str:
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def _until_stop(self, tokens: Sequence[int]) -> list[int]:
        ids = [int(token) for token in tokens]
        return ids[: next((i for i, t in enumerate(ids) if t in self.stop_token_ids), len(ids))]

    def _trailing_call(self, ids: Sequence[int]) -> tuple[int, Action] | None:
        if not self._ours or not ids:
            return None
        names = self.tokenizer.convert_ids_to_tokens(list(ids))
        if names[-1] != ACTION_END or ACTION_START not in names:
            return None
        start = len(names) - 1 - names[::-1].index(ACTION_START)
        tool = next((t for t, token in TOOL_TOKEN.items() if names[start + 1] == token), None)
        content = self._decode(ids[start + 2 : -1])
        if tool is None or ACTION_END in names[start:-1] or not content.startswith("\n"):
            return None
        return start, Action.model_validate({"tool": tool, "content": content[1:]})


def _mark(messages: Sequence[Message]) -> tuple[tuple[Message, ...], dict[str, str]]:
    """Put a unique mark in place of each content, so that a template never sees control tokens."""
    marks = {f"\ue000{index}\ue001": message.content for index, message in enumerate(messages)}
    marked = tuple(
        message.model_copy(update={"content": mark})
        for message, mark in zip(messages, marks, strict=True)
    )
    return marked, marks
