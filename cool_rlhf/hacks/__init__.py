"""Reward hacks: found in the samples of two policies, told from improvements, patched."""
