"""What `tafm-lite` is made from: the network of the package, and a config that keeps what each tap counts."""

import importlib.metadata

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from examples.bundled import base
from examples.bundled.base import BASE_WEIGHTS, base_backbone
from examples.bundled.describe import described
from tafm_loss import Backbone, TaskAdaptiveFeatureLoss
from tafm_loss.backbones.lite import BLOCKS, LITE_CONFIG, LiteNetwork, without_nyquist
from tafm_loss.losses.distances import normalized_l2
from tafm_loss.scenes import generate_scenes

TAP_WEIGHTS = {"stem": 0.5, "block1": 0.25, "block3": 1.0, "block5": 2.0}


@pytest.fixture
def random_lite() -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Backbone(LiteNetwork(), LITE_CONFIG).eval()


@pytest.fixture
def installed() -> Backbone:
    try:
        importlib.metadata.distribution(base.PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{base.PACKAGE} is not installed")
    return base_backbone()


def in_evaluation(weights: dict[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """Return the taps as the package's network has them, its normalisation beside its convolutions."""

    def normalised(features: Tensor, convolution: str, norm: str, stride: int, groups: int) -> Tensor:
        weight = weights[f"{convolution}.weight"]
        features = F.conv2d(features, weight, None, stride, weight.shape[-1] // 2, groups=groups)
        statistics = (weights[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(features, *statistics, eps=1e-3)

    features = F.relu6(normalised(images, "_conv_stem", "_bn0", 2, 1))
    taps = {"stem": features}
    for index, (inputs, width, outputs, _, stride) in enumerate(BLOCKS):
        name, wide = f"_blocks.{index}", features
        if width != inputs:
            wide = F.relu6(normalised(features, f"{name}._expand_conv", f"{name}._bn0", 1, 1))
        seen = F.relu6(normalised(wide, f"{name}._depthwise_conv", f"{name}._bn1", stride, width))
        narrowed = normalised(seen, f"{name}._project_conv", f"{name}._bn2", 1, 1)
        features = narrowed + features if stride == 1 and inputs == outputs else narrowed
        taps[f"block{index}"] = seen
    return taps


def test_the_base_sees_what_the_network_of_the_package_sees(installed: Backbone) -> None:
    images = generate_scenes(2, 64, generator=torch.Generator().manual_seed(0))
    expected = in_evaluation(base._package_weights(), without_nyquist((images - installed.mean) / installed.std))
    for tap, features in installed(images).items():
        torch.testing.assert_close(features, expected[tap], rtol=1e-3, atol=1e-4)
    assert installed.config.base_weights == BASE_WEIGHTS and installed.config.training_data == "ImageNet-1k"


def test_another_file_in_the_package_is_refused(installed: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match="must have the SHA-256 0000"):
        base_backbone()


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "PACKAGE", "no-such-package")
    with pytest.raises(ModuleNotFoundError, match="pip install no-such-package=="):
        base_backbone()


@torch.no_grad()
def test_the_described_form_keeps_what_each_tap_counts_and_is_1_at_the_unit(random_lite: Backbone) -> None:
    photographs = generate_scenes(3, 64, generator=torch.Generator().manual_seed(0))
    backbone = described(random_lite, TAP_WEIGHTS, photographs, "0123")
    config = backbone.config
    assert (config.name, config.base_weights) == ("tafm-lite", BASE_WEIGHTS) and "0123" in config.training_data
    assert sum(config.recommended_layers.values()) == pytest.approx(1, rel=1e-3)
    near, far = photographs, photographs.flip(-1)
    terms = TaskAdaptiveFeatureLoss(backbone).terms(near, far)
    plain = {
        tap: TAP_WEIGHTS[tap] * float(normalized_l2(backbone(near)[tap], backbone(far)[tap]).mean()) for tap in terms
    }
    shares = {tap: float(term / sum(terms.values())) for tap, term in terms.items()}
    assert shares == pytest.approx({tap: part / sum(plain.values()) for tap, part in plain.items()}, rel=2e-3)
