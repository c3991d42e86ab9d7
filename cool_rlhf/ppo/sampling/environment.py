"""What answers a reply and lets the policy go on: tools, or a simulated user."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import Discriminator, Field, Tag

from pretrain_core.chat import ChatError, Message, as_messages
from pretrain_core.chat.message import INTERPRETER
from pretrain_core.errors import RunFailed
from pretrain_core.functions import FunctionProcess, FunctionSettings
from pretrain_core.sandbox import Limits, Outcome, bounded_map, run_sandboxed
from pretrain_core.settings import Settings, kind_of


class EnvironmentFailed(RunFailed):
    """An environment whose answer cannot be used; names the conversation."""


@dataclass(frozen=True)
class Talk:
    """A conversation that ends with a reply of the policy."""

    id: str
    messages: Sequence[Message]
    condition: str
    reference: str | None = None


class Environment(Protocol):
    """Answers conversations, all that wait at once."""

    max_turns: int
    """Replies of the policy in one conversation, at most."""

    def answer(self, talks: Sequence[Talk]) -> list[tuple[Message, ...]]:
        """The turns that follow each reply, of users and environments; none where it ends."""
        ...

    def close(self) -> None:
        """End its processes."""
        ...


class InterpreterSettings(Settings):
    """Runs the code of interpreter calls in the sandbox and gives back what it printed."""

    kind: Literal["interpreter"] = "interpreter"
    max_turns: int = Field(4, ge=2, description="replies of the policy in one conversation")
    limits: Limits = Field(Limits(memory_mib=256), description="of one program")
    packages: bool = Field(False, description="programs see installed packages")
    most_characters: int = Field(2000, gt=0, description="of what a program printed")
    workers: int = Field(4, gt=0, description="programs at the same time")


class FunctionEnvironmentSettings(FunctionSettings):
    """Your function: `conversations` (lists of messages), `condition`, `reference` in; for each out
    None where it ends, or text, or messages of an environment or a user."""

    kind: Literal["function"] = "function"
    name: str = Field("environment", description="of the function in the file")
    max_turns: int = Field(4, ge=2, description="replies of the policy in one conversation")


EnvironmentSettings = Annotated[
    Annotated[InterpreterSettings, Tag("interpreter")]
    | Annotated[FunctionEnvironmentSettings, Tag("function")],
    Discriminator(
        kind_of,
        custom_error_type="unknown_environment",
        custom_error_message="`kind` is one of function, interpreter",
    ),
]


class Interpreter:
    """Each program by itself: what an earlier one of the conversation defined is gone."""

    def __init__(self, settings: InterpreterSettings) -> None:
        self.settings = settings
        self.max_turns = settings.max_turns

    def answer(self, talks: Sequence[Talk]) -> list[tuple[Message, ...]]:
        """One environment turn for the calls of each reply."""
        return bounded_map(self._answer, talks, self.settings.workers)

    def close(self) -> None:
        """Nothing to end."""

    def _answer(self, talk: Talk) -> tuple[Message, ...]:
        calls = [a.content for a in talk.messages[-1].actions if a.tool == "interpreter"]
        if not calls:
            return ()
        said = "\n".join(self._run(program) for program in calls)
        content = said[: self.settings.most_characters]
        return (Message(role="environment", name=INTERPRETER, content=content),)

    def _run(self, program: str) -> str:
        outcome: Outcome = run_sandboxed(
            program, limits=self.settings.limits, packages=self.settings.packages
        )
        return outcome.stdout if outcome.ok else f"{outcome.stdout}{outcome.reason}"


class FunctionEnvironment:
    """Asks a function about all conversations in one call.

    Raises InputError for a file or function that cannot be loaded.
    """

    def __init__(self, settings: FunctionEnvironmentSettings) -> None:
        self.max_turns = settings.max_turns
        self.function = FunctionProcess(settings)

    def answer(self, talks: Sequence[Talk]) -> list[tuple[Message, ...]]:
        """What it says; raises FunctionFailed, or EnvironmentFailed for what cannot be turns."""
        answers = self.function(
            conversations=[[message.as_dict() for message in talk.messages] for talk in talks],
            condition=[talk.condition for talk in talks],
            reference=[talk.reference for talk in talks],
        )
        if len(answers) != len(talks):
            raise EnvironmentFailed(f"{len(answers)} answers to {len(talks)} conversations")
        return [_turns(talk, answer) for talk, answer in zip(talks, answers, strict=True)]

    def close(self) -> None:
        """End its process."""
        self.function.close()


def build_environment(settings: EnvironmentSettings) -> Environment:
    """The environment of these settings; raises InputError where it cannot be had."""
    builders: dict[type[Any], Callable[[Any], Environment]] = {
        InterpreterSettings: Interpreter,
        FunctionEnvironmentSettings: FunctionEnvironment,
    }
    return builders[type(settings)](settings)


def _turns(talk: Talk, answer: object) -> tuple[Message, ...]:
    if answer is None:
        return ()
    if isinstance(answer, str):
        return (Message(role="environment", content=answer),)
    raw: list[Any] = answer if isinstance(answer, list) else [answer]
    try:
        turns = as_messages(raw)
    except ChatError as error:
        raise EnvironmentFailed(f"the answer to {talk.id}: {error}") from error
    roles = {turn.role for turn in turns}
    if not roles <= {"environment", "user"}:
        raise EnvironmentFailed(
            f"the answer to {talk.id} has turns of {sorted(roles)}: environment and user only"
        )
    return turns
