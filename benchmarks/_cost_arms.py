"""The losses that loss_cost.py compares: ours and their peers, built with random weights, which cost the same."""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss import ContrastiveFeatureLoss, DiscriminativeFeatureLoss, TaskAdaptiveFeatureLoss, create_backbone
from tafm_loss.mdf import PatchDiscriminators, discriminator_backbone

Loss = Callable[[Tensor, Tensor], Tensor]

DEFAULT, CACHED = "default", "default, cached targets"
# What the default was in results that do not name their "form".
FORMER_FORM = "tafm-compact, all stages, normalized_l2"
SQUEEZENET, DISCRIMINATIVE = "squeezenet1_0, our loss", "MDF, 8 discriminators"
ALEX, VGG19 = "lpips-alex", "VGG19 conv5_4, as BasicSR"
OUR_VGG19, OUR_VGG19_CACHED = "VGG19 conv5_4, our loss", "VGG19 conv5_4, our loss, cached targets"

VGG_CONV5_4 = 34
VGG16_TAPS = (64, 128, 256, 512, 512)
OFFICIAL_WIDTHS = [32] * 4 + [64] * 4


class Vgg19Loss(nn.Module):
    """VGG19 as BasicSR computes it: normalised images, convolutions before their in-place ReLUs, distances added up.

    Args:
        taps: the indices of the convolutions in torchvision's `features`.
        criterion: the distance of the features at a tap.
    """

    def __init__(self, taps: Sequence[int] = (VGG_CONV5_4,), criterion: Loss = F.l1_loss) -> None:
        super().__init__()
        from torchvision.models import vgg19

        self.taps = taps
        self.features = vgg19(weights=None).features[: max(taps) + 1].requires_grad_(False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.criterion = criterion

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the sum over the taps of the distances of the features."""
        ours, theirs = self._taps(pred), self._taps(target.detach())
        return torch.stack([self.criterion(a, b) for a, b in zip(ours, theirs, strict=True)]).sum()

    def _taps(self, images: Tensor) -> list[Tensor]:
        found = []
        x = (images - self.mean) / self.std
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                # The ReLU that follows works in place.
                found.append(x.clone())
        return found


def build(name: str, target: Tensor) -> Loss:
    """Return the loss of that name for a target, on whose device it is; global random state is left as it is."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Random weights are what is asked for, and lpips uses names that torchvision will drop.
        warnings.simplefilter("ignore", UserWarning)
        torch.default_generator.manual_seed(0)
        return ARMS[name](target)


def default_form() -> str:
    """Return the backbone, taps and distance that the loss has without arguments."""
    loss = TaskAdaptiveFeatureLoss()
    return f"{loss.backbone.config.name}, {' + '.join(loss.layers)}, {loss.distance}"


def title(name: str, result: Mapping[str, Any]) -> str:
    """Return what an arm is called for readers: the default by the form that was measured."""
    return name.replace(DEFAULT, result.get("form", FORMER_FORM))


def _default(target: Tensor) -> Loss:
    return TaskAdaptiveFeatureLoss().to(target.device)


def _squeezenet(target: Tensor) -> Loss:
    return TaskAdaptiveFeatureLoss(create_backbone("squeezenet1_0", weights=None)).to(target.device)


def _vgg19(target: Tensor) -> Loss:
    backbone = create_backbone("vgg19", weights=None, layers=["conv5_4"])
    return TaskAdaptiveFeatureLoss(backbone, distance="l1").to(target.device)


def _cached(build_loss: Callable[[Tensor], Any], target: Tensor) -> Loss:
    loss = build_loss(target)
    features = loss.features(target)
    return lambda pred, _: loss(pred, features)


def _discriminative(target: Tensor) -> Loss:
    backbone = discriminator_backbone(PatchDiscriminators(OFFICIAL_WIDTHS), "random")
    return DiscriminativeFeatureLoss(backbone).to(target.device)


def _contrastive(count: int, target: Tensor) -> Loss:
    generator = torch.Generator().manual_seed(1)
    negatives = torch.rand(count, *target.shape, generator=generator).to(target.device)
    return functools.partial(ContrastiveFeatureLoss().to(target.device), negatives=negatives)


def _basicsr_vgg19(target: Tensor) -> Loss:
    return Vgg19Loss().to(target.device)


def _lpips(net: str, target: Tensor) -> Loss:
    import lpips

    metric = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False).to(target.device)
    return lambda pred, target: metric(pred, target, normalize=True).mean()


def _torchmetrics_lpips(target: Tensor) -> Loss:
    import torchvision.models
    from torchmetrics.functional.image import lpips as implementation
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    def untrained(net: str, pretrained: bool) -> nn.Module:
        return getattr(torchvision.models, net)(weights=None).features

    with mock.patch.object(implementation, "_get_tv_model_features", untrained):
        metric = LearnedPerceptualImagePatchSimilarity("alex", normalize=True).to(target.device)

    def loss(pred: Tensor, target: Tensor) -> Tensor:
        # It keeps what it is called with until it is reset.
        metric.reset()
        return metric(pred, target)

    return loss


def _piq(name: str, target: Tensor) -> Loss:
    import piq
    from piq import perceptual
    from torchvision.models import vgg

    def untrained(**_: Any) -> SimpleNamespace:
        # Without the classifier, whose 120 M weights take seconds to draw.
        return SimpleNamespace(features=vgg.make_layers(vgg.cfgs["D"]))

    with (
        mock.patch.object(perceptual, "vgg16", untrained),
        mock.patch.object(torch.hub, "load_state_dict_from_url", lambda *_, **__: _piq_weights(name)),
    ):
        return getattr(piq, name)()


def _piq_weights(name: str) -> Any:
    if name == "LPIPS":
        return [torch.rand(1, width, 1, 1) for width in VGG16_TAPS]
    # Equal ones that add up to 1, as the trained ones of DISTS do; the images count as three more features.
    width = 3 + sum(VGG16_TAPS)
    return {part: torch.full((1, width, 1, 1), 0.5 / width) for part in ("alpha", "beta")}


ARMS: dict[str, Callable[[Tensor], Loss]] = {
    DEFAULT: _default,
    CACHED: functools.partial(_cached, _default),
    "contrastive, 1 negative": functools.partial(_contrastive, 1),
    "contrastive, 3 negatives": functools.partial(_contrastive, 3),
    DISCRIMINATIVE: _discriminative,
    SQUEEZENET: _squeezenet,
    ALEX: functools.partial(_lpips, "alex"),
    "torchmetrics LPIPS, alex": _torchmetrics_lpips,
    "lpips-vgg": functools.partial(_lpips, "vgg"),
    "piq LPIPS": functools.partial(_piq, "LPIPS"),
    "piq DISTS": functools.partial(_piq, "DISTS"),
    VGG19: _basicsr_vgg19,
    OUR_VGG19: _vgg19,
    OUR_VGG19_CACHED: functools.partial(_cached, _vgg19),
}
VARIED = [DEFAULT, CACHED, SQUEEZENET, ALEX, VGG19]
