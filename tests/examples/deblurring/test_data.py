"""Pairs of images, crops of them, and data sets by name."""

import os
import pickle
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from examples.deblurring.data.augmentation import AUGMENTATIONS, random_crop
from examples.deblurring.data.files import encode_png, images_below, natural_key
from examples.deblurring.data.opening import key_values, list_datasets, open_pairs, options_of
from examples.deblurring.data.pairs import Pair, PairedImages, PairSample
from examples.deblurring.data.trees import make_tree
from tests.seeds import seeded

SPLITS = {"reds": ("train", "val"), **dict.fromkeys(("flat", "synthetic"), ("train", "anything"))}


def noise(height: int = 12, width: int = 16, seed: int = 0) -> Tensor:
    return torch.randint(256, (3, height, width), generator=seeded(seed), dtype=torch.uint8)


def write(path: Path, image: Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(image))
    return path


def pair_of(folder: Path, blurred: Tensor, sharp: Tensor, name: str = "scene-1") -> Pair:
    files = (write(folder / half / f"{name}.png", image) for half, image in (("input", blurred), ("target", sharp)))
    return Pair(*files, scene="scene", name=name)


# ---- names and pairs ----


def test_an_image_is_read_as_it_was_written(tmp_path: Path) -> None:
    blurred, sharp = noise(seed=1), noise(seed=2)
    sample = PairedImages([pair_of(tmp_path, blurred, sharp)])[0]
    assert torch.equal(sample.blurred, blurred)
    assert torch.equal(sample.sharp, sharp)


def test_pairs_of_two_sizes_or_of_one_name_and_no_pairs_are_errors(tmp_path: Path) -> None:
    pair = pair_of(tmp_path, noise(12, 16), noise(12, 18))
    with pytest.raises(ValueError, match=r"input.scene-1\.png is 16 x 12 px and .*target.scene-1\.png 18 x 12 px"):
        PairedImages([pair])[0]
    pair = pair_of(tmp_path, noise(), noise())
    with pytest.raises(ValueError, match="more than one pair: scene-1"):
        PairedImages([pair, pair])
    with pytest.raises(ValueError, match="there is no pair"):
        PairedImages([])


# ---- crops ----


def test_both_images_of_a_pair_are_cropped_turned_and_saturated_alike() -> None:
    image = noise()
    for augmentation in AUGMENTATIONS:
        for seed in range(20):
            crop = random_crop(PairSample(image, image), 8, seeded(seed), augmentation)
            assert crop.blurred.shape == (3, 8, 8)
            assert torch.equal(crop.blurred, crop.sharp)


def test_a_crop_may_lie_anywhere_in_the_image_and_does_so_evenly() -> None:
    places = torch.arange(4 * 5, dtype=torch.uint8).view(1, 4, 5).expand(3, 4, 5)
    generator = seeded()
    crops = [random_crop(PairSample(places, places), 3, generator).sharp for _ in range(1200)]
    counts = Counter(int(crop[0, 0, 0]) for crop in crops)
    assert set(counts) == {0, 1, 2, 5, 6, 7}
    assert min(counts.values()) > 150


def turns_of(square: Tensor) -> dict[bytes, str]:
    """The eight flips and turns of a square, by their bytes, written out independently."""
    flat, t = square, square.transpose(-1, -2)
    turned = {
        "identity": flat,
        "left-right": flat.flip(-1),
        "top-bottom": flat.flip(-2),
        "half turn": flat.flip(-1, -2),
        "transposed": t,
        "quarter turn": t.flip(-2),
        "other quarter turn": t.flip(-1),
        "anti-transposed": t.flip(-1, -2),
    }
    return {image.contiguous().numpy().tobytes(): name for name, image in turned.items()}


def drawn_turns(augmentation: str, draws: int) -> Counter[str]:
    # Grey, whose saturation changes nothing.
    square = torch.arange(9, dtype=torch.uint8).view(1, 3, 3).expand(3, 3, 3).contiguous()
    names, generator, sample = turns_of(square), seeded(), PairSample(square, square)
    return Counter(names[random_crop(sample, 3, generator, augmentation).sharp.numpy().tobytes()] for _ in range(draws))


def test_each_augmentation_draws_its_flips_and_turns_as_often_as_it_says() -> None:
    assert drawn_turns("none", 50) == {"identity": 50}
    hflip = drawn_turns("hflip", 1000)
    assert set(hflip) == {"identity", "left-right"}
    assert 430 < hflip["identity"] < 570
    uniform = drawn_turns("flips_and_turns", 1600)
    assert len(uniform) == 8
    assert all(140 < count < 260 for count in uniform.values())
    mprnet = drawn_turns("mprnet", 1800)
    assert len(mprnet) == 8
    assert 330 < mprnet.pop("identity") < 470
    assert all(140 < count < 260 for count in mprnet.values())


