"""The demo, shortened to a few steps: what it compares must be comparable, what it reports must be true."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tafm_loss.demo import data, evaluation, run_demo, training
from tafm_loss.demo.metrics import gmsd
from tafm_loss.demo.network import ResidualUNet
from tafm_loss.losses import TaskAdaptiveFeatureLoss, gradient_ratio


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "TRAINING_PAIRS", 8)
    monkeypatch.setattr(data, "HELD_OUT_SCENES", 3)
    monkeypatch.setattr(training, "BATCH_SIZE", 2)


@pytest.fixture
def pairs(small: None) -> data.Pairs:
    return data.generated_pairs(torch.Generator().manual_seed(0))[0]


def write_photographs(folder: Path, count: int, height: int = 200, width: int = 210) -> None:
    """Write flat photographs, each of another grey, as PNG."""
    for index in range(count):
        Image.new("RGB", (width, height), (10 + 20 * index,) * 3).save(folder / f"{index:02d}.png")


def test_the_network_starts_as_the_identity_at_any_size() -> None:
    network = ResidualUNet(8, generator=torch.Generator().manual_seed(0))
    images = torch.rand(1, 3, 37, 50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(network(images), images)


def test_the_network_sees_both_up_and_down() -> None:
    network = ResidualUNet(8, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(network.head.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    network(images)[0, :, 32, 32].sum().backward()
    assert images.grad is not None
    rows = images.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert rows.min() < 24 and rows.max() > 40


def test_equal_seeds_give_equal_scenes_and_other_seeds_others(small: None) -> None:
    first, second, other = (data.generated_pairs(torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    for mine, same, different in zip(
        (*first[0], *first[1]), (*second[0], *second[1]), (*other[0], *other[1]), strict=True
    ):
        assert torch.equal(mine, same)
        assert not torch.equal(mine, different)


def test_pairs_are_blurred_and_in_range(pairs: data.Pairs) -> None:
    assert pairs.blurred.shape == pairs.sharp.shape == (8, 3, data.TRAINING_SIZE, data.TRAINING_SIZE)
    assert pairs.blurred.min() >= 0 and pairs.blurred.max() <= 1
    mse = (pairs.blurred - pairs.sharp).square().mean((1, 2, 3))
    assert (mse > 2 * data.NOISE**2).all()


def test_no_photograph_is_both_trained_on_and_held_out(small: None, tmp_path: Path) -> None:
    write_photographs(tmp_path, 9)
    (tmp_path / "notes.txt").write_text("no image, and not read as one")
    training_pairs, held_out = data.photograph_pairs(tmp_path, torch.Generator().manual_seed(0))

    def greys(pairs: data.Pairs) -> set[int]:
        return {round(float(image.mean() * 255)) for image in pairs.sharp}

    assert greys(held_out) == {10, 90, 170}
    assert greys(training_pairs) == {30, 50, 70, 110, 130, 150}


def test_small_photographs_are_left_aside(small: None, tmp_path: Path) -> None:
    write_photographs(tmp_path, 3, height=100)
    with pytest.raises(ValueError, match="holds 0, and 3 smaller"):
        data.photograph_pairs(tmp_path, torch.Generator())


def test_photographs_are_turned_upright(small: None, tmp_path: Path) -> None:
    pixels = np.zeros((200, 260, 3), np.uint8)
    pixels[:100] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # Orientation: upside down.
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name, exif=exif)
    _, held_out = data.photograph_pairs(tmp_path, torch.Generator().manual_seed(0))
    assert float(held_out.sharp[..., :90, :].max()) == 0.0 and float(held_out.sharp[..., 110:, :].min()) == 1.0


def test_both_arms_take_the_same_batches_from_the_same_start(
    pairs: data.Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With a loss that pulls at nothing the arms must be one, to the last bit.
    class Nothing(TaskAdaptiveFeatureLoss):
        def forward(self, pred: Tensor, target: object) -> Tensor:
            return 0.0 * pred.sum()

    monkeypatch.setattr(training, "calibrate_weight", lambda *_: 1.0)
    arms = training.train_arms(pairs, Nothing(), steps=6, seed=0, progress=False)
    for pixel, feature in zip(arms.pixel.parameters(), arms.feature.parameters(), strict=True):
        assert torch.equal(pixel, feature)


def test_the_weight_makes_the_stated_gradient_ratio(pairs: data.Pairs) -> None:
    loss = TaskAdaptiveFeatureLoss()
    network = ResidualUNet(generator=torch.Generator().manual_seed(0))
    _, weight = training.with_feature_loss(network, loss, pairs, seed=0)
    batch = next(training.batches_of(pairs, 1, seed=2))
    # Untrained, the network returns the blurred images.
    ratio = gradient_ratio(loss, F.l1_loss, batch.blurred, batch.sharp)
    assert weight * ratio == pytest.approx(training.GRADIENT_RATIO, rel=1e-3)


def test_augmentation_keeps_blurred_and_sharp_aligned(pairs: data.Pairs) -> None:
    for batch in training.batches_of(data.Pairs(pairs.sharp, pairs.sharp), 12, 0):
        assert torch.equal(batch.blurred, batch.sharp)


def test_a_mask_leaves_flat_images_alone_and_steepens_edges() -> None:
    mask = evaluation.Mask(1.0, 0.5)
    flat = torch.full((1, 3, 20, 24), 0.4)
    torch.testing.assert_close(mask(flat), flat)
    edge = flat.clone()
    edge[..., 12:] = 0.6
    sharpened = mask(edge)
    assert sharpened[..., 11].max() < 0.4 and sharpened[..., 12].min() > 0.6


def test_the_rival_is_the_best_of_the_masks() -> None:
    generator = torch.Generator().manual_seed(0)
    sharp = torch.rand(2, 3, 40, 40, generator=generator)
    soft = F.avg_pool2d(F.pad(sharp, (1,) * 4, mode="replicate"), 3, stride=1)
    best = evaluation.best_mask(soft, sharp)
    for sigma in evaluation.MASK_SIGMAS:
        for gain in evaluation.MASK_GAINS:
            mask = evaluation.Mask(sigma, gain)
            assert gmsd(best(soft), sharp).mean() <= gmsd(mask(soft), sharp).mean()


def test_counting_knows_which_way_is_better() -> None:
    sharp = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(sharp.shape, generator=torch.Generator().manual_seed(1))
    values = evaluation.measure({"near": sharp + 0.01 * noise, "far": sharp + 0.2 * noise}, sharp)
    assert evaluation.count_better(values["near"], values["far"]) == "PSNR 4, SSIM 4, GMSD 4 of 4"
    assert evaluation.count_better(values["far"], values["near"]) == "PSNR 0, SSIM 0, GMSD 0 of 4"


@pytest.mark.parametrize("photographs", [False, True])
def test_a_demo_is_repeatable_and_leaves_the_random_state_alone(
    photographs: bool, small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    images = None
    if photographs:
        images = tmp_path / "photos"
        images.mkdir()
        for index in range(4):
            pixels = np.random.default_rng(index).integers(256, size=(200, 230, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"{index}.png")
    state = torch.get_rng_state()
    first, second = (run_demo(images=images, out=tmp_path / "out", steps=3, seed=1, progress=False) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert capsys.readouterr() == ("", "")
    assert first.rows == second.rows and first.notes == second.notes
    assert [row[0] for row in first.rows] == ["blurred input", "L1", "L1 + unsharp mask", "L1 + TAFM"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["demo.png", "response.png"]
    for file in first.files:
        with Image.open(file) as picture:
            assert min(picture.size) > 300
        assert str(file) in str(first)
