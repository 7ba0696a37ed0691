"""What a caller has set for the whole process must not reach what is built, loaded or drawn here."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["usual_defaults"]


@contextmanager
def usual_defaults(device: torch.device | str = "cpu") -> Iterator[None]:
    """Make new tensors on `device`, in float32, and fit for autograd, whatever device, dtype or mode is set around it.

    It is a decorator, too.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.device(device))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if dtype != torch.float32:  # it is one for all threads, so it is left alone where it can be
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        yield
