"""Layout async: replies are sampled ahead of their turn, while the policy learns from others."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property

from actors.rollout import Rollout
from actors.rollout.stream import RolloutStream
from actors.trajectories import Trajectory
from cool_rlhf.ppo.sampling.conversation import Conversation
from cool_rlhf.ppo.sampling.prompts import Prompt
from cool_rlhf.ppo.sampling.rollouts import Rollouts, Wanted


@dataclass(kw_only=True)
class RolloutsAhead(Rollouts):
    """Samples an iteration up to `max_staleness` iterations before its turn.

    So no token is older, when the policy learns from it, than so many of the policy's versions.
    Every iteration has the prompts and ids that it has in other layouts, and is logged like them: a
    resumed run takes from the log what had been taken out of the stream.
    """

    rollout: Rollout
    prompts_of: Callable[[int], Sequence[Prompt]]
    iterations: int
    max_staleness: int
    _talking: dict[str, Conversation] = field(default_factory=dict)
    _done: dict[int, dict[str, Trajectory]] = field(default_factory=dict)

    def collect(self, iteration: int, prompts: Sequence[Prompt]) -> list[Trajectory]:
        """See `Rollouts`; what comes later is begun as well."""
        last = min(iteration + self.max_staleness, self.iterations - 1)
        for later in range(iteration, last + 1):
            if later not in self._done:
                self._begin(later, self._wanted(later, self.prompts_of(later)))
        self._done = {number: done for number, done in self._done.items() if number >= iteration}
        return super().collect(iteration, prompts)

    def paused(self) -> AbstractContextManager[None]:
        """Replies under way go on afterwards, under the new weights."""
        return self._stream.paused()

    def close(self) -> None:
        """End the stream; what was under way is lost, and sampled again by who goes on."""
        if "_stream" in self.__dict__:
            self._stream.close()

    @cached_property
    def _stream(self) -> RolloutStream:
        # Not before the engines have a model.
        return RolloutStream(self.rollout, self.sampling, self.chat.stop_token_ids)

    def _sampled(self, iteration: int, wanted: Wanted) -> list[Trajectory]:
        self._begin(iteration, wanted)
        while not self._talking.keys().isdisjoint(wanted):
            self._take()
        return [self._done[iteration][name] for name in wanted]

    def _begin(self, iteration: int, wanted: Wanted) -> None:
        """Ask for what neither the log has nor was asked for."""
        if iteration not in self._done:
            self._done[iteration] = self.log.read(iteration)
        known = self._done[iteration]
        self._ask(
            [one for one in self._begun(iteration, wanted, known) if one.id not in self._talking]
        )

    def _ask(self, conversations: Sequence[Conversation]) -> None:
        self._talking |= {conversation.id: conversation for conversation in conversations}
        self._stream.submit([conversation.request() for conversation in conversations])

    def _take(self) -> None:
        """The next reply, of whatever iteration: its conversation goes on, or is logged."""
        finished = self._stream.take()
        conversation = self._talking.pop(finished.id)
        conversation.said(finished, self.chat)
        answered = [conversation] if self._may_go_on(conversation) else []
        if any(goes_on for _, goes_on in self._answered(answered)):
            self._ask([conversation])
        else:
            self._done[conversation.iteration][conversation.id] = self._finish(conversation)
