"""Collect the samples of an iteration: replay what the durable log holds, generate the rest."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.rollout import Finished, Request, Rollout, SamplingSettings
from actors.trajectories import RolloutLog, Trajectory
from cool_rlhf.ppo.prompts import Prompt
from pretrain_core.chat import PolicyChat
from pretrain_core.draws import seed_of

logger = logging.getLogger(__name__)


@dataclass
class Rollouts:
    """The rollout side of PPO; the driver alone appends to the log."""

    rollout: Rollout
    log: RolloutLog
    chat: PolicyChat
    sampling: SamplingSettings
    samples_per_prompt: int
    seed: int

    def collect(self, iteration: int, prompts: Sequence[Prompt]) -> list[Trajectory]:
        """One trajectory per (prompt, sample), in that order, whatever order they ended in."""
        wanted: dict[str, tuple[Prompt, int]] = {}
        asked: Counter[str] = Counter()
        for prompt in prompts:
            # Where one pass over the prompts ends and the next begins, a prompt may come twice.
            for _ in range(self.samples_per_prompt):
                sample = asked[prompt.id]
                wanted[f"{iteration}/{prompt.id}/{sample}"] = (prompt, sample)
                asked[prompt.id] += 1
        return self._sampled(iteration, wanted)

    def again(
        self, iteration: int, trajectories: Sequence[Trajectory], refused: Mapping[str, str]
    ) -> list[Trajectory]:
        """The same batch with another reply in the place of each refused one (id → reason)."""
        wanted: dict[str, tuple[Prompt, int]] = {}
        for old in trajectories:
            if old.id in refused:
                logger.warning("%s is sampled again: %s", old.id, refused[old.id])
                wanted[_next_id(old.id)] = (_prompt_of(old), old.sample)
        fresh = iter(self._sampled(iteration, wanted))
        return [next(fresh) if t.id in refused else t for t in trajectories]

    def _sampled(
        self, iteration: int, wanted: Mapping[str, tuple[Prompt, int]]
    ) -> list[Trajectory]:
        """What the log has of the wanted ids, and the rest from the engine."""
        done = self.log.read(iteration)
        requests = [
            Request(
                id=name,
                tokens=list(prompt.tokens),
                seed=seed_of(self.seed, "rollout", iteration, name),
            )
            for name, (prompt, _) in wanted.items()
            if name not in done
        ]
        seeds = {request.id: request.seed for request in requests}
        for finished in self.rollout.generate(requests, self.sampling, self.chat.stop_token_ids):
            prompt, sample = wanted[finished.id]
            trajectory = self._trajectory(iteration, prompt, sample, finished, seeds[finished.id])
            self.log.append(trajectory)
            done[finished.id] = trajectory
        return [done[name] for name in wanted]

    def _trajectory(
        self, iteration: int, prompt: Prompt, sample: int, finished: Finished, seed: int
    ) -> Trajectory:
        before, after = len(prompt.tokens), len(finished.tokens)
        raw = finished.raw_logprobs
        return Trajectory(
            id=finished.id,
            iteration=iteration,
            sample=sample,
            prompt_id=prompt.id,
            messages=(*prompt.messages, self.chat.reply_message(finished.tokens)),
            given_messages=len(prompt.messages),
            tokens=[*prompt.tokens, *finished.tokens],
            is_action=[False] * before + [True] * after,
            policy_version=[-1] * before + [finished.policy_version] * after,
            behaviour_logprobs=[0.0] * before + list(finished.behaviour_logprobs),
            raw_logprobs=None if raw is None else [0.0] * before + list(raw),
            finish_reason=finished.finish_reason,
            condition=prompt.condition,
            seed=seed,
            engine=self.rollout.engine,
        )


def _next_id(name: str) -> str:
    """`3/p/0` → `3/p/0~1` → `3/p/0~2`."""
    first, _, tries = name.rpartition("~")
    return f"{first}~{int(tries) + 1}" if first and tries.isdigit() else f"{name}~1"


def _prompt_of(trajectory: Trajectory) -> Prompt:
    given = trajectory.is_action.index(True)
    return Prompt(
        trajectory.prompt_id,
        trajectory.messages[: trajectory.given_messages],
        trajectory.condition,
        tuple(trajectory.tokens[:given]),
    )
