"""Where networks run, by name."""

import torch

__all__ = ["open_device"]


def open_device(name: str) -> torch.device:
    """Return a device that can be computed on.

    Raises:
        ValueError: if there is no such device, or it cannot be used.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    # Of what PyTorch was built without, it is an AssertionError.
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {name} cannot be used ({reason}): take cpu, or another one") from error
    return device
