"""The loss in a loop of your own, with a weight that follows the training.

python -m examples.integrations.plain_loop
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from examples.integrations.small import PIXEL_L1, Residual, loader
from tafm_loss import BalancedLoss, TaskAdaptiveFeatureLoss


def main(steps: int = 4) -> dict[str, float]:
    """Train for some steps, resume from a checkpoint, and return the last log of the loss."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = Residual().to(device)
    loss_fn = BalancedLoss(PIXEL_L1, TaskAdaptiveFeatureLoss()).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)  # of the network alone: the loss has nothing to train
    for blurred, sharp in loader(steps):
        optimizer.zero_grad()
        loss = loss_fn(network(blurred.to(device)), sharp.to(device))
        loss.backward()
        optimizer.step()
        if loss_fn.just_measured:
            print(loss_fn.log())
    with TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.pt")
        torch.save({"network": network.state_dict(), "loss": loss_fn.state_dict()}, path)
        loss_fn.load_state_dict(torch.load(path)["loss"])
    return loss_fn.log()


if __name__ == "__main__":
    main()
