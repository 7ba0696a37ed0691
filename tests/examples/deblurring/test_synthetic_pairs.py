"""Pairs made of sharp photographs: the same whenever they are asked for, exact at the border, blurred as they say."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from examples.deblurring.data.files import encode_png
from examples.deblurring.data.opening import open_pairs
from examples.deblurring.data.pairs import PairSample
from examples.deblurring.data.synthetic import SyntheticPairs
from examples.deblurring.data.trees import make_tree
from tests.seeds import seeded


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photographs")
    make_tree("synthetic", root, "val", size=(64, 96))
    return root


def photographs(n: int = 4, size: int = 64) -> Tensor:
    return torch.rand(n, 3, size, size, generator=seeded(3))


def same(a: PairSample, b: PairSample) -> bool:
    return torch.equal(a.blurred, b.blurred) and torch.equal(a.sharp, b.sharp)


def test_a_pair_depends_on_the_seed_and_its_index_alone(root: Path) -> None:
    pairs, again = (SyntheticPairs(root / "val", read_noise=0.01) for _ in range(2))
    last = again[3]
    assert all(same(pairs[index], again[index]) for index in range(4))
    assert same(pairs[3], last)
    assert same(pairs[-1], last)
    assert not torch.equal(SyntheticPairs(root / "val", seed=1)[3].blurred, last.blurred)


def test_a_whole_photograph_keeps_its_size_and_is_a_scene_of_its_own(root: Path) -> None:
    pairs = open_pairs("synthetic", root, "val", extents=[3, 8], kind="gaussian")
    assert isinstance(pairs, SyntheticPairs)
    assert pairs[0].blurred.shape == pairs[0].sharp.shape == (3, 64, 96)
    assert torch.equal(pairs[0].sharp, pairs.sharp(0))
    assert pairs.pairs[0].scene == pairs.pairs[0].name == "photograph1_1"
    everything = open_pairs("synthetic", root, "all")
    assert everything.pairs[0].name == "val-photograph1_1"


@pytest.mark.parametrize("high", [3.0, 4.9, 13.0])
def test_a_crop_that_is_larger_by_the_margin_gives_a_pair_of_the_size_wanted(root: Path, high: float) -> None:
    pairs = SyntheticPairs(root / "val", extents=(1.0, high))
    batch = pairs.blur(photographs(size=24 + pairs.margin), seeded())
    assert batch.blurred.shape == batch.sharp.shape == (4, 3, 24, 24)
    with pytest.raises(ValueError, match='border="valid" allow at most'):
        pairs.blur(photographs(size=pairs.margin), seeded())


def test_nothing_beyond_the_crop_is_made_up(root: Path) -> None:
    pairs = SyntheticPairs(root / "val", extents=(4.0, 4.0), transfer=None)
    large = photographs(size=64)
    whole = pairs.blur(large, seeded()).blurred
    part = pairs.blur(large[..., 10:, 10:], seeded()).blurred
    assert torch.allclose(whole[..., 10:, 10:], part, atol=1 / 255)


def test_the_sharp_image_of_a_batch_is_the_middle_of_the_crop_and_the_blurred_one_is_aligned_to_it(root: Path) -> None:
    pairs = SyntheticPairs(root / "val", extents=(2.0, 4.0), kind="gaussian", transfer=None)
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    batch = pairs.blur(ramp, seeded())
    cut = pairs.margin // 2
    assert torch.equal(batch.sharp, ramp[..., cut:-cut, cut:-cut])
    # A centred kernel leaves a ramp as it is.
    assert torch.allclose(batch.blurred, batch.sharp, atol=0.6 / 255)


def test_blurred_images_have_8_bits_and_sharp_ones_are_left_alone(root: Path) -> None:
    pairs = SyntheticPairs(root / "val", shot_noise=1e-3)
    batch = pairs.blur(photographs(), seeded())
    levels = batch.blurred * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)
    assert batch.blurred.min() >= 0
    assert batch.blurred.max() <= 1
    assert not torch.allclose(batch.sharp * 255, (batch.sharp * 255).round(), atol=1e-4)


def test_a_photograph_too_small_for_the_blur_is_named(tmp_path: Path) -> None:
    (tmp_path / "tiny.png").write_bytes(encode_png(torch.zeros(3, 8, 8, dtype=torch.uint8)))
    with pytest.raises(ValueError, match=r"tiny\.png: an extent of 13.0 px needs"):
        SyntheticPairs(tmp_path)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extents": (5.0, 3.0)}, "the least and the largest"),
        ({"extents": (1.0, 2.0, 3.0)}, "the least and the largest"),
        ({"extents": [3, float("inf")]}, "the least and the largest"),
        ({"kind": "twirl"}, "unknown kind of blur"),
        ({"shot_noise": -1.0}, "must be finite and not negative"),
    ],
)
def test_settings_that_make_no_sense_are_errors(root: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticPairs(root / "val", **options)


def test_a_folder_without_photographs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no image in"):
        SyntheticPairs(tmp_path)
    with pytest.raises(NotADirectoryError, match="no folder"):
        open_pairs("synthetic", tmp_path, "train")
