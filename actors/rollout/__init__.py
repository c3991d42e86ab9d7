"""Rollouts: sampling from the policy with vLLM or HF generate, and the push of its new weights."""

from actors.rollout.requests import (
    EngineStartError,
    Finished,
    Request,
    RequestError,
    RolloutError,
    SamplingSettings,
)
from actors.rollout.rollout import Rollout
from actors.rollout.weights.push import PushReport, push
from actors.rollout.weights.wire import TransferAddress, WeightPushError
from actors.rollout.worker import RolloutSettings

__all__ = [
    "EngineStartError",
    "Finished",
    "PushReport",
    "Request",
    "RequestError",
    "Rollout",
    "RolloutError",
    "RolloutSettings",
    "SamplingSettings",
    "TransferAddress",
    "WeightPushError",
    "push",
]
