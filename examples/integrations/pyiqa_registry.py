"""The loss by name in pyiqa, as a metric and as a loss.

pip install pyiqa
python -m examples.integrations.pyiqa_registry
"""

import pyiqa
import torch
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from examples.integrations.small import PIXEL_L1, Residual, loader
from tafm_loss import TaskAdaptiveFeatureLoss, calibrate_weight

NAME = "tafm"


class TAFM(nn.Module):
    """The distance of each image, as pyiqa expects it."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.loss = TaskAdaptiveFeatureLoss(reduction="none", **options)

    def forward(self, images: Tensor, reference: Tensor) -> Tensor:
        """Return (N, 1) of images (N, 3, H, W) in [0, 1]."""
        return self.loss(images, reference)[:, None]


def register() -> None:
    """Make `pyiqa.create_metric("tafm")` work; calling it again does nothing."""
    if NAME not in DEFAULT_CONFIGS:
        ARCH_REGISTRY.register(TAFM)
        DEFAULT_CONFIGS[NAME] = {"metric_opts": {"type": "TAFM"}, "metric_mode": "FR", "lower_better": True}


def main(steps: int = 4) -> dict[str, float]:
    """Train for some steps with the loss by its name, and return both terms of the last step and the metric."""
    register()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # A weight would be a tensor for each image in pyiqa's loss_weight; we multiply outside.
    metric, loss_fn = (pyiqa.create_metric(NAME, as_loss=as_loss, device=device) for as_loss in (False, True))
    network = Residual().to(device)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    weight = None
    for blurred, sharp in ((a.to(device), b.to(device)) for a, b in loader(steps)):
        optimizer.zero_grad()
        restored = network(blurred)
        if weight is None:
            weight = calibrate_weight(loss_fn, PIXEL_L1, restored, sharp)
        pixel, feature = PIXEL_L1(restored, sharp), weight * loss_fn(restored, sharp)
        (pixel + feature).backward()
        optimizer.step()
    return {
        "pixel": float(pixel),
        "feature": float(feature),
        "metric": float(metric(restored.clamp(0, 1), sharp).mean()),
    }


if __name__ == "__main__":
    print(main())
