"""For trainers of others (TRL, verl, OpenRLHF): our reward as theirs, their dumps for our detector.

Nothing here loads trl, ray or vllm.
"""

from cool_rlhf.hacks.plugins.dumps import read_dumps, read_source
from cool_rlhf.hacks.plugins.rewards import ConditionalReward

__all__ = ["ConditionalReward", "read_dumps", "read_source"]