def test_saturation_is_changed_in_a_third_of_the_samples_and_within_its_bounds() -> None:
    red = torch.tensor([200, 100, 100], dtype=torch.uint8).view(3, 1, 1)
    generator, sample = seeded(), PairSample(red, red)
    crops = torch.stack([random_crop(sample, 1, generator, "mprnet").sharp for _ in range(900)]).float().flatten(1)
    changed = crops[(crops != red.flatten()).any(1)]
    assert 240 < len(changed) < 360
    factors = (changed[:, 0] - changed[:, 1]) / 100
    assert 0.79 <= factors.min() < 0.83
    assert 1.17 < factors.max() <= 1.21
    # The lightness of BT.601 stays.
    assert torch.allclose(changed @ torch.tensor([0.299, 0.587, 0.114]), torch.tensor(129.9), atol=0.6)


# ---- data sets by name ----


@pytest.mark.parametrize("dataset", list_datasets())
def test_every_data_set_is_read_back_from_a_generated_tree(dataset: str, tmp_path: Path) -> None:
    parts = {}
    for split in SPLITS.get(dataset, ("train", "test")):
        options = make_tree(dataset, tmp_path, split, size=(40, 56))
        pairs = open_pairs(dataset, str(tmp_path), split, **options)
        assert len(pairs) == len(pairs.pairs) == 4
        keys = [(natural_key(pair.scene), natural_key(pair.name)) for pair in pairs.pairs]
        assert keys == sorted(keys)
        for sample in map(pairs.__getitem__, range(4)):
            assert sample.blurred.shape == sample.sharp.shape == (3, 40, 56)
            assert sample.blurred.dtype == sample.sharp.dtype == torch.uint8
            assert 0 < (sample.blurred.float() - sample.sharp.float()).abs().mean() < 60
        parts[split] = {pairs[index].sharp.numpy().tobytes() for index in range(4)}
        assert torch.equal(pickle.loads(pickle.dumps(pairs))[3].blurred, pairs[3].blurred)
    first, second = parts.values()
    assert not first & second


def test_an_unknown_data_set_or_option_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no data set 'goprp'; choose from flat, gopro, gopro_all, hide, realblur_j"):
        open_pairs("goprp", tmp_path, "train")
    with pytest.raises(ValueError, match="no data set"):
        make_tree("goprp", tmp_path, "train")
    with pytest.raises(ValueError, match="gopro has no option bulr; it has blur, complete"):
        open_pairs("gopro", tmp_path, "train", bulr="blur_gamma")
    with pytest.raises(ValueError, match="flat has no option complete; it has one_scene"):
        open_pairs("flat", tmp_path, "train", complete=False)
    assert options_of("realblur_r") == ["complete"]


@pytest.mark.parametrize("value", ["False", "no", 0, None])
def test_complete_is_refused_unless_it_is_a_truth_value(tmp_path: Path, value: object) -> None:
    make_tree("gopro", tmp_path, "test")
    with pytest.raises(ValueError, match=rf"complete must be True or False, got {value!r}"):
        open_pairs("gopro", tmp_path, "test", complete=value)
    with pytest.raises(ValueError, match=rf"one_scene must be True or False, got {value!r}"):
        open_pairs("flat", tmp_path, "test", one_scene=value)


def test_the_advice_for_what_is_incomplete_is_understood_on_a_command_line(tmp_path: Path) -> None:
    for dataset in ("gopro", "gopro_all", "realblur_j", "hide", "reds"):
        split = "val" if dataset == "reds" else "test"
        make_tree(dataset, tmp_path / dataset, split)
        with pytest.raises(ValueError, match="complete=False") as caught:
            open_pairs(dataset, tmp_path / dataset, split)
        advice = str(caught.value).partition("--dataset-options ")[2].rstrip(")")
        assert len(open_pairs(dataset, tmp_path / dataset, split, **key_values([advice], "--dataset-options"))) == 4


def test_options_of_a_command_line_are_read_as_values() -> None:
    texts = ["a=False", "b=true", "c=No", "d=yes", "e=None", "f=3", "g=[3, 8.5]", "h=blur_gamma", "i=x=y", "j="]
    assert key_values(texts, "--options") == {
        **{"a": False, "b": True, "c": False, "d": True, "e": None},
        **{"f": 3, "g": [3, 8.5], "h": "blur_gamma", "i": "x=y", "j": ""},
    }
    for wrong in ("a", "=3"):
        with pytest.raises(ValueError, match=f"--options takes KEY=VALUE, got {wrong}"):
            key_values([wrong], "--options")
    with pytest.raises(ValueError, match="--options names a twice"):
        key_values(["a=1", "a=1"], "--options")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="takes named pipes")
def test_a_pipe_or_a_link_to_nothing_that_is_called_as_an_image_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png is called as an image, but it is no file"):
        images_below(tmp_path)
    (tmp_path / "pipe.png").unlink()
    (tmp_path / "link.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match=r"link\.png is called as an image, but it is no file"):
        images_below(tmp_path)
    write(tmp_path / "nothing.png", noise())
    assert set(images_below(tmp_path)) == {"link", "nothing"}
