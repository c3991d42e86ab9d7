"""Trajectories (one per sample, multi-turn) and the durable log that resume and replay read."""

from actors.trajectories.log import RolloutLog, RolloutLogError
from actors.trajectories.schema import REWARD, FinishReason, Score, Trajectory
from actors.trajectories.transcript import Transcript

__all__ = [
    "REWARD",
    "FinishReason",
    "RolloutLog",
    "RolloutLogError",
    "Score",
    "Trajectory",
    "Transcript",
]
