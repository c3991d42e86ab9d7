"""The critic starts from a model that reads the policy's tokens."""

from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.critic import value_model
from cool_rlhf.ppo.critic_init import critic_source
from cool_rlhf.ppo.settings import PPOSettings
from pretrain_core.data.tokenizer import train_tokenizer
from pretrain_core.errors import InputError
from pretrain_core.settings import load
from tests.cool_rlhf.conftest import Artefacts


def settings(policy: Path, reward_model: Path, *overrides: str) -> PPOSettings:
    given = [f"policy={policy}", f"reward_model={reward_model}", *overrides]
    return load(PPOSettings, "configs/ppo/paper.yaml", given).value


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose tokens are other ones."""
    folder = tmp_path_factory.mktemp("other")
    train_tokenizer(list(topics.values())[50:70], 512, folder)
    return folder


def test_the_reward_model_is_taken_where_it_reads_the_tokens(artefacts: Artefacts) -> None:
    policy, reward_model = artefacts.demo / "sft", artefacts.demo / "reward"
    assert critic_source(settings(policy, reward_model)) == reward_model
    assert critic_source(settings(policy, reward_model, "critic_init=policy")) == policy


def test_other_tokens_are_never_read_silently(artefacts: Artefacts, other: Path) -> None:
    policy = artefacts.demo / "sft"
    assert critic_source(settings(policy, other)) == policy
    with pytest.raises(InputError, match=r"another tokenizer than .*: set critic_init to policy"):
        critic_source(settings(policy, other, "critic_init=reward_model"))


def test_a_policy_is_a_critic_without_its_head(artefacts: Artefacts) -> None:
    folder = artefacts.demo / "sft"
    tokens = torch.tensor([AutoTokenizer.from_pretrained(folder).encode("How are you?")])
    body = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).model
    made = value_model(folder).eval()
    with torch.no_grad():
        expected = body(input_ids=tokens).last_hidden_state
        assert torch.allclose(made.body(input_ids=tokens).last_hidden_state, expected, atol=1e-6)
        assert made(tokens).logits.abs().sum() == 0
