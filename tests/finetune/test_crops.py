"""Crops of scenes: aligned, repeatable, shared among processes, and split by scene."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from tafm_loss.finetune import crops as scene_crops
from tafm_loss.finetune.crops import SceneCrops, default_synthesizer, scene_generators
from tafm_loss.finetune.sources import Graded, Source

SIZE = 16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write_image(path: Path, value: int, height: int = 24, width: int = 32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (value, value, value)).save(path)


def write_truncated(path: Path, seed: int = 0) -> None:
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:900])


def flat_scenes(count: int, size: int = 24) -> Tensor:
    """Scenes that can be told by their lightness in any crop, once the jitter of colour is off."""
    return torch.linspace(0.1, 0.9, count).view(-1, 1, 1, 1).expand(-1, 3, size, size)


def drawn_scenes(levels: Tensor) -> list[float]:
    return [round(float(value), 3) for value in levels[0].mean(dim=(1, 2, 3))]


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_crops, "COLOUR_JITTER", 0.0)


@pytest.fixture
def noise() -> Tensor:
    return torch.rand(5, 3, 24, 40, generator=seeded())


# ---- a draw ----


def test_a_draw_has_the_shape_and_range_it_is_said_to_have(noise: Tensor) -> None:
    state = torch.random.get_rng_state()
    levels, extents = SceneCrops(noise, SIZE).draw(4, seeded())
    assert levels.shape == (1, 4, 3, SIZE, SIZE) and levels.dtype == torch.float32 and levels.is_contiguous()
    assert 0 <= levels.min() < 0.1 and 0.9 < levels.max() <= 1
    assert torch.equal(extents, torch.zeros(1, 4))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_same_generator_gives_the_same_draw_and_another_does_not(noise: Tensor) -> None:
    crops = SceneCrops(noise, SIZE)
    assert torch.equal(crops.draw(4, seeded(3)).levels, crops.draw(4, seeded(3)).levels)
    assert not torch.equal(crops.draw(4, seeded(3)).levels, crops.draw(4, seeded(4)).levels)


@pytest.mark.parametrize("count", [1, 4, 7])
def test_the_parts_of_several_processes_put_together_are_the_whole(noise: Tensor, count: int) -> None:
    generators = [seeded(7) for _ in range(1 + count)]
    whole = SceneCrops(noise, SIZE).draw(count, generators[0])
    parts = [SceneCrops(noise, SIZE).draw(count, generators[1 + k], part=slice(k, k + 1)) for k in range(count)]
    assert torch.equal(torch.cat([part.levels for part in parts], dim=1), whole.levels)
    assert torch.equal(torch.cat([part.extents for part in parts], dim=1), whole.extents)
    assert len({float(torch.rand(1, generator=generator)) for generator in generators}) == 1


def test_scenes_are_different_as_long_as_there_are_as_many(no_jitter: None) -> None:
    crops = SceneCrops(flat_scenes(5), SIZE)
    for seed in range(5):
        assert len(set(drawn_scenes(crops.draw(5, seeded(seed)).levels))) == 5
        drawn = drawn_scenes(crops.draw(12, seeded(seed)).levels)
        assert {drawn.count(scene) for scene in drawn} == {2, 3}


def test_images_of_one_scene_come_together_only_when_scenes_run_out(tmp_path: Path, no_jitter: None) -> None:
    for scene in range(4):
        for frame in range(1 + scene):
            write_image(tmp_path / f"video{scene}" / f"{frame}.png", 60 * scene + 10 * frame)
    crops = SceneCrops(tmp_path, SIZE)
    for seed in range(5):
        values = [round(255 * value) for value in drawn_scenes(crops.draw(10, seeded(seed)).levels)]
        assert sorted(value // 60 for value in values[:4]) == [0, 1, 2, 3]
        assert len(set(values)) == 10


def test_crops_are_windows_of_the_scene_in_every_place_and_orientation(no_jitter: None) -> None:
    height, width = SIZE + 1, SIZE + 2
    ramp = (torch.arange(height)[:, None] * width + torch.arange(width)) / (height * width)
    crops = SceneCrops(ramp.expand(2, 3, -1, -1), SIZE)
    windows = [ramp[top : top + SIZE, left : left + SIZE] for top in range(2) for left in range(3)]
    views = [view.rot90(turns) for window in windows for view in (window, window.flip(-1)) for turns in range(4)]
    drawn = crops.draw(600, seeded()).levels[0, :, 0]
    distance = (drawn[:, None] - torch.stack(views)).abs().amax(dim=(-1, -2))
    assert distance.amin(dim=1).max() < 1e-5
    assert set(distance.argmin(dim=1).tolist()) == set(range(6 * 8))


def test_brightness_contrast_and_saturation_each_change_by_up_to_a_fifth_and_no_more() -> None:
    # Vertical halves of two colours. Brightness scales the mean lightness, contrast the difference of lightness of the
    # halves over it, saturation the distance of a colour from grey over its lightness: each is seen by itself.
    halves = torch.tensor([[0.5, 0.4, 0.3], [0.6, 0.5, 0.4]]).mT.repeat_interleave(SIZE // 2, dim=1)
    scene = halves[:, None].expand(-1, SIZE, -1)
    drawn = SceneCrops(torch.stack([scene, scene]), SIZE).draw(400, seeded()).levels[0]
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)

    def facts(images: Tensor) -> Tensor:
        light = (images * luma).sum(-3)
        chroma = images[..., 0, :, :] - images[..., 2, :, :]
        spread = light.amax((-1, -2)) - light.amin((-1, -2))
        return torch.stack([light.mean((-1, -2)), spread / light.mean((-1, -2)), chroma.mean((-1, -2))])

    brightness, contrast, chroma = facts(drawn) / facts(scene[None])
    # All colours here are as far from grey, and brightness and contrast act on that as well.
    saturation = chroma / (brightness * contrast)
    for change in (brightness, contrast, saturation):
        assert 0.8 - 1e-4 <= change.min() < 0.82 and 1.18 < change.max() <= 1.2 + 1e-4
        assert change.mean().item() == pytest.approx(1.0, abs=0.02)
    drawn_together = torch.corrcoef(torch.stack([brightness, contrast, saturation]))
    assert (drawn_together - torch.eye(3)).abs().max() < 0.2


# ---- real exposures ----


def test_all_levels_of_a_scene_are_cropped_and_turned_alike() -> None:
    scene = (0.2 + 0.4 * torch.rand(1, SIZE + 8, SIZE + 12, generator=seeded())).expand(3, -1, -1)
    crops = SceneCrops(torch.stack([scene] * 9), SIZE)
    crops.source = Source(lambda _: Graded(torch.stack([scene, scene / 2]), torch.tensor([0.0, 1.0])), range(9), "nine")
    levels, extents = crops.draw(9, seeded(1))
    assert levels.shape == (2, 9, 3, SIZE, SIZE) and torch.equal(extents, torch.tensor([[0.0], [1.0]]).expand(-1, 9))
    # Grey keeps its colour: what brightness and contrast make of an image is a line, if its pixels are in their places.
    for sharp, half in levels.transpose(0, 1).flatten(2):
        assert torch.corrcoef(torch.stack([sharp.flatten(), half.flatten()]))[0, 1] > 0.9999


def test_contrast_is_changed_about_the_same_lightness_on_all_levels() -> None:
    scene = (0.3 + 0.2 * torch.rand(1, SIZE, SIZE, generator=seeded())).expand(3, -1, -1)
    crops = SceneCrops(torch.stack([scene, scene]), SIZE)
    graded = Graded(torch.stack([scene, scene + 0.1, scene + 0.2]), torch.tensor([0.0, 1.0, 2.0]))
    crops.source = Source(lambda _: graded, [0, 1], "two")
    levels, extents = crops.draw(2, seeded(2))
    assert torch.equal(extents, graded.extents[:, None].expand(-1, 2))
    # What is added on a level is stretched as much as the scene itself.
    stretch = levels[0].std(dim=(1, 2, 3)) / scene.std()
    assert not torch.allclose(stretch, torch.ones(2), atol=0.01)
    for level in (1, 2):
        added = (levels[level] - levels[0]).flatten(1)
        torch.testing.assert_close(added, (0.1 * level * stretch)[:, None].expand_as(added), atol=1e-4, rtol=1e-4)


# ---- what cannot be used ----


def test_a_corrupt_image_is_replaced_alike_in_every_process_and_whatever_came_before(
    tmp_path: Path, no_jitter: None
) -> None:
    for number in range(9):
        write_image(tmp_path / f"{number}.png", 25 * number)
    write_truncated(tmp_path / "5.jpg")
    with pytest.warns(UserWarning, match=r"5\.jpg cannot be read as an image.*truncated") as caught:
        crops = SceneCrops(tmp_path, SIZE)
        whole = [crops.draw(5, seeded(seed)).levels for seed in range(8)]
    assert len(crops) == 10 and len(caught) == 1
    with pytest.warns(UserWarning):
        fresh = SceneCrops(tmp_path, SIZE)
        parts = [[fresh.draw(5, seeded(s), part=slice(k, k + 1)).levels for k in range(5)] for s in reversed(range(8))]
    for levels, pieces in zip(whole, reversed(parts), strict=True):
        assert torch.equal(levels, torch.cat(pieces, dim=1))
        assert len(set(drawn_scenes(levels))) == 5


def test_if_every_image_turns_out_to_be_corrupt_the_first_reasons_are_told(tmp_path: Path) -> None:
    for number in range(5):
        write_truncated(tmp_path / f"{number}.jpg")
    crops = SceneCrops(tmp_path, SIZE)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"all are skipped \(5\): .*\.jpg cannot .*2 more"):
        crops.draw(2, seeded())
    with pytest.raises(ValueError, match="all are skipped"):
        crops.centres(3)


def test_too_little_to_draw_from_is_refused(noise: Tensor) -> None:
    with pytest.raises(ValueError, match="at least one, got none"):
        SceneCrops([], SIZE)
    with pytest.raises(ValueError, match="crop_size must be at least 1"):
        SceneCrops(noise, 0)
    for count, part in ((0, slice(None)), (4, slice(4, 8))):
        with pytest.raises(ValueError, match="at least one crop"):
            SceneCrops(noise, SIZE).draw(count, seeded(), part)


# ---- split ----


def test_a_split_shares_no_scene_and_loses_none(tmp_path: Path, no_jitter: None) -> None:
    for scene in range(10):
        for frame in range(1 + scene % 3):
            write_image(tmp_path / f"video{scene}" / f"{frame}.png", 25 * scene)
    crops = SceneCrops(tmp_path, SIZE)
    kept, held_out = crops.split(0.3, seeded())
    assert len(kept) + len(held_out) == len(crops) == 19
    first, second = (
        {round(255 * scene) for scene in drawn_scenes(part.draw(40, seeded()).levels)} for part in (kept, held_out)
    )
    assert len(first) == 7 and len(second) == 3 and not first & second
    assert held_out.description == f"19 images of {tmp_path.name} ({len(held_out)} of 19 items)"
    again = crops.split(0.3, seeded())[1]
    other = [crops.split(0.3, seeded(seed))[1].centres(19) for seed in range(1, 5)]
    assert torch.equal(again.centres(19), held_out.centres(19))
    assert not all(centres.equal(held_out.centres(19)) for centres in other)


def test_a_part_can_be_split_again(no_jitter: None) -> None:
    rest, first = SceneCrops(flat_scenes(9), SIZE).split(0.3, seeded())
    rest, second = rest.split(0.5, seeded())
    scenes = [set(drawn_scenes(part.draw(9, seeded()).levels)) for part in (rest, first, second)]
    assert [len(part) for part in scenes] == [3, 3, 3] and len(set().union(*scenes)) == 9


def test_each_part_of_a_split_has_a_scene(noise: Tensor, tmp_path: Path) -> None:
    for share, sizes in ((0.01, (4, 1)), (0.99, (1, 4)), (0.5, (3, 2))):
        parts = SceneCrops(noise, SIZE).split(share, seeded())
        assert tuple(len(part) for part in parts) == sizes
    for share in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="share must lie between 0 and 1"):
            SceneCrops(noise, SIZE).split(share, seeded())
    with pytest.raises(ValueError, match="at least 2 scenes, got 1"):
        SceneCrops(noise, SIZE).split(0.9, seeded())[0].split(0.5, seeded())


# ---- centres ----


def test_centres_are_those_of_scenes_spread_evenly_in_their_own_colours(tmp_path: Path) -> None:
    crops = SceneCrops(flat_scenes(9), SIZE)
    centres = crops.centres(3, size=20)
    torch.testing.assert_close(centres, flat_scenes(9)[::3, :, :20, :20])
    ramp = torch.arange(24.0).div(24).expand(2, 3, 18, -1)
    torch.testing.assert_close(SceneCrops(ramp, SIZE).centres(2), ramp[..., 3:21])


def test_centres_are_as_large_as_the_smallest_scene_allows(noise: Tensor) -> None:
    crops = SceneCrops([noise[0], noise[1, :, :20], noise[2, :, :, :18]], SIZE)
    assert crops.centres(10).shape == (3, 3, 18, 18)
    assert crops.centres(10, size=17).shape == (3, 3, 17, 17)


def test_centres_leave_out_what_cannot_be_used(tmp_path: Path) -> None:
    for number in range(4):
        write_image(tmp_path / f"{number}.png", 50 * number)
    write_truncated(tmp_path / "0.jpg")
    with pytest.warns(UserWarning, match=r"0\.jpg"):
        centres = SceneCrops(tmp_path, SIZE).centres(5)
    assert [round(255 * float(image.mean())) for image in centres] == [0, 50, 100, 150]


# ---- grading ----


def test_no_two_scenes_of_neighbouring_seeds_share_their_random_numbers() -> None:
    seeds = {g.initial_seed() for seed in range(3) for g in scene_generators(seed, range(500), torch.device("cpu"))}
    assert len(seeds) == 1500
    (late,) = scene_generators(2, range(7, 8), torch.device("cpu"))
    assert late.initial_seed() == scene_generators(2, range(9), torch.device("cpu"))[7].initial_seed()


def test_the_usual_blur_is_of_four_kinds_and_levels() -> None:
    usual = default_synthesizer()
    assert usual.extents == (0.0, 1.0, 3.0, 10.0, 25.0) and usual.extent_jitter == 0.4
    assert usual.kinds == pytest.approx({"shake": 0.4, "linear": 0.3, "defocus": 0.2, "gaussian": 0.1})
