"""The loss in a LightningModule, which moves it, saves the state of its weight, and logs its terms.

pip install lightning
python -m examples.integrations.lightning_module
"""

import lightning
import torch
from torch import Tensor

from examples.integrations.small import PIXEL_L1, Residual, loader
from tafm_loss import BalancedLoss, TaskAdaptiveFeatureLoss


class Deblurring(lightning.LightningModule):
    """A network and its loss. The loss is a child, so that Lightning moves it; it has no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Residual()
        self.loss = BalancedLoss(PIXEL_L1, TaskAdaptiveFeatureLoss())

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Return the loss of one batch, and log its terms."""
        blurred, sharp = batch
        total: Tensor = self.loss(self.network(blurred), sharp)
        if self.loss.just_measured:  # log() waits for the device
            self.log_dict(self.loss.log())
        return total

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimiser of the network alone."""
        return torch.optim.AdamW(self.network.parameters(), 1e-3)


def main(steps: int = 4) -> dict[str, float]:
    """Train for some steps, and return the last log of the loss."""
    module = Deblurring()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_steps=steps, accelerator="auto", devices=1, **options)
    trainer.fit(module, loader(steps))
    return module.loss.log()


if __name__ == "__main__":
    print(main())
