"""Functions of the user's own: rewards and environments from a Python file."""

from pretrain_core.functions.process import FunctionFailed, FunctionProcess, FunctionSettings

__all__ = ["FunctionFailed", "FunctionProcess", "FunctionSettings"]
