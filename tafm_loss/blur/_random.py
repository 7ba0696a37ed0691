"""Where random numbers come from."""

import os

import torch

__all__ = ["fresh_generator"]


def fresh_generator(generator: torch.Generator | None) -> torch.Generator:
    """Return the generator, or for None a new one on the CPU with a fresh seed; the global state is left alone.

    Raises:
        TypeError: if `generator` is neither.
    """
    if generator is None:
        return torch.Generator().manual_seed(int.from_bytes(os.urandom(8), "little", signed=True))
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
    return generator
