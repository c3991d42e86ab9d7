"""Every random draw of the project comes from (run seed, stage, step, sample)."""

import hashlib

import numpy as np
import torch


def seed_of(seed: int, stage: str, step: int = 0, sample: int | str = 0) -> int:
    """Derive the 63-bit seed of one draw; any change of one part gives an unrelated seed."""
    key = "\x1f".join((str(seed), stage, str(step), str(sample))).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


def rng(seed: int, stage: str, step: int = 0, sample: int | str = 0) -> np.random.Generator:
    """NumPy generator of one draw."""
    return np.random.default_rng(seed_of(seed, stage, step, sample))


def torch_generator(seed: int, stage: str, step: int = 0, sample: int | str = 0) -> torch.Generator:
    """Torch CPU generator of one draw."""
    return torch.Generator().manual_seed(seed_of(seed, stage, step, sample))
