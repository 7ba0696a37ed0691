"""What every run here is about: a small network, and pairs of blurred and sharp crops of generated scenes."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tafm_loss import BlurSynthesizer
from tafm_loss.scenes import generate_scenes

__all__ = ["BATCH_SIZE", "PIXEL_L1", "Pairs", "Residual", "loader"]

BATCH_SIZE = 2
PIXEL_L1 = nn.L1Loss()


class Residual(nn.Module):
    """A network that starts as the identity, as deblurring networks with a global skip do."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))
        nn.init.zeros_(self.body[-1].weight)
        nn.init.zeros_(self.body[-1].bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return restored images (N, 3, H, W) of blurred ones."""
        return images + self.body(images)


class Pairs(Dataset[tuple[Tensor, Tensor]]):
    """Pairs (blurred, sharp) of (3, size, size), RGB in [0, 1].

    Args:
        count: how many.
        size: side in px.
    """

    def __init__(self, count: int = 8, size: int = 48) -> None:
        generator = torch.Generator().manual_seed(0)
        self.sharp = generate_scenes(count, size, generator=generator)
        self.blurred = BlurSynthesizer((6,))(self.sharp, generator=generator)[0]

    def __len__(self) -> int:
        """Return how many pairs there are."""
        return len(self.sharp)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one pair."""
        return self.blurred[index], self.sharp[index]


def loader(steps: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return `steps` batches of pairs."""
    return DataLoader(Pairs(steps * BATCH_SIZE), BATCH_SIZE)
