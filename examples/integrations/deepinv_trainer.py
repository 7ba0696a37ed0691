"""The loss as one of deepinv's losses, beside its own on the pixels.

pip install deepinv
python -m examples.integrations.deepinv_trainer
"""

from typing import Any

import deepinv
import torch
from torch import Tensor

from examples.integrations.small import PIXEL_L1, Residual, loader
from tafm_loss import BalancedLoss, TaskAdaptiveFeatureLoss


class BalancedSupervisedLoss(deepinv.loss.Loss):
    """Both losses as one of deepinv's, which it calls with everything by name."""

    def __init__(self, balanced: BalancedLoss) -> None:
        super().__init__()
        self.balanced = balanced

    def forward(self, x: Tensor, x_net: Tensor, **_: Any) -> Tensor:
        """Return the loss () of the restored images `x_net` and the sharp ones `x`."""
        loss: Tensor = self.balanced(x_net, x)
        return loss


class Restoration(deepinv.models.Reconstructor):
    """A network as deepinv calls it: with the physics, which this one does not need."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Residual()

    def forward(self, y: Tensor, physics: object = None, **_: Any) -> Tensor:
        """Return restored images of the measurements `y`."""
        restored: Tensor = self.network(y)
        return restored


def main(steps: int = 4) -> dict[str, float]:
    """Train for some steps, and return the last log of the loss."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Restoration().to(device)
    balanced = BalancedLoss(PIXEL_L1, TaskAdaptiveFeatureLoss()).to(device)
    batches = loader(steps)
    batches.collate_fn = lambda pairs: [torch.stack(images) for images in zip(*pairs, strict=True)][::-1]  # x, y
    trainer = deepinv.Trainer(
        model,
        physics=deepinv.physics.Denoising(),
        optimizer=torch.optim.AdamW(model.parameters(), 1e-3),
        train_dataloader=batches,
        losses=BalancedSupervisedLoss(balanced),
        metrics=None,
        epochs=1,
        device=device,
        save_path=None,
        online_measurements=False,
        show_progress_bar=False,
        verbose=False,
    )
    trainer.train()
    return balanced.log()


if __name__ == "__main__":
    print(main())
