"""The loss in a loop with accelerate, on one process or several.

accelerate launch -m examples.integrations.accelerate_loop
"""

import torch
from accelerate import Accelerator

from examples.integrations.small import PIXEL_L1, Residual, loader
from tafm_loss import BalancedLoss, TaskAdaptiveFeatureLoss


def main(steps: int = 4) -> dict[str, float]:
    """Train for some steps, and return the last log of the loss."""
    accelerator = Accelerator()
    network = Residual()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    network, optimizer, batches = accelerator.prepare(network, optimizer, loader(steps))
    # Not by prepare(): it would wrap the loss for distributed training, and there is nothing to train in it.
    loss_fn = BalancedLoss(PIXEL_L1, TaskAdaptiveFeatureLoss()).to(accelerator.device)
    accelerator.register_for_checkpointing(loss_fn)
    for blurred, sharp in batches:
        optimizer.zero_grad()
        accelerator.backward(loss_fn(network(blurred), sharp))
        optimizer.step()
        if loss_fn.just_measured:
            accelerator.print(loss_fn.log())
    return loss_fn.log()


if __name__ == "__main__":
    main()
