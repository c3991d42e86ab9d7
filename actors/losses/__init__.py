"""Losses of PPO as pure functions on packed tensors.

Every loss is a sum over the tokens given, each with its share of the whole step: the shares and
denominators cover all micro-batches and ranks, so that adding the losses of the parts gives the
loss of the whole, however it was cut.
"""

from actors.losses.kl import KL_ESTIMATES, KLEstimate, full_kl
from actors.losses.policy import Actions, PolicyLossSettings, policy_loss
from actors.losses.pretrain import pretrain_loss
from actors.losses.shares import Aggregation, token_shares
from actors.losses.stats import Stats, add_stats
from actors.losses.value import value_loss, with_explained_variance

__all__ = [
    "KL_ESTIMATES",
    "Actions",
    "Aggregation",
    "KLEstimate",
    "PolicyLossSettings",
    "Stats",
    "add_stats",
    "full_kl",
    "policy_loss",
    "pretrain_loss",
    "token_shares",
    "value_loss",
    "with_explained_variance",
]
