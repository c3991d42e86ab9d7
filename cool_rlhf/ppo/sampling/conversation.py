"""One sample on its way: turn by turn from its prompt to a trajectory."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from actors.rollout import Finished, Request
from actors.trajectories import Trajectory, Transcript
from actors.trajectories.schema import FinishReason
from cool_rlhf.ppo.sampling.environment import Talk
from cool_rlhf.ppo.sampling.prompts import Prompt
from pretrain_core.chat import Message, PolicyChat
from pretrain_core.draws import seed_of


@dataclass
class Conversation:
    """Sampled replies, and what was said between them; each reply has a seed of its own."""

    id: str
    iteration: int
    sample: int
    prompt: Prompt
    run_seed: int
    messages: list[Message] = field(init=False)
    tokens: list[int] = field(init=False)
    turns: int = 0
    finish_reason: FinishReason = "stop"

    def __post_init__(self) -> None:
        self.messages = list(self.prompt.messages)
        self.tokens = list(self.prompt.tokens)
        self._transcript = Transcript().given(self.prompt.tokens)

    @property
    def seed(self) -> int:
        """Of the next reply."""
        name = self.id if self.turns == 0 else f"{self.id}#{self.turns}"
        return seed_of(self.run_seed, "rollout", self.iteration, name)

    def request(self) -> Request:
        """For the next reply."""
        return Request(id=self.id, tokens=list(self.tokens), seed=self.seed)

    def talk(self) -> Talk:
        """For the environment."""
        return Talk(self.id, self.messages, self.prompt.condition, self.prompt.reference)

    def said(self, finished: Finished, chat: PolicyChat) -> None:
        """Take in a reply."""
        self.messages.append(chat.reply_message(finished.tokens))
        self.tokens += finished.tokens
        self._transcript.sampled(
            finished.tokens,
            finished.policy_version,
            finished.behaviour_logprobs,
            finished.raw_logprobs,
        )
        self.finish_reason = finished.finish_reason
        self.turns += 1

    def told(self, messages: Sequence[Message], tokens: Sequence[int]) -> None:
        """Take in turns that the policy did not say."""
        self.messages += messages
        self.tokens += tokens
        self._transcript.given(tokens)

    def trajectory(self, engine: str) -> Trajectory:
        """The finished sample."""
        return Trajectory(
            id=self.id,
            iteration=self.iteration,
            sample=self.sample,
            prompt_id=self.prompt.id,
            messages=tuple(self.messages),
            given_messages=len(self.prompt.messages),
            finish_reason=self.finish_reason,
            condition=self.prompt.condition,
            seed=seed_of(self.run_seed, "rollout", self.iteration, self.id),
            engine=engine,
            **self._transcript.per_token(),
        )
