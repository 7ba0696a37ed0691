"""What part of a whole training step the default loss takes, for networks of two sizes."""

import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from _common import ROOT
from _cost_timing import Case, Figures, autocast, time_interleaved
from torch import Tensor, nn

# The examples are packages beside the benchmarks, and not installed.
sys.path.insert(0, str(ROOT))
from examples.deblurring.models.networks import create_network
from tafm_loss import TaskAdaptiveFeatureLoss

UNET, NAFNET = "residual-unet, width 48", "nafnet-32"
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    UNET: lambda: create_network("residual-unet", width=48),
    NAFNET: lambda: create_network("nafnet-32"),
}
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Training:
    """A network and what it is trained on."""

    network: str
    case: Case


def measure_shares(trainings: list[Training], rounds: int) -> list[Figures]:
    """Return for each training the seconds of its step with L1 and with L1 + the default loss, and the loss's share."""
    rows = []
    for training in trainings:
        case = training.case
        pixels = training_step(training, lambda output, sharp: F.l1_loss(output.float(), sharp))
        feature_loss = TaskAdaptiveFeatureLoss(weight=0.01).to(case.device)

        def both(output: Tensor, sharp: Tensor, feature_loss: Any = feature_loss) -> Tensor:
            return F.l1_loss(output.float(), sharp) + feature_loss(output, sharp)

        seconds = time_interleaved({"L1": pixels, "L1 + default": training_step(training, both)}, rounds)
        rows.append({"network": training.network, **asdict(case), "seconds": seconds, "share": share(seconds)})
        print(f"measured: a step of {training.network}, {case.dtype}", file=sys.stderr, flush=True)
    return rows


def training_step(training: Training, loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
    """Return a step of forward, backward and optimiser; under autocast if the case says so."""
    network = NETWORKS[training.network]().to(training.case.device)
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
    blurred, sharp = (images.detach() for images in training.case.images())

    def step() -> None:
        optimiser.zero_grad()
        with autocast(training.case.device, training.case.dtype):
            value = loss(network(blurred)[-1], sharp)
        value.backward()
        optimiser.step()

    return step


def share(seconds: dict[str, list[float]]) -> float:
    """Return the loss's part of the step that has it."""
    without, with_loss = (statistics.median(seconds[arm]) for arm in ("L1", "L1 + default"))
    return 1 - without / with_loss
