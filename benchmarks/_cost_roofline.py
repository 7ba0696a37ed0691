"""How near losses come to what the device can do: FLOP and bytes counted, ceilings measured."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from _cost_arms import build
from _cost_timing import DTYPES, Case, Figures, seconds_of, step_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
COPIED_BYTES = {"cpu": 2**27, "cuda": 2**30}
TRIALS = 5


class ByteCounter(TorchDispatchMode):
    """Counts the bytes of the inputs and outputs of every operation that computes something.

    That is what operations one after the other move if no cache holds anything between them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not _is_view(func):
            tensors = tree_leaves((args, kwargs, result))
            self.total += sum(_size(tensor) for tensor in tensors if isinstance(tensor, Tensor))
        return result


def _is_view(func: Any) -> bool:
    returned = func._schema.returns
    return any(value.alias_info is not None and not value.alias_info.is_write for value in returned)


def _size(tensor: Tensor) -> int:
    # What is expanded is larger than the memory that it lies in.
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def count(step: Callable[[], Any]) -> Figures:
    """Return the FLOP of a step (those of convolutions and products of matrices) and its bytes."""
    flop, moved = FlopCounterMode(display=False), ByteCounter()
    with flop, moved:
        step()
    return {"flop": flop.get_total_flops(), "bytes": moved.total}


def measure_ceilings(device: str, dtype: str) -> Figures:
    """Return the FLOP/s of a product of large matrices and the bytes/s of a copy, the best of some trials."""
    side = MATRIX_SIDE[device]
    matrix = torch.rand(side, side, device=device, dtype=DTYPES[dtype])
    source = torch.zeros(COPIED_BYTES[device], device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    precision = torch.get_float32_matmul_precision()
    # Convolutions may use TF32 where there is any; so the ceiling has it too.
    torch.set_float32_matmul_precision("high" if torch.backends.cudnn.allow_tf32 else precision)
    product = min(seconds_of(lambda: matrix @ matrix) for _ in range(TRIALS))
    torch.set_float32_matmul_precision(precision)
    copy = min(seconds_of(lambda: target.copy_(source)) for _ in range(TRIALS))
    return {"flop_per_s": 2 * side**3 / product, "bytes_per_s": 2 * source.nbytes / copy}


def measure_roofline(case: Case, seconds: Mapping[str, float], names: Iterable[str]) -> Figures:
    """Return the ceilings, and for each loss its counts against them, given its measured seconds."""
    ceilings = measure_ceilings(case.device, case.dtype)
    pred, target = case.images()
    # FlopCounterMode refuses autograd.grad with respect to a leaf.
    inner = pred.clone()
    rows = []
    for name in names:
        counted = count(step_of(build(name, target), case, inner, target))
        rows.append({"arm": name, **counted, **against(ceilings, counted, seconds[name])})
    return {"ceilings": ceilings, "rows": rows}


def against(ceilings: Figures, counted: Figures, seconds: float) -> Figures:
    """Return the shares of both ceilings, and how long the roofline would take over what was taken."""
    compute = counted["flop"] / ceilings["flop_per_s"]
    memory = counted["bytes"] / ceilings["bytes_per_s"]
    return {
        "flop_share": compute / seconds,
        "bytes_share": memory / seconds,
        "roofline_share": max(compute, memory) / seconds,
        "bound": "compute" if compute > memory else "memory",
        "flop_per_byte": counted["flop"] / counted["bytes"] if counted["bytes"] else math.inf,
    }
