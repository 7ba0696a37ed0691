"""The recipe of `tafm-lite`: what it is fitted on follows from the seed, and the fit comes nearer to its teacher."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from examples.bundled.fitting import Fit, judged
from examples.bundled.photographs import central_crops, reduce_photographs
from examples.bundled.restorations import Crops, Scenes, deblurring_networks, versions_of_scenes
from examples.train_lite import digest
from tafm_loss import Backbone
from tafm_loss.backbones.lite import LITE_CONFIG, LiteNetwork
from tafm_loss.demo import Mask
from tafm_loss.scenes import generate_scenes
from tests.seeds import seeded


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index, scene in enumerate(generate_scenes(2, 420, generator=seeded())):
        Image.fromarray(scene.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def reduced(photographs: Path, tmp_path: Path) -> Path:
    return reduce_photographs(photographs, tmp_path / "reduced")


class Sharpener(nn.Module):
    """Stands for a deblurring network."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, images: Tensor) -> list[Tensor]:
        return [Mask(1.0, self.gain)(images)]


def random_lite() -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Backbone(LiteNetwork(), LITE_CONFIG).eval()


def test_photographs_are_halved_and_quartered_where_they_are_large_enough(photographs: Path, reduced: Path) -> None:
    assert sorted(path.name for path in reduced.iterdir()) == ["0-2.png", "1-2.png"]
    with Image.open(reduced / "0-2.png") as image:
        assert image.size == (210, 210)
    assert central_crops(reduced, 64).shape == (2, 3, 64, 64)
    assert reduce_photographs(photographs, reduced) == reduced


def test_the_digest_of_photographs_is_that_of_names_and_contents(photographs: Path) -> None:
    before = digest(photographs)
    assert before == digest(photographs)
    (photographs / "0.png").rename(photographs / "2.png")
    assert digest(photographs) != before


def test_versions_follow_from_the_seed_and_differ(reduced: Path) -> None:
    networks = [Sharpener(0.5), Sharpener(1.5)]
    first, again, other = (versions_of_scenes(networks, reduced, scenes=3, versions=4, seed=seed) for seed in (1, 1, 2))
    assert first.sharp.shape == (3, 3, 64, 64) and first.versions.shape == (3, 4, 3, 64, 64)
    assert torch.equal(first.versions, again.versions) and not torch.equal(first.sharp, other.sharp)
    assert float(first.versions.min()) >= 0 and float(first.versions.max()) <= 1
    errors = (first.versions - first.sharp[:, None]).square().mean((2, 3, 4))
    assert (errors > 0).all() and (errors.std(1) > 0).all()


def test_networks_are_kept_and_not_trained_twice(reduced: Path, tmp_path: Path) -> None:
    losses = {"other": (lambda restored, sharp: (restored - sharp).square().mean(), 1.0)}
    made, again = (deblurring_networks(reduced, losses, tmp_path / "networks", shorten=125) for _ in range(2))
    assert {path.name for path in (tmp_path / "networks").iterdir()} == {
        "l1-12.safetensors",
        "l1-16.safetensors",
        "l1-24.safetensors",
        "other.safetensors",
    }
    blurred = Crops(reduced, 0)(0).blurred
    with torch.no_grad():
        outputs = [network(blurred)[-1] for network in made]
        assert all(torch.equal(a, b(blurred)[-1]) for a, b in zip(outputs, again, strict=True))
    assert not torch.equal(outputs[2], outputs[3])


def test_the_fit_comes_nearer_to_its_teacher_and_keeps_gains_positive() -> None:
    sharp = generate_scenes(6, 32, generator=seeded())
    versions = torch.stack(
        [
            (sharp + level * torch.randn(sharp.shape, generator=seeded(place))).clamp(0, 1)
            for place, level in enumerate((0.02, 0.05, 0.1))
        ]
        + [Mask(1.0, -0.8)(sharp)],
        1,
    )
    scenes = Scenes(sharp, versions)
    wanted = judged(scenes, lambda restored, true: (restored - true).square().mean((1, 2, 3)))
    assert wanted.shape == (6, 4)
    fit = Fit(random_lite())
    before = fit.errors(scenes, wanted)
    fit.train(scenes, wanted, steps=40, batch_size=3, seed=0)
    after = fit.errors(scenes, wanted)
    assert after[0] < 0.7 * before[0]
    for gains in (fit.backbone.network.gains.stem, fit.backbone.network.gains.block5):
        assert (gains > 0).all() and float(gains.detach().log().mean()) == pytest.approx(0, abs=1e-5)
        assert float(gains.detach().std()) > 0
    weights = fit.tap_weights()
    assert list(weights) == list(LITE_CONFIG.taps) and sum(weights.values()) == pytest.approx(1)


def test_what_the_fit_measures_does_not_depend_on_the_scale_of_the_teacher() -> None:
    sharp = generate_scenes(3, 32, generator=seeded())
    scenes = Scenes(sharp, torch.stack([sharp * 0.9, sharp.flip(-1)], 1))
    wanted = judged(scenes, lambda restored, true: (restored - true).abs().mean((1, 2, 3)))
    fit = Fit(random_lite())
    assert fit.errors(scenes, wanted) == pytest.approx(fit.errors(scenes, wanted + 3.0), rel=1e-4)
    shifted = wanted + torch.tensor([[0.0], [1.0], [2.0]])
    within, across = fit.errors(scenes, shifted)
    assert within == pytest.approx(fit.errors(scenes, wanted)[0], rel=1e-4)
    assert across != pytest.approx(fit.errors(scenes, wanted)[1], rel=1e-2)
