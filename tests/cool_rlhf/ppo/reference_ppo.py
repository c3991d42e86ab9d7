"""One iteration of the report's PPO in plain PyTorch: one sequence at a time, nothing of ours."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

BETA, GAMMA, LAMBDA, CLIP, PRETRAIN = 0.01, 1.0, 0.99, 0.2, 0.5


@dataclass(frozen=True)
class Sample:
    """A prompt with its reply: `is_action` marks what the policy said."""

    tokens: list[int]
    is_action: list[bool]
    score: float


class PlainPPO:
    """Policy ← SFT, critic ← reward model without its head, reference and pre-training text."""

    def __init__(self, policy: Any, reference: Any, reward_model: Any, lr: float) -> None:
        self.policy = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
        self.reference = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32)
        scorer = AutoModelForSequenceClassification.from_pretrained(
            reward_model, dtype=torch.float32
        )
        self.body = scorer.base_model
        self.head = nn.Linear(scorer.config.hidden_size, 1, bias=False)
        nn.init.zeros_(self.head.weight)
        self.lr = lr

    def iteration(self, samples: list[Sample], texts: list[list[int]]) -> dict[str, Tensor]:
        """Learn from the samples; returns the gradients of policy and critic by name."""
        with torch.no_grad():
            old = [logprobs(self.policy, s.tokens, s.is_action) for s in samples]
            frozen = [logprobs(self.reference, s.tokens, s.is_action) for s in samples]
            values = [self.values(s) for s in samples]
        estimates = [
            advantages_and_returns(rewards(s.score, mine, theirs), value)
            for s, mine, theirs, value in zip(samples, old, frozen, values, strict=True)
        ]
        actions = sum(sum(s.is_action) for s in samples)
        targets = sum(len(text) - 1 for text in texts)
        for sample, before, (advantages, returns) in zip(samples, old, estimates, strict=True):
            ratio = (logprobs(self.policy, sample.tokens, sample.is_action) - before).exp()
            clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
            surrogate = torch.minimum(ratio * advantages, clipped * advantages)
            (-surrogate.sum() / actions).backward()
            (0.5 * (self.values(sample) - returns).square().sum() / actions).backward()
        for text in texts:
            said = logprobs(self.policy, text, [False] + [True] * (len(text) - 1))
            (PRETRAIN * -said.sum() / targets).backward()
        return self.descend()

    def values(self, sample: Sample) -> Tensor:
        """Of the state before each action."""
        states = self.body(input_ids=torch.tensor([sample.tokens])).last_hidden_state[0]
        return self.head(states)[:-1, 0][torch.tensor(sample.is_action[1:])]

    def descend(self) -> dict[str, Tensor]:
        """One step of plain gradient descent."""
        parameters = {
            **{f"policy.{name}": p for name, p in self.policy.named_parameters()},
            **{f"critic.body.{name}": p for name, p in self.body.named_parameters()},
            "critic.value_head.weight": self.head.weight,
        }
        gradients = {}
        for name, parameter in parameters.items():
            assert parameter.grad is not None
            gradients[name] = parameter.grad
            parameter.data -= self.lr * parameter.grad
            parameter.grad = None
        return gradients


def logprobs(model: Any, tokens: list[int], is_action: list[bool]) -> Tensor:
    """Of the actions, each given all that precedes it."""
    logits = model(input_ids=torch.tensor([tokens])).logits[0, :-1]
    chosen = logits.log_softmax(-1).gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
    return chosen[torch.tensor(is_action[1:])]


def rewards(score: float, policy: Tensor, reference: Tensor) -> Tensor:
    """−β·(log π − log π_ref) at each action, the score at the last."""
    rewards = -BETA * (policy - reference)
    rewards[-1] += score
    return rewards


def advantages_and_returns(rewards: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """GAE, the value after the last action 0."""
    following = [*values.tolist()[1:], 0.0]
    advantages, running = torch.zeros_like(values), 0.0
    for t in reversed(range(len(values))):
        delta = rewards[t].item() + GAMMA * following[t] - values[t].item()
        running = delta + GAMMA * LAMBDA * running
        advantages[t] = running
    return advantages, advantages + values


def cut(packed: Tensor, ends: list[int]) -> list[list[int]]:
    """Packed tokens as lists."""
    return [packed[a:b].tolist() for a, b in pairwise(ends)]
