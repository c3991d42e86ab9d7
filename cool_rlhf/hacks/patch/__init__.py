"""A reward model taught to stop paying for a hack, with what it knew before held in place."""

from cool_rlhf.hacks.patch.patch import Patched, patch_reward_model
from cool_rlhf.hacks.patch.settings import PatchError, PatchSettings, PatchTrainSettings

__all__ = ["PatchError", "PatchSettings", "PatchTrainSettings", "Patched", "patch_reward_model"]
