"""Combinations of settings that a PPO run refuses, each with the way out."""

from typing import Any

import pytest
from pydantic import ValidationError

from cool_rlhf.ppo.settings import PPORecipe

BASE: dict[str, Any] = {"crew": {"policy": {"ptx_coef": 0}}}
CRITICLESS = {
    "algorithm": {"estimator": "grpo"},
    "warmup": {"iterations": 0, "max_iterations": 0},
    "batch": {"samples_per_prompt": 4},
    "crew": {"policy": {"ptx_coef": 0}, "critic": None},
}


def test_an_estimator_without_critic_needs_none() -> None:
    recipe = PPORecipe.model_validate(CRITICLESS)
    assert recipe.crew.critic is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crew": BASE["crew"]}, "has no critic: set crew.critic to null"),
        ({"warmup": {}}, "no critic to warm up: set warmup.iterations"),
        ({"batch": {}}, "batch.samples_per_prompt must be at least 2"),
        ({"algorithm": {}}, "estimator gae needs a critic: give crew.critic"),
        (
            {"algorithm": {"estimator": "grpo", "truncated": "bootstrap"}},
            "bootstrap needs a critic, grpo has none",
        ),
    ],
)
def test_a_critic_goes_with_its_estimator(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PPORecipe.model_validate(CRITICLESS | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"crew": {"policy": {"ptx_coef": 0, "loss": {"name": "truncated_is"}}}},
            "sampling.top_p 0.9 changes: set it to 1",
        ),
        ({"sampling": {"temperature": 0}}, "temperature 0 always says the same"),
        ({"layout": {"name": "async"}}, "older weights sampled some: set it to decoupled"),
        ({"crew": {**BASE["crew"], "reference": None}}, "policy.lora is not set: give one of them"),
        (
            {
                "layout": {"name": "async"},
                "sampling": {"top_p": 1},
                "crew": {
                    "policy": {"ptx_coef": 0, "loss": {"name": "decoupled"}},
                    "rollout": {"engine": "hf"},
                },
            },
            "layout.name async needs vllm",
        ),
        (
            {"algorithm": {"truncated": "mask", "missing_end_penalty": 1}},
            "missing_end_penalty has no effect with truncated mask",
        ),
        ({"algorithm": {"kl_target": 6, "kl_coef": 0}}, "kl_target steers kl_coef, which is 0"),
        (
            {"crew": {**BASE["crew"], "keep_forward": True}, "batch": {"epochs": 2}},
            "keep_forward serves one optimiser step, and .* make 2",
        ),
        (
            {
                "crew": {
                    **BASE["crew"],
                    "keep_forward": True,
                    "critic": {"engine": {"zero_stage": 3}},
                }
            },
            "critic.engine.zero_stage is 3",
        ),
        (
            {"crew": {**BASE["crew"], "colocated": {}, "critic": {"world_size": 2}}},
            "critic lives in the processes of colocated",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PPORecipe.model_validate(BASE | changes)
    assert PPORecipe.model_validate(BASE).algorithm.truncated == "score"
