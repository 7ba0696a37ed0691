"""Statistics over a box around each location, in place of the whole image (TLC).

After Chu et al., "Improving Image Restoration by Revisiting Global Information Aggregation" (ECCV 2022). A network that
is trained on crops and pools over all of its input sees other statistics on a whole photograph. Boxes of about the size
of the crops bring back those that it was trained with. Nothing is trained, and the weights are the same.
"""

import copy

import torch
from torch import Tensor, nn

from examples.deblurring.models.arguments import check_counts

__all__ = ["GlobalPooling", "InstanceNorm", "box_mean", "pools_over_image", "use_local_statistics"]

Box = tuple[int, int]


class GlobalPooling(nn.Module):
    """The mean of each channel: of the whole map, or, once `box` is set, of a box around each location.

    The attribute `box` is the height and width of the box in px of the map; None for the whole map.
    """

    def __init__(self) -> None:
        super().__init__()
        self.box: Box | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Return the means of features (N, C, H, W): (N, C, 1, 1), or with a box what fits H and W by broadcasting."""
        if self.box is None:
            return features.mean((2, 3), keepdim=True)
        return box_mean(features.double(), self.box).to(features.dtype)


class InstanceNorm(nn.InstanceNorm2d):
    """Affine instance normalisation by the whole map, or, once `box` is set, by a box around each location.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)
        self.box: Box | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Return features (N, C, H, W), normalised."""
        if self.box is None:
            return super().forward(features)
        wide = features.double()
        mean = box_mean(wide, self.box)
        variance = (box_mean(wide.square(), self.box) - mean.square()).clamp(min=0)
        normalised = (wide - mean) / (variance + self.eps).sqrt()
        return (normalised * self.weight[:, None, None] + self.bias[:, None, None]).to(features.dtype)


def box_mean(features: Tensor, box: Box) -> Tensor:
    """Return the mean of a box around each location of a map.

    A box that would leave the map is moved back into it, which repeats the outermost means up to the edges. An even
    box reaches one further down and to the right. The sums are differences of running sums: a large box costs no more
    than a small one, but sums over a whole photograph need features in float64.

    Args:
        features: (N, C, H, W).
        box: height and width in px; a side as long as the map or longer takes in all of it.

    Returns:
        (N, C, H, W), with 1 in place of a side along which all boxes are the same.
    """
    return _run_mean(_run_mean(features, 2, box[0]), 3, box[1])


def pools_over_image(network: nn.Module) -> bool:
    """Return whether a network of `create_network` takes statistics over all that it sees."""
    return bool(_layers(network))


def use_local_statistics(network: nn.Module, window: int = 384, train_size: int = 256) -> None:
    """Make every global pooling and instance norm of `network` take its statistics from boxes, in place.

    At each layer the box is to its map what the window is to a training crop. How large a map is (one of MPRNet's is
    that of a quarter of the image) is seen from one pass without data. Sums are in float64, which Apple's GPUs lack.

    Args:
        network: of `create_network`; its weights and their names stay as they are.
        window: side of the box in px of the image; the authors use 1.5 times the training crop.
        train_size: side of the crops that it was trained on, in px, a multiple of the network's `multiple`.

    Raises:
        ValueError: if the network has neither a global pooling nor an instance norm; or for a size that cannot be.
    """
    check_counts(window=window, train_size=train_size)
    layers = _layers(network)
    if not layers:
        raise ValueError(f"{type(network).__name__} takes no statistics over the image: there is nothing to make local")
    for layer, (height, width) in zip(layers, _map_sizes(network, train_size), strict=True):
        layer.box = (max(1, height * window // train_size), max(1, width * window // train_size))


def _run_mean(x: Tensor, dim: int, length: int) -> Tensor:
    size = x.shape[dim]
    if length >= size:
        return x.mean(dim, keepdim=True)
    sums = torch.cat([torch.zeros_like(x.narrow(dim, 0, 1)), x.cumsum(dim)], dim)
    first = (torch.arange(size, device=x.device) - (length - 1) // 2).clamp(0, size - length)
    return (sums.index_select(dim, first + length) - sums.index_select(dim, first)) / length


def _layers(network: nn.Module) -> list[GlobalPooling | InstanceNorm]:
    return [module for module in network.modules() if isinstance(module, GlobalPooling | InstanceNorm)]


def _map_sizes(network: nn.Module, size: int) -> list[Box]:
    """Return the height and width of what each of `_layers(network)` is given for an image of `size` px."""
    # The meta device has shapes and no numbers: the pass costs nothing, whatever the network.
    twin = copy.deepcopy(network).to("meta")
    layers = _layers(twin)
    seen: dict[nn.Module, Box] = {}
    for layer in layers:
        layer.register_forward_pre_hook(lambda layer, inputs: seen.update({layer: tuple(inputs[0].shape[2:])}))
    twin(torch.empty(1, 3, size, size, device="meta"))
    return [seen[layer] for layer in layers]
