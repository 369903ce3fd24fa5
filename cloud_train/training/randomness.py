"""Derived randomness: each choice has its own seed, from the job's seed and the choice's name.

So resuming needs no generator's state, and neither the number of processes nor earlier draws change a choice.
"""

import hashlib

import torch


def derived_seed(seed: int, *name: str | int) -> int:
    """A seed of 63 bits for the choice called ``name``, such as ``("order", epoch)``."""
    text = "/".join(str(part) for part in (seed, *name))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def permutation(size: int, seed: int, *name: str | int) -> torch.Tensor:
    """A random permutation of ``size`` numbers, int64 of shape (size,)."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(derived_seed(seed, *name)))
