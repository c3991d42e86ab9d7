"""DeepSpeed as all of us use it: quiet, and nothing compiled."""

import logging
from typing import Any


def import_deepspeed() -> Any:
    """The module; to be called before it joins a process group.

    Its shared-memory collective serves inference only, and would be compiled by every first user
    for a minute or two.
    """
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
