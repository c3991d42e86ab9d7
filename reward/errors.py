"""Why a training of a reward model ended early."""

from pretrain_core.errors import RunFailed


class RewardTrainingError(RunFailed):
    """Training that cannot start or must not go on; names the step and the records."""


class RewardTrainingStopped(RunFailed):
    """Training stopped on request and was saved; the same call continues it."""
