"""Parallelism, applied from outside to a model that knows nothing of it."""

from pretrain_core.parallel.sharding import full_state, shard
from pretrain_core.parallel.world import World

__all__ = ["World", "full_state", "shard"]
