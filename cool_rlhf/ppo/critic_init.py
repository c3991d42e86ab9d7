"""What the critic starts from: the reward model, if it reads the policy's tokens."""

from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoTokenizer

from cool_rlhf.ppo.settings import PPOSettings
from pretrain_core.errors import InputError
from pretrain_core.runs import warn_once

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def critic_source(settings: PPOSettings) -> Path:
    """The folder to start from (report §4.2.3: the reward model).

    The critic sees the policy's tokens, so with other tokens a reward model's body would read
    nonsense, silently. Raises InputError where that was asked for.
    """
    policy, reward_model = (
        AutoTokenizer.from_pretrained(folder) for folder in (settings.policy, settings.reward_model)
    )
    if settings.critic_init == "policy":
        return settings.policy
    if reads(reward_model, policy):
        return settings.reward_model
    if settings.critic_init == "reward_model":
        raise InputError(
            f"critic_init reward_model: {settings.reward_model} has another tokenizer than"
            f" {settings.policy}, whose tokens the critic reads: set critic_init to policy"
        )
    warn_once(
        "ppo.critic_init",
        "Policy and reward model have other tokenizers, so the critic starts from the policy.\n"
        "It has never seen a score: give it a longer critic-only phase (warmup.iterations,"
        " warmup.explained_variance).",
    )
    return settings.policy


def reads(reader: "PreTrainedTokenizerBase", writer: "PreTrainedTokenizerBase") -> bool:
    """Whether every token of `writer` is the same token of `reader`, which may have more."""
    return bool(writer.get_vocab().items() <= reader.get_vocab().items())
