"""Collect the samples of an iteration: replay what the durable log holds, generate the rest."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from actors.rollout import Rollout, SamplingSettings
from actors.rollout.no_engine import NoEngine
from actors.trajectories import RolloutLog, Trajectory
from cool_rlhf.ppo.sampling.conversation import Conversation
from cool_rlhf.ppo.sampling.environment import Environment
from cool_rlhf.ppo.sampling.prompts import Prompt
from pretrain_core.chat import PolicyChat
from pretrain_core.errors import RunFailed

logger = logging.getLogger(__name__)

Wanted = dict[str, tuple[Prompt, int]]
"""Samples by their ids: the prompt, and the how many-th reply to it."""


def give_up(failure: RunFailed) -> None:
    """Raises the failure."""
    raise failure


@dataclass
class Rollouts:
    """The rollout side of PPO; the driver alone appends to the log."""

    rollout: Rollout | NoEngine
    log: RolloutLog
    chat: PolicyChat
    sampling: SamplingSettings
    samples_per_prompt: int
    seed: int
    context: int
    """Tokens of a whole conversation, at most."""
    environment: Environment | None = None
    references: Mapping[str, str] = field(default_factory=dict)
    """Of prompts, by id."""
    revive: Callable[[RunFailed], None] = give_up
    """Brings dead engines back, or raises what killed them."""
    restarts: int = 0
    """Of the engines in a row, without a reply between."""

    def collect(self, iteration: int, prompts: Sequence[Prompt]) -> list[Trajectory]:
        """One trajectory per (prompt, sample), in that order, whatever order they ended in."""
        return self._sampled(iteration, self._wanted(iteration, prompts))

    def chunks(
        self, iteration: int, prompts: Sequence[Prompt], count: int
    ) -> Iterator[list[Trajectory]]:
        """What `collect` gives, in `count` equal parts, each as soon as all of it is there."""
        wanted = self._wanted(iteration, prompts)
        names = list(wanted)
        size = len(names) // count
        waiting = deque(names[at : at + size] for at in range(0, len(names), size))
        found: dict[str, Trajectory] = {}
        for trajectory in self._ended(iteration, wanted):
            found[trajectory.id] = trajectory
            while waiting and all(name in found for name in waiting[0]):
                yield [found[name] for name in waiting.popleft()]

    def paused(self) -> AbstractContextManager[None]:
        """Nothing is sampled inside, so weights may change."""
        return nullcontext()

    def close(self) -> None:
        """End what samples beside the caller: here, nothing does."""

    def again(
        self, iteration: int, trajectories: Sequence[Trajectory], refused: Mapping[str, str]
    ) -> list[Trajectory]:
        """The same batch with another reply in the place of each refused one (id → reason)."""
        wanted: Wanted = {}
        for old in trajectories:
            if old.id in refused:
                logger.warning("%s is sampled again: %s", old.id, refused[old.id])
                wanted[_next_id(old.id)] = (self._prompt_of(old), old.sample)
        fresh = iter(self._sampled(iteration, wanted))
        return [next(fresh) if t.id in refused else t for t in trajectories]

    def _wanted(self, iteration: int, prompts: Sequence[Prompt]) -> Wanted:
        wanted: Wanted = {}
        asked: Counter[str] = Counter()
        for prompt in prompts:
            # Where one pass over the prompts ends and the next begins, a prompt may come twice.
            for _ in range(self.samples_per_prompt):
                sample = asked[prompt.id]
                wanted[f"{iteration}/{prompt.id}/{sample}"] = (prompt, sample)
                asked[prompt.id] += 1
        return wanted

    def _sampled(self, iteration: int, wanted: Wanted) -> list[Trajectory]:
        """All that is wanted, in that order."""
        found = {trajectory.id: trajectory for trajectory in self._ended(iteration, wanted)}
        return [found[name] for name in wanted]

    def _ended(self, iteration: int, wanted: Wanted) -> Iterator[Trajectory]:
        """What the log has of the wanted ids, then the rest from the engine, as each one ends."""
        done = self.log.read(iteration)
        yield from (done[name] for name in wanted if name in done)
        talking = self._begun(iteration, wanted, done)
        while talking:
            answered: list[Conversation] = []
            for conversation in self._replied(talking):
                if self._may_go_on(conversation):
                    answered.append(conversation)
                else:
                    yield self._finish(conversation)
            order = {conversation.id: place for place, conversation in enumerate(talking)}
            answered.sort(key=lambda conversation: order[conversation.id])
            talking = []
            for conversation, goes_on in self._answered(answered):
                if goes_on:
                    talking.append(conversation)
                else:
                    yield self._finish(conversation)

    def _begun(
        self, iteration: int, wanted: Wanted, done: Mapping[str, Trajectory]
    ) -> list[Conversation]:
        return [
            Conversation(name, iteration, sample, prompt, self.seed)
            for name, (prompt, sample) in wanted.items()
            if name not in done
        ]

    def _replied(self, talking: Sequence[Conversation]) -> Iterator[Conversation]:
        """The conversations as each gets its next reply."""
        waiting = {conversation.id: conversation for conversation in talking}
        tries = self.restarts
        while waiting:
            requests = [conversation.request() for conversation in waiting.values()]
            try:
                for finished in self.rollout.generate(
                    requests, self.sampling, self.chat.stop_token_ids
                ):
                    conversation = waiting.pop(finished.id)
                    conversation.said(finished, self.chat)
                    tries = self.restarts
                    yield conversation
            except RunFailed as failure:
                if tries == 0:
                    raise
                tries -= 1
                self.revive(failure)

    def _may_go_on(self, conversation: Conversation) -> bool:
        return (
            self.environment is not None
            and conversation.finish_reason == "stop"
            and conversation.turns < self.environment.max_turns
        )

    def _answered(self, waiting: Sequence[Conversation]) -> Iterator[tuple[Conversation, bool]]:
        """Each with whether it goes on: it has an answer, and room for another reply."""
        if self.environment is None or not waiting:
            return
        answers = self.environment.answer([conversation.talk() for conversation in waiting])
        for conversation, turns in zip(waiting, answers, strict=True):
            tokens = self.chat.continuation(turns) if turns else []
            if turns and conversation.tokens[-1] not in self.chat.stop_token_ids:
                # A text ended the reply: its turn is closed for it.
                tokens = [self.chat.stop_token_ids[0], *tokens]
            room = self.context - len(conversation.tokens) - len(tokens)
            if turns and room < self.sampling.max_new_tokens:
                # Not the policy's end: the conversation was to go on.
                conversation.finish_reason = "length"
            elif turns:
                conversation.told(turns, tokens)
            yield conversation, bool(turns) and conversation.finish_reason == "stop"

    def _prompt_of(self, trajectory: Trajectory) -> Prompt:
        return Prompt(
            trajectory.prompt_id,
            trajectory.messages[: trajectory.given_messages],
            trajectory.condition,
            tuple(trajectory.prompt_tokens),
            self.references.get(trajectory.prompt_id),
        )

    def _finish(self, conversation: Conversation) -> Trajectory:
        trajectory = conversation.trajectory(self.rollout.engine)
        self.log.append(trajectory)
        return trajectory


def _next_id(name: str) -> str:
    """`3/p/0` → `3/p/0~1` → `3/p/0~2`."""
    first, _, tries = name.rpartition("~")
    return f"{first}~{int(tries) + 1}" if first and tries.isdigit() else f"{name}~1"
