"""The example of all losses: what it combines is what it weighs, and it runs to its table and its picture."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from torch import nn

from examples import losses
from tafm_loss import save_backbone
from tafm_loss.backbones.discriminators import PatchDiscriminators, discriminator_backbone
from tafm_loss.images import read_image
from tafm_loss.scenes import generate_scenes
from tests.seeds import seeded


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example in small, with a stand-in that takes no time to build for what others are timed against."""
    for name, value in {"SCENES": 2, "SIZE": 48, "CROP": 32, "ROUNDS": 1, "WIDTHS": (4, 4), "STEPS": 1}.items():
        monkeypatch.setattr(losses, name, value)
    monkeypatch.setattr(losses, "vgg19_loss", nn.MSELoss)
    return losses


def run(example: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["losses.py", *arguments])
    example.main()


def discriminators(folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_backbone(discriminator_backbone(PatchDiscriminators([4, 4]), "small"), folder)
    return folder


def rows_of(output: str) -> dict[str, list[str]]:
    lines = [line for line in output.splitlines() if "  " in line]
    cells = [[cell.strip() for cell in re.split(r" {2,}", line)] for line in lines[1:]]
    return {name: rest for name, *rest in cells}


def test_the_batch_is_one_shake_at_several_exposures(example: ModuleType) -> None:
    sharp = generate_scenes(2, 48, generator=seeded())
    batch = example.make_batch(sharp, seeded())
    assert batch.negatives.shape == (1, *sharp.shape)
    errors = [(images - sharp).square().mean() for images in (batch.restored, batch.negatives[0], batch.blurry)]
    assert 0 < errors[0] < errors[1] < errors[2]
    kernels = example.BLUR.sample(2, generator=seeded())
    exposures = example.BLUR(sharp, kernels=kernels)
    assert torch.equal(batch.restored, exposures[0]) and torch.equal(batch.blurry, exposures[3])


def test_it_prints_each_loss_and_draws_it(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, drawn = tmp_path / "losses.png", {}
    monkeypatch.setattr(
        example,
        "draw",
        lambda batch, changes, path, own=example.draw: (drawn.update(changes), own(batch, changes, path)),
    )
    state = torch.get_rng_state()
    run(example, monkeypatch, "--out", str(picture), "--discriminators", str(discriminators(tmp_path / "mdf")))
    assert torch.equal(torch.get_rng_state(), state)
    rows = rows_of(capsys.readouterr().out)
    assert list(rows) == ["L1", "TAFM", "MDF", "contrastive", "all together", "latent comparison"]
    assert rows["L1"][1] == "1" and rows["latent comparison"][1] == "trains the encoder"
    pixel = drawn["L1"]
    expected = pixel.clone()
    for name in ("TAFM", "MDF", "contrastive"):
        value, ratio, weight, _ = map(float, rows[name])
        assert value > 0 and ratio * weight == pytest.approx(2.0, rel=0.02)
        expected += weight * drawn[name]
    # The weights are read from the table, to three digits.
    torch.testing.assert_close(drawn["all together"], expected, rtol=0.02, atol=0.006 * float(pixel.abs().max()))
    assert float(rows["all together"][1]) == pytest.approx(float(expected.norm() / pixel.norm()), rel=0.02)
    image = read_image(picture)
    assert image.shape[2] > image.shape[1] and (image.std((1, 2)) > 0.1).all()


def test_without_discriminators_it_trains_small_ones_and_says_so(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(example, monkeypatch, "--out", str(tmp_path / "losses.png"))
    output = capsys.readouterr().out
    assert output.startswith("training 2 small discriminators") and "MDF, small" in rows_of(output)


def test_too_few_or_too_small_photographs_are_refused(example: ModuleType, tmp_path: Path) -> None:
    for size in ((60, 80), (80, 40)):
        with pytest.raises(SystemExit, match="2 or more images of 48 x 48 px"):
            example.scenes(tmp_path, seeded())
        Image.new("RGB", size).save(tmp_path / f"{size[1]}.png")
    with pytest.raises(SystemExit, match="2 or more images of 48 x 48 px"):
        example.scenes(tmp_path, seeded())
