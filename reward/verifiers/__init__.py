"""Verifiers: checks of replies by rule, beside the reward model."""

from reward.verifiers.reasoning_gym import reasoning_gym_prompts
from reward.verifiers.registry import KINDS, VerifierSettings, build_verifier
from reward.verifiers.verdict import Verdict, Verifier, unjudged

__all__ = [
    "KINDS",
    "Verdict",
    "Verifier",
    "VerifierSettings",
    "build_verifier",
    "reasoning_gym_prompts",
    "unjudged",
]
