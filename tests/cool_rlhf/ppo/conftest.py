"""Rollout logs without a run, as the tests of the early warning have them."""

from tests.cool_rlhf.hacks.watch.conftest import make_log

__all__ = ["make_log"]
