"""Everything that a PPO run reads, read and checked before any actor starts."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from cool_rlhf.hacks.judges import check_gold
from cool_rlhf.ppo.critic_init import critic_source
from cool_rlhf.ppo.pretrain_mix import PretrainMix
from cool_rlhf.ppo.sampling.environment import build_environment
from cool_rlhf.ppo.sampling.prompts import PromptSet, read_prompts
from cool_rlhf.ppo.settings import PPOSettings
from pretrain_core.chat import PolicyChat
from pretrain_core.data import TokenStore
from pretrain_core.errors import InputError
from reward.card import read_conditions
from reward.compose import RewardComposer
from reward.conditions import Conditions
from reward.inputs import condition_turn

logger = logging.getLogger(__name__)


class PPOInputError(InputError):
    """A PPO run cannot start; the message names the key and the way out."""


@dataclass(frozen=True)
class Inputs:
    """Everything a run reads, checked before any actor starts."""

    chat: PolicyChat
    prompts: PromptSet
    pretrain: PretrainMix | None
    critic: Path | None
    """What the critic starts from, None without one."""
    held_out: PromptSet | None = None
    """What evaluation asks."""
    critic_contexts: Mapping[str, tuple[int, ...]] | None = None
    """By condition, what the critic reads before a sample; None: nothing."""

    @property
    def references(self) -> dict[str, str]:
        """Of prompts, by id."""
        return {p.id: p.reference for p in self.prompts if p.reference is not None}


def check_inputs(settings: PPOSettings) -> Inputs:
    """Read and check prompts, templates, conditions, lengths and pre-training text.

    Raises PPOInputError, PromptError, ChatError or the reader's own error.
    """
    _check_paths(settings)
    if settings.hacks.gold is not None:
        check_gold(settings.hacks.gold)
    chat = PolicyChat(AutoTokenizer.from_pretrained(settings.policy))
    conditions = read_conditions(settings.reward_model)
    prompts = read_prompts(settings.prompts, chat, conditions)
    # Built and ended again: what cannot be loaded is refused now.
    RewardComposer(settings.rewards, conditions).close()
    if settings.environment is not None:
        build_environment(settings.environment).close()
    for left_out in prompts.quarantined:
        logger.warning("%s:%d: %s", settings.prompts.path, left_out.line, left_out.reason)
    held_out = _held_out(settings, chat, conditions)
    asked = [*prompts, *(held_out or ())]
    longest = max(len(p.tokens) for p in asked) + settings.sampling.max_new_tokens
    context = settings.crew.rollout.max_model_len
    if longest > context:
        raise PPOInputError(
            f"the longest prompt and sampling.max_new_tokens make {longest} tokens, more than"
            f" crew.rollout.max_model_len {context}: raise it, or lower prompts.max_tokens"
        )
    critic, contexts = None, None
    if settings.crew.critic is not None:
        critic = critic_source(settings)
        if settings.crew.critic.reads_condition:
            contexts = {
                name: tuple(condition_turn(chat.tokenizer, conditions, name))
                for name in {p.condition for p in prompts}
            }
    _check_micro_batches(settings, longest, max(map(len, (contexts or {}).values()), default=0))
    return Inputs(chat, prompts, _pretrain(settings, longest), critic, held_out, contexts)


def _check_micro_batches(settings: PPOSettings, longest: int, critic_context: int) -> None:
    # A conversation with its surroundings may fill the engine's whole context.
    whole = longest if settings.environment is None else settings.crew.rollout.max_model_len
    # The critic values a cut reply after its last token.
    whole += critic_context + (settings.algorithm.truncated == "bootstrap")
    window = 0 if settings.pretrain is None else settings.pretrain.length
    limit = settings.crew.micro_batch_tokens
    if max(whole, window) > limit:
        what = f"a sample may have {whole}" if whole > limit else f"pretrain.length is {window}"
        raise PPOInputError(
            f"{what} tokens, more than crew.micro_batch_tokens {limit}: raise it, or lower"
            " prompts.max_tokens, sampling.max_new_tokens or pretrain.length"
        )


def _held_out(settings: PPOSettings, chat: PolicyChat, conditions: Conditions) -> PromptSet | None:
    """The prompts of the evaluation; raises PPOInputError for one that is trained on."""
    asked = settings.evaluation
    if asked is None:
        return None
    if asked.gold is not None:
        check_gold(asked.gold)
    if asked.text is not None:
        TokenStore.open(asked.text)
    own = settings.prompts.model_copy(update={"path": asked.prompts})
    prompts = read_prompts(own, chat, conditions)
    if asked.prompts.samefile(settings.prompts.path):
        raise PPOInputError(
            f"evaluation.prompts: {asked.prompts} is what the policy is trained on: hold some out"
        )
    return prompts


def _check_paths(settings: PPOSettings) -> None:
    for key in ("policy", "initial_policy", "reward_model"):
        folder: Path | None = getattr(settings, key)
        if folder is None:
            continue
        if inside_ray_job() and not folder.is_absolute():
            raise PPOInputError(
                f"{key}: {folder} is relative, but a Ray job runs in a temporary copy of the"
                " working directory: give an absolute path"
            )
        if not (folder / "config.json").is_file():
            raise PPOInputError(
                f"{key}: {folder} is no model folder (no config.json); `cool-rlhf demo` makes the"
                " artefacts of the tiny configurations"
            )
    if inside_ray_job() and not settings.run.root.is_absolute():
        raise PPOInputError(
            f"run.root: {settings.run.root} is relative inside a Ray job and would be lost with"
            " its temporary copy: give an absolute path or set COOL_RLHF_RUNS"
        )


def inside_ray_job() -> bool:
    """Whether this process is the driver of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _pretrain(settings: PPOSettings, longest: int) -> PretrainMix | None:
    if settings.pretrain is None:
        return None
    return PretrainMix(
        store=TokenStore.open(settings.pretrain.data),
        length=settings.pretrain.length,
        tokens_per_iteration=round(settings.pretrain.share * settings.batch.samples * longest),
        seed=settings.run.seed,
    )
