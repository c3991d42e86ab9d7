"""Tools and simulated users: what they answer, what is refused, and conversations of many turns."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from transformers import PreTrainedTokenizerFast

from actors.rollout import Finished, Request, Rollout, SamplingSettings
from actors.trajectories import RolloutLog
from cool_rlhf.ppo.sampling.environment import (
    EnvironmentFailed,
    FunctionEnvironment,
    Interpreter,
    InterpreterSettings,
    Talk,
)
from cool_rlhf.ppo.sampling.prompts import Prompt
from cool_rlhf.ppo.sampling.rollouts import Rollouts
from cool_rlhf.ppo.settings import PPORecipe
from pretrain_core.chat import Message, PolicyChat
from pretrain_core.chat.message import INTERPRETER, Action
from tests.cool_rlhf.ppo.sampling.conftest import Make

ASKED = Message(role="user", content="2+2?")
COUNTS_TURNS = """
def environment(conversations, condition, reference):
    assert condition == ["helpful"] * len(conversations)
    answers = []
    for talk, expected in zip(conversations, reference):
        said = [m for m in talk if m["role"] == "assistant"]
        answers.append(None if len(said) == int(expected) else f"turn {len(said)} is over")
    return answers
"""


def calling(*programs: str) -> Talk:
    actions = tuple(Action(tool="interpreter", content=program) for program in programs)
    reply = Message(role="assistant", content="Let me see.", actions=actions)
    return Talk("t", [ASKED, reply], "helpful")


def test_the_interpreter_runs_calls_in_the_sandbox_and_says_what_they_printed() -> None:
    interpreter = Interpreter(InterpreterSettings(most_characters=30))
    talks = [
        calling("print(2 + 2)"),
        calling(),
        calling("print('a')\n1 / 0"),
        calling("print('x' * 100)"),
    ]
    answers = interpreter.answer(talks)
    assert answers[0] == (Message(role="environment", name=INTERPRETER, content="4\n"),)
    assert answers[1] == ()
    assert answers[2][0].content.startswith("a\n")
    assert len(answers[2][0].content) > len("a\n")
    assert answers[3][0].content == "x" * 30


def test_a_function_answers_with_text_or_turns_or_ends(make: Make) -> None:
    environment = make(
        "def environment(conversations, **_):\n"
        "    return [None, 'more', {'role': 'user', 'content': 'why?'},\n"
        "            [{'role': 'environment', 'content': 'a'}, {'role': 'user', 'content': 'b'}]]"
    )
    answers = environment.answer([Talk(str(n), [ASKED], "helpful") for n in range(4)])
    assert [[(m.role, m.content) for m in turns] for turns in answers] == [
        [],
        [("environment", "more")],
        [("user", "why?")],
        [("environment", "a"), ("user", "b")],
    ]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("[{'role': 'assistant', 'content': 'I'}]", r"answer to t has turns of \['assistant'\]"),
        ("[3]", "answer to t: message 0"),
        ("[]", "0 answers to 1 conversations"),
    ],
)
def test_what_cannot_be_turns_names_the_conversation(make: Make, answer: str, message: str) -> None:
    environment = make(f"def environment(**_):\n    return {answer}")
    with pytest.raises(EnvironmentFailed, match=message):
        environment.answer([Talk("t", [ASKED], "helpful")])


class Echo:
    """Says two tokens and the stop token, other ones in each turn; ends early if asked to."""

    engine = "hf"

    def __init__(self, stop: int, cut: bool = False) -> None:
        self.stop, self.cut = stop, cut
        self.asked: list[Request] = []

    def generate(self, requests: Sequence[Request], *_: Any) -> Iterator[Finished]:
        self.asked += requests
        for request in reversed(requests):
            tokens = [300 + len(request.tokens) % 50, 301, self.stop]
            reason = "length" if self.cut else "stop"
            yield Finished(request.id, tokens, [-1.0] * 3, [-0.5] * 3, reason, [4] * 3)


def rollouts(
    engine: Echo, folder: Path, chat: PolicyChat, environment: FunctionEnvironment, context: int
) -> Rollouts:
    return Rollouts(
        cast(Rollout, engine),
        RolloutLog(folder),
        chat,
        SamplingSettings(max_new_tokens=8),
        samples_per_prompt=1,
        seed=7,
        context=context,
        environment=environment,
    )


def prompts(chat: PolicyChat, *turns: int) -> list[Prompt]:
    """Prompts whose conversations have so many replies."""
    tokens = tuple(chat.prompt([ASKED]))
    return [Prompt(f"p{n}", (ASKED,), "helpful", tokens, str(n)) for n in turns]


def test_conversations_go_on_until_the_environment_or_the_limit_ends_them(
    make: Make, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    chat = PolicyChat(tokenizer)
    engine = Echo(chat.stop_token_ids[0])
    made = rollouts(engine, tmp_path / "log", chat, make(COUNTS_TURNS), context=512)
    found = made.collect(0, prompts(chat, 1, 2, 9))
    replies = [[m.role for m in t.messages].count("assistant") for t in found]
    assert replies == [1, 2, 3]
    assert {t.finish_reason for t in found} == {"stop"}
    two = found[1]
    assert [m.role for m in two.messages] == ["user", "assistant", "environment", "assistant"]
    assert two.messages[2].content == "turn 1 is over"
    # Only the policy's own tokens are actions, with its log-probs and version; the tokens are those
    # of the whole conversation.
    assert sum(two.is_action) == 6
    said = [x for x, action in zip(two.behaviour_logprobs, two.is_action, strict=True) if action]
    assert said == [-1.0] * 6
    assert {v for v, a in zip(two.policy_version, two.is_action, strict=True) if a} == {4}
    assert tokenizer.decode(two.tokens).count("<|im_start|>assistant") == 2
    # Every reply has a seed of its own, the first one that of a single reply.
    assert len({request.seed for request in engine.asked}) == len(engine.asked) == 6
    assert {r.seed for r in engine.asked if r.id == found[0].id} == {found[0].seed}
    # What is in the log is not said again.
    again = rollouts(Echo(0), tmp_path / "log", chat, make(COUNTS_TURNS), context=512)
    assert again.collect(0, prompts(chat, 1, 2, 9)) == found


def test_a_reply_that_was_cut_is_not_answered(
    make: Make, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    chat = PolicyChat(tokenizer)
    engine = Echo(chat.stop_token_ids[0], cut=True)
    made = rollouts(engine, tmp_path / "log", chat, make(COUNTS_TURNS), context=512)
    (found,) = made.collect(0, prompts(chat, 9))
    assert found.finish_reason == "length"
    assert len(engine.asked) == 1


def test_a_turn_that_a_text_ended_is_closed_before_the_answer(
    make: Make, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    chat = PolicyChat(tokenizer)
    made = rollouts(Echo(302), tmp_path / "log", chat, make(COUNTS_TURNS), context=512)
    (found,) = made.collect(0, prompts(chat, 2))
    first = found.is_action.index(True)
    assert found.tokens[first + 2] == 302
    assert found.tokens[first + 3] == chat.stop_token_ids[0]
    assert found.is_action[first : first + 4] == [True, True, True, False]


def test_a_conversation_without_room_for_another_reply_counts_as_cut(
    make: Make, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    chat = PolicyChat(tokenizer)
    engine = Echo(chat.stop_token_ids[0])
    context = len(prompts(chat, 9)[0].tokens) + 12
    made = rollouts(engine, tmp_path / "log", chat, make(COUNTS_TURNS), context=context)
    (found,) = made.collect(0, prompts(chat, 9))
    assert found.finish_reason == "length"
    assert [m.role for m in found.messages] == ["user", "assistant"]


def test_a_recipe_takes_an_environment_by_kind() -> None:
    given = {"crew": {"policy": {"ptx_coef": 0}}, "environment": {"kind": "interpreter"}}
    assert isinstance(PPORecipe.model_validate(given).environment, InterpreterSettings)
    with pytest.raises(ValueError, match="one of function, interpreter"):
        PPORecipe.model_validate(given | {"environment": {"kind": "other"}})
