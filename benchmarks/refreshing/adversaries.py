"""What learns to tell restored from sharp images while the network trains: the usual rivals of an adapted distance."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RATE, BETAS = 2e-4, (0.5, 0.9)
SLOPE = 0.2


class PatchDiscriminator(nn.Module):
    """Four convolutions, each patch of 30 px judged for itself; spectral norms keep it from running away."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        shapes = [(3, width, 4, 2), (width, 2 * width, 4, 2), (2 * width, 2 * width, 4, 1)]
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.spectral_norm(nn.Conv2d(into, out, kernel, stride, 1))
            for into, out, kernel, stride in shapes
        )
        self.head = nn.Conv2d(2 * width, 1, 3, 1, 1)

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the features after each layer."""
        found, maps = [], 2 * images - 1
        for layer in self.layers:
            maps = F.leaky_relu(layer(maps), SLOPE)
            found.append(maps)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Return how sharp each patch looks (N, 1, H', W')."""
        judged: Tensor = self.head(self.features(images)[-1])
        return judged


def discriminator_loss(restored: Tensor, sharp: Tensor) -> Tensor:
    """Return the relativistic average loss of what a discriminator said: sharp patches look sharper than restored."""
    return _relativistic(sharp, restored)


def generator_loss(restored: Tensor, sharp: Tensor) -> Tensor:
    """Return the same for the network: restored patches look sharper than sharp ones."""
    return _relativistic(restored, sharp)


def _relativistic(better: Tensor, worse: Tensor) -> Tensor:
    above, below = F.softplus(-(better - worse.mean())), F.softplus(worse - better.mean())
    return (above.mean() + below.mean()) / 2


class Adversary:
    """A discriminator that takes a step whenever its term is asked for in training.

    Args:
        matching: compare features, or else ask whether patches look sharp.
        seed: of its weights.
        device: where it computes.
    """

    def __init__(self, *, matching: bool, seed: int, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = PatchDiscriminator()
        self.network = network.to(device, memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=RATE, betas=BETAS)
        self.compare: Callable[[Tensor, Tensor], Tensor] = self._matching if matching else self._judged
        self.told: list[dict[str, float]] = []

    def learn(self, restored: Tensor, sharp: Tensor) -> None:
        """Take a step of the discriminator."""
        self.network.train().requires_grad_()
        judged, real = self.network(torch.cat([restored.detach(), sharp])).chunk(2)
        loss = discriminator_loss(judged, real)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.told.append({"loss": float(loss.detach()), "apart": float((real - judged).detach().mean())})

    def term(self, restored: Tensor, sharp: Tensor) -> Tensor:
        """Return the term as the discriminator has it now."""
        self.network.eval().requires_grad_(False)
        return self.compare(restored, sharp)

    def _matching(self, restored: Tensor, sharp: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.network.features(sharp)
        pairs = zip(self.network.features(restored), wanted, strict=True)
        return torch.stack([F.l1_loss(found, each) for found, each in pairs]).mean()

    def _judged(self, restored: Tensor, sharp: Tensor) -> Tensor:
        with torch.no_grad():
            real = self.network(sharp)
        return generator_loss(self.network(restored), real)
