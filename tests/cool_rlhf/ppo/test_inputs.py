"""What a PPO run refuses before any actor starts."""

from pathlib import Path

import pytest

from cool_rlhf.ppo.inputs import PPOInputError, check_inputs
from cool_rlhf.ppo.sampling.prompts import PromptError
from cool_rlhf.ppo.settings import BatchSettings, PPOSettings
from pretrain_core.data import TokenStore
from pretrain_core.errors import InputError
from pretrain_core.settings import SettingsError, load
from tests.cool_rlhf.conftest import Artefacts


@pytest.fixture
def tiny(artefacts: Artefacts, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides of configs/ppo/tiny.yaml that keep the check small."""
    monkeypatch.setenv("COOL_RLHF_CACHE", str(artefacts.cache))
    return ["batch.prompts=4", "batch.mini_batches=1", "sampling.max_new_tokens=12"]


def settings(overrides: list[str]) -> PPOSettings:
    return load(PPOSettings, "configs/ppo/tiny.yaml", overrides).value


def test_good_inputs_pass(tiny: list[str]) -> None:
    inputs = check_inputs(settings(tiny))
    assert len(inputs.prompts) == 18
    assert inputs.pretrain is not None
    drawn = inputs.pretrain.draw(3)
    assert isinstance(inputs.pretrain.store, TokenStore)
    assert drawn.actions == len(drawn.tokens) - drawn.n
    assert drawn.tokens.tolist() == inputs.pretrain.draw(3).tokens.tolist()


def test_prompt_and_reply_longer_than_the_context(tiny: list[str]) -> None:
    with pytest.raises(PPOInputError, match=r"crew\.rollout\.max_model_len 20"):
        check_inputs(settings([*tiny, "crew.rollout.max_model_len=20"]))


def test_what_no_micro_batch_holds_is_refused_before_anything_is_sampled(tiny: list[str]) -> None:
    fits = check_inputs(settings([*tiny, "crew.micro_batch_tokens=128"]))
    longest = max(len(prompt.tokens) for prompt in fits.prompts) + 12
    changes = [*tiny, "pretrain.length=16", f"crew.micro_batch_tokens={longest}"]
    check_inputs(settings(changes))
    for more in ("algorithm.truncated=bootstrap", "crew.critic.reads_condition=true"):
        undone = ["algorithm.missing_end_penalty=0"]
        with pytest.raises(PPOInputError, match=rf"a sample may .*micro_batch_tokens {longest}"):
            check_inputs(settings([*changes, *undone, more]))
    with pytest.raises(PPOInputError, match=r"pretrain\.length is 128 tokens"):
        check_inputs(settings([*changes, "pretrain.length=128"]))


def test_missing_model_names_the_key_and_the_command_that_makes_it(tiny: list[str]) -> None:
    with pytest.raises(PPOInputError, match=r"reward_model: .*none.*cool-rlhf demo"):
        check_inputs(settings([*tiny, "reward_model=/none"]))


def test_missing_prompts(tiny: list[str]) -> None:
    with pytest.raises(PromptError, match="no such prompt file"):
        check_inputs(settings([*tiny, "prompts.path=/none.jsonl"]))


def test_evaluation_has_prompts_of_its_own_and_a_gold_signal_that_opens(tiny: list[str]) -> None:
    held_out = "evaluation.prompts=cache:demo/held_out_prompts.jsonl"
    inputs = check_inputs(settings([*tiny, held_out]))
    assert inputs.held_out is not None
    assert len(inputs.held_out) == 8
    with pytest.raises(PPOInputError, match="is what the policy is trained on"):
        check_inputs(settings([*tiny, "evaluation.prompts=cache:demo/prompts.jsonl"]))
    with pytest.raises(InputError, match=r"none\.jsonl"):
        check_inputs(settings([*tiny, held_out, "evaluation.gold=/none.jsonl"]))


def test_relative_paths_inside_a_ray_job(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings([*tiny, "policy=models/sft"])
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(PPOInputError, match=r"policy: models/sft is relative"):
        check_inputs(given)
    with pytest.raises(PPOInputError, match=r"run\.root: runs is relative"):
        check_inputs(settings([*tiny, f"run.root={Path('runs')}"]))


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (["rewards.weights.breif.rm=1"], "breif"),
        (
            ["rewards.verifiers.mine.kind=function", "rewards.verifiers.mine.file=/none.py"],
            "none.py",
        ),
    ],
)
def test_rewards_that_cannot_be_had_are_refused(
    tiny: list[str], rewards: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_inputs(settings([*tiny, *rewards]))


def test_batch_numbers_that_do_not_divide_name_the_nearest_legal_one() -> None:
    with pytest.raises(ValueError, match="nearest legal number is 4"):
        BatchSettings(prompts=16, mini_batches=5)


def test_pretraining_text_without_its_coefficient_is_refused(tiny: list[str]) -> None:
    with pytest.raises(SettingsError, match="ptx_coef"):
        settings([*tiny, "crew.policy.ptx_coef=0"])
