"""The loss in a training loop: one network, one optimiser, a few steps.

python examples/quickstart.py
"""

import torch
from torch import nn

from tafm_loss import BlurSynthesizer, TaskAdaptiveFeatureLoss, calibrate_weight
from tafm_loss.scenes import generate_scenes

generator = torch.Generator().manual_seed(0)
sharp = generate_scenes(4, 96, generator=generator)
_, blurred = BlurSynthesizer(extents=(0, 6))(sharp, generator=generator)

torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 3, 5, padding=2))
optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)

l1 = nn.L1Loss()
loss_fn = TaskAdaptiveFeatureLoss()
targets = loss_fn.features(sharp)  # once, since these targets never change

# The weight that makes the loss pull twice as hard as L1 where this training starts: the recommended ratio.
weight = calibrate_weight(loss_fn, l1, blurred, sharp)

for step in range(20):
    restored = blurred + network(blurred)
    pixel, feature = l1(restored, sharp), loss_fn(restored, targets)
    optimiser.zero_grad()
    (pixel + weight * feature).backward()
    optimiser.step()
    if step % 5 == 0:
        print(f"step {step:2d}: L1 {pixel.item():.4f}, TAFM {feature.item():.3f}")
