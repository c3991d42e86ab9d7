"""What PPO computes between the scores and the updates: rewards, KL, advantages."""

from cool_rlhf.ppo.algorithm.estimators import ESTIMATORS, Estimate, Signals, estimate
from cool_rlhf.ppo.algorithm.grid import ActionGrid
from cool_rlhf.ppo.algorithm.kl_control import KLControl
from cool_rlhf.ppo.algorithm.settings import AlgorithmSettings
from cool_rlhf.ppo.algorithm.shaping import ScoreScale, token_rewards

__all__ = [
    "ESTIMATORS",
    "ActionGrid",
    "AlgorithmSettings",
    "Estimate",
    "KLControl",
    "ScoreScale",
    "Signals",
    "estimate",
    "token_rewards",
]
