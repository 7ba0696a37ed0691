"""The demo, shortened to a few steps: what it compares must be comparable, what it reports must be true."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tafm_loss.demo import (
    LARGEST_GAIN,
    MASK_SIGMAS,
    RESPONSE_EXTENTS,
    Mask,
    _draw_response,
    matching_mask,
    measure,
    psnr,
    run_demo,
    sharpness,
    training,
)
from tafm_loss.demo.pictures import plot_response, plot_restorations
from tafm_loss.demo.training import Pairs, ResidualUNet, photograph_pairs
from tafm_loss.losses import RECOMMENDED_RATIO, TaskAdaptiveFeatureLoss, gradient_ratio
from tafm_loss.scenes import generate_scenes


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TRAINING_PAIRS", 8)
    monkeypatch.setattr(training, "HELD_OUT_SCENES", 3)
    monkeypatch.setattr(training, "BATCH_SIZE", 2)


@pytest.fixture
def pairs(small: None) -> Pairs:
    return training.generated_pairs(torch.Generator().manual_seed(0))[0]


def write_photographs(folder: Path, count: int, height: int = 200, width: int = 210) -> None:
    """Write flat photographs, each of another grey, as PNG."""
    for index in range(count):
        Image.new("RGB", (width, height), (10 + 20 * index,) * 3).save(folder / f"{index:02d}.png")


def test_the_network_starts_as_the_identity_at_any_size() -> None:
    network = ResidualUNet(8)
    images = torch.rand(1, 3, 37, 50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(network(images), images)


def test_the_network_sees_both_up_and_down() -> None:
    network = ResidualUNet(8)
    torch.nn.init.normal_(network.head.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    network(images)[0, :, 32, 32].sum().backward()
    assert images.grad is not None
    rows = images.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert rows.min() < 24 and rows.max() > 40


def test_equal_seeds_give_equal_scenes_and_other_seeds_others(small: None) -> None:
    first, second, other = (training.generated_pairs(torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    for mine, same, different in zip(
        (*first[0], *first[1]), (*second[0], *second[1]), (*other[0], *other[1]), strict=True
    ):
        assert torch.equal(mine, same)
        assert not torch.equal(mine, different)


def test_pairs_are_blurred_and_in_range(pairs: Pairs) -> None:
    assert pairs.blurred.shape == pairs.sharp.shape == (8, 3, training.TRAINING_SIZE, training.TRAINING_SIZE)
    assert pairs.blurred.min() >= 0 and pairs.blurred.max() <= 1
    mse = (pairs.blurred - pairs.sharp).square().mean((1, 2, 3))
    assert (mse > 2 * training.NOISE**2).all()


def test_no_photograph_is_both_trained_on_and_held_out(small: None, tmp_path: Path) -> None:
    write_photographs(tmp_path, 9)
    (tmp_path / "notes.txt").write_text("no image, and not read as one")
    training_pairs, held_out = photograph_pairs(tmp_path, torch.Generator().manual_seed(0))

    def greys(pairs: Pairs) -> set[int]:
        return {round(float(image.mean() * 255)) for image in pairs.sharp}

    assert greys(held_out) == {10, 90, 170}
    assert greys(training_pairs) == {30, 50, 70, 110, 130, 150}


def test_small_photographs_are_left_aside(small: None, tmp_path: Path) -> None:
    write_photographs(tmp_path, 3, height=100)
    with pytest.raises(ValueError, match="holds 0, and 3 smaller"):
        photograph_pairs(tmp_path, torch.Generator())


def test_photographs_are_turned_upright(small: None, tmp_path: Path) -> None:
    pixels = np.zeros((200, 260, 3), np.uint8)
    pixels[:100] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # Orientation: upside down.
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name, exif=exif)
    _, held_out = photograph_pairs(tmp_path, torch.Generator().manual_seed(0))
    assert float(held_out.sharp[..., :90, :].max()) == 0.0 and float(held_out.sharp[..., 110:, :].min()) == 1.0


def test_both_arms_take_the_same_batches_from_the_same_start(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    # With a loss that pulls at nothing the arms must be one, to the last bit.
    class Nothing(TaskAdaptiveFeatureLoss):
        def forward(self, pred: Tensor, target: object) -> Tensor:
            return 0.0 * pred.sum()

    monkeypatch.setattr(training, "calibrate_weight", lambda *_: 1.0)
    arms = training.train_arms(pairs, Nothing(), steps=6, seed=0, progress=False)
    for pixel, feature in zip(arms.pixel.parameters(), arms.feature.parameters(), strict=True):
        assert torch.equal(pixel, feature)


def test_the_weight_makes_the_recommended_gradient_ratio(pairs: Pairs) -> None:
    loss = TaskAdaptiveFeatureLoss()
    both, weight = training.with_feature_loss(ResidualUNet(), loss, pairs, seed=0)
    # Untrained, the network returns the blurred images.
    batches = list(training.batches_of(pairs, training.CALIBRATION_BATCHES, seed=2))
    ratios = sorted(weight * gradient_ratio(loss, F.l1_loss, batch.blurred, batch.sharp) for batch in batches)
    assert len(ratios) == 8 and ratios[3] <= RECOMMENDED_RATIO * 1.001 and ratios[4] >= RECOMMENDED_RATIO * 0.999
    expected = F.l1_loss(batches[0].blurred, batches[0].sharp) + weight * loss(*batches[0])
    torch.testing.assert_close(both(*batches[0]), expected)


def test_the_learning_rate_rises_shortly_and_falls_to_nothing() -> None:
    rates = [training.cosine_schedule(1000)(step) for step in (0, 49, 500, 999)]
    assert rates == pytest.approx([2e-5, 1e-3 * 0.9941, 5e-4, 0], abs=1e-6)


def test_crops_fill_images_of_their_own_size(pairs: Pairs) -> None:
    whole = Pairs(pairs.blurred[..., :64, :64], pairs.sharp[..., :64, :64])
    assert {batch.sharp.shape[2:] for batch in training.batches_of(whole, 12, 0)} == {(64, 64)}


def test_at_most_sixty_photographs_are_read_from_a_folder_that_is_one(tmp_path: Path) -> None:
    write_photographs(tmp_path, 12, 192, 192)
    for copy in range(5):
        for path in sorted(tmp_path.glob("??.png")):
            path.with_name(f"{path.stem}-{copy}.png").write_bytes(path.read_bytes())
    assert len(training._read_photographs(tmp_path)) == 60 < len(list(tmp_path.iterdir()))
    with pytest.raises(NotADirectoryError, match=r"there is no folder .*nowhere"):
        photograph_pairs(tmp_path / "nowhere", torch.Generator())


def test_augmentation_keeps_blurred_and_sharp_aligned(pairs: Pairs) -> None:
    for batch in training.batches_of(Pairs(pairs.sharp, pairs.sharp), 12, 0):
        assert torch.equal(batch.blurred, batch.sharp)


def test_a_mask_leaves_flat_images_alone_and_steepens_edges() -> None:
    mask = Mask(1.0, 0.5)
    flat = torch.full((1, 3, 20, 24), 0.4)
    torch.testing.assert_close(mask(flat), flat)
    edge = flat.clone()
    edge[..., 12:] = 0.6
    sharpened = mask(edge)
    assert sharpened[..., 11].max() < 0.4 and sharpened[..., 12].min() > 0.6


def test_a_mask_adds_what_a_gaussian_of_its_sigma_removes() -> None:
    from torchvision.transforms.functional import gaussian_blur

    images = 0.3 + 0.4 * torch.rand(2, 3, 30, 34, generator=torch.Generator().manual_seed(0))
    inside = (..., slice(9, -9), slice(9, -9))
    for sigma, gain in ((0.7, 0.5), (2.5, 0.25)):
        removed = images - gaussian_blur(images, [2 * int(3 * sigma + 0.5) + 1] * 2, [sigma] * 2)
        torch.testing.assert_close(Mask(sigma, gain)(images)[inside], (images + gain * removed)[inside])
    assert Mask(1.0, 50.0)(images).aminmax() == (0.0, 1.0)


@pytest.fixture
def soft_and_sharp() -> tuple[Tensor, Tensor]:
    sharp = F.avg_pool2d(torch.rand(2, 3, 50, 50, generator=torch.Generator().manual_seed(0)), 2, stride=1)
    return F.avg_pool2d(F.pad(sharp, (1,) * 4, mode="replicate"), 3, stride=1), sharp


def test_the_rival_is_as_sharp_as_asked_and_nearest_to_the_sharp_image(soft_and_sharp: tuple[Tensor, Tensor]) -> None:
    soft, sharp = soft_and_sharp
    wanted = Mask(1.0, 0.6)(soft)
    rival = matching_mask(soft, wanted, sharp)
    assert float(sharpness(rival(soft), sharp).mean()) == pytest.approx(
        float(sharpness(wanted, sharp).mean()), rel=1e-4
    )
    assert psnr(rival(soft), sharp).mean() >= psnr(wanted, sharp).mean() - 1e-4
    assert rival.sigma in MASK_SIGMAS and 0 < rival.gain < LARGEST_GAIN


def test_a_rival_of_something_softer_is_no_mask(soft_and_sharp: tuple[Tensor, Tensor]) -> None:
    soft, sharp = soft_and_sharp
    assert matching_mask(soft, F.avg_pool2d(F.pad(soft, (1,) * 4), 3, stride=1), sharp).gain < 1e-5


def test_what_is_measured_is_what_its_heading_says(soft_and_sharp: tuple[Tensor, Tensor]) -> None:
    soft, sharp = soft_and_sharp
    values = measure(soft, sharp)
    error = (soft - sharp).square().mean((1, 2, 3))
    torch.testing.assert_close(values["PSNR, dB (higher)"].float(), -10 * error.log10())
    assert values["SSIM (higher)"].shape == (2,) and (values["SSIM (higher)"] < 1).all()
    torch.testing.assert_close(measure(sharp, sharp)["SSIM (higher)"], torch.ones(2))
    assert (values["sharpness (1 = sharp)"] < 0.9).all()
    torch.testing.assert_close(sharpness(2 * sharp, sharp), torch.full((2,), 4.0, dtype=torch.float64))


def test_the_picture_shows_every_column_at_the_scenes_whose_blur_shows_most() -> None:
    pytest.importorskip("matplotlib")
    sharp = torch.rand(5, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    blurred = sharp.clone()
    for index in (1, 3, 4):
        blurred[index] = 0.5
    figure = plot_restorations({"blurred": blurred, "sharp": sharp}, sharp, lambda image, _: f"{image.mean():.4f}", "c")
    assert [axis.get_title() for axis in figure.axes[:2]] == ["blurred", "sharp"]
    legends = [axis.get_xlabel() for axis in figure.axes]
    assert legends == [f"{image.mean():.4f}" for index in (1, 3, 4) for image in (blurred[index], sharp[index])]
    for index, axis in zip((1, 1, 3, 3, 4, 4), figure.axes, strict=True):
        (frame,), (inset,) = axis.patches, axis.child_axes
        left, top = (round(side + 0.5) for side in frame.get_xy())
        shown = torch.as_tensor(inset.images[0].get_array())
        source = blurred if axis.get_title() == "blurred" or figure.axes.index(axis) % 2 == 0 else sharp
        assert torch.equal(shown, source[index, :, top : top + 44, left : left + 44].permute(1, 2, 0))


@pytest.mark.parametrize("turn", [False, True])
def test_the_frame_is_around_the_busiest_patch(turn: bool) -> None:
    pytest.importorskip("matplotlib")
    sharp = torch.full((1, 3, 120, 120), 0.5)
    # Stripes in one direction alone, far from the corner that the enlarged patch covers.
    sharp[..., 8:52, 60:104:2] = 1.0
    sharp = sharp.mT if turn else sharp
    (frame,) = plot_restorations({"sharp": sharp}, sharp, lambda *_: "", "c").axes[0].patches
    left, top = (round(side + 0.5) for side in frame.get_xy())
    assert (left, top) == ((8, 60) if turn else (60, 8))


def test_both_curves_of_the_response_are_1_at_10_px(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    drawn: dict[str, Tensor] = {}

    def keep(extents: Sequence[float], curves: dict[str, Tensor], caption: str) -> Any:
        drawn.update(curves)
        return plot_response(extents, curves, caption)

    monkeypatch.setattr("tafm_loss.demo.plot_response", keep)
    scenes = generate_scenes(7, 64, generator=torch.Generator().manual_seed(0))
    _draw_response(Pairs(scenes, scenes), "scenes", 0, tmp_path / "response.png")
    assert list(drawn) == ["TAFM (tafm-lite)", "mean squared error"] and (tmp_path / "response.png").exists()
    for values in drawn.values():
        assert values.shape == (len(RESPONSE_EXTENTS), 6)
        assert float(values[RESPONSE_EXTENTS.index(10.0)].mean()) == pytest.approx(1.0)
        assert float(values[0].mean()) < 0.1


def test_the_response_is_drawn_as_it_was_measured() -> None:
    pytest.importorskip("matplotlib")
    values = torch.tensor([[1.0, 3.0], [2.0, 6.0]])
    (axis,) = plot_response((1.0, 10.0), {"a": values, "b": 2 * values}, "c").axes
    assert [line.get_ydata().tolist() for line in axis.lines] == [[2.0, 4.0], [4.0, 8.0]]
    # From the least to the most of the scenes.
    corners = [band.get_paths()[0].vertices.min(0).tolist() for band in axis.collections]
    assert corners == [[1.0, 1.0], [1.0, 2.0]]
    assert [band.get_paths()[0].vertices.max(0).tolist() for band in axis.collections] == [[10.0, 6.0], [10.0, 12.0]]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]


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
    out = tmp_path / "new" / "out"
    metrics = {"L1 (lower)": (lambda x, y: (x - y).abs().mean((1, 2, 3)), 3)}
    first, second = (
        run_demo(images=images, out=out, steps=3, seed=1, progress=False, metrics=metrics) for _ in range(2)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert capsys.readouterr() == ("", "")
    assert first.rows == second.rows and first.notes == second.notes
    for row in first.rows:
        assert [len(cell.partition(".")[2]) for cell in row[1:]] == [2, 4, 2, 3]
    assert first.head[-1] == "L1 (lower)"
    assert [row[0] for row in first.rows] == ["blurred", "L1", "L1 + mask", "L1 + TAFM"]
    assert sorted(path.name for path in out.iterdir()) == ["demo.png", "response.png"]
    for file in first.files:
        with Image.open(file) as picture:
            assert min(picture.size) > 300
        assert str(file) in str(first)
