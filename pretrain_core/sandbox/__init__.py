"""Untrusted programs in a limited child process; full isolation where the kernel allows it."""

from pretrain_core.sandbox.fork_server import Answer, ForkServer, ForkServerPool
from pretrain_core.sandbox.limits import Isolation, Limits, Outcome, SandboxUnavailable
from pretrain_core.sandbox.pool import bounded_map
from pretrain_core.sandbox.run import isolation_of, run_sandboxed

__all__ = [
    "Answer",
    "ForkServer",
    "ForkServerPool",
    "Isolation",
    "Limits",
    "Outcome",
    "SandboxUnavailable",
    "bounded_map",
    "isolation_of",
    "run_sandboxed",
]
