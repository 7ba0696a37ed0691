"""ProgressiveNegatives: its schedule, and negatives that are what they are said to be."""

import copy
import json
import math
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tafm_loss.blur import BlurKernels, BlurSynthesizer
from tafm_loss.blur.light import from_linear, to_linear
from tafm_loss.losses.negatives import ProgressiveNegatives
from tafm_loss.scenes import generate_scenes

LEVELS = (0.0, 3.0, 6.0, 9.0, 12.0)
LINE = ((0.0, 0.0), (1.0, 0.75))


SHARP = generate_scenes(2, 48, generator=torch.Generator().manual_seed(0))
BLURRY = F.avg_pool2d(SHARP, 7, stride=1, padding=3)


def at(progress: float, schedule: object = LINE, **options: object) -> ProgressiveNegatives:
    negatives = ProgressiveNegatives(schedule, **options)
    negatives.step(progress)
    return negatives


# ---- schedule ----


def test_lines_join_the_points_and_are_level_outside() -> None:
    points = ((0.2, 0.1), (0.6, 0.5), (0.7, 0.3))
    progress = (0.0, 0.2, 0.4, 0.6, 0.65, 0.7, 1.0)
    expected = (0.1, 0.1, 0.3, 0.5, 0.4, 0.3, 0.3)
    assert [at(p, points).sharpness for p in progress] == pytest.approx(expected)
    assert at(1.0, ((0.5, 0.4),)).sharpness == 0.4
    # A function of progress is a schedule, too; sharpness stays below one.
    assert at(0.5, lambda progress: progress**2).sharpness == 0.25
    assert at(1.0, ((0.0, 0.0), (1.0, 0.99))).sharpness == 0.95
    assert at(1.0, lambda progress: progress).sharpness == 0.95


def test_progress_is_a_share_of_any_total() -> None:
    negatives = ProgressiveNegatives()
    assert negatives.progress == 0
    for done, total in ((0.3, 1.0), (3, 10), (30_000, 100_000)):
        negatives.step(done, total)
        assert negatives.progress == pytest.approx(0.3)
    negatives.step(torch.tensor(3), torch.tensor(10))
    assert type(negatives.state_dict()["progress"]) is float


def test_state_is_restored_exactly() -> None:
    negatives = at(1 / 3, kind="blend", count=2)
    state = json.loads(json.dumps(negatives.state_dict()))
    restored = ProgressiveNegatives(LINE, kind="blend", count=2)
    restored.load_state_dict(state)
    assert restored.sharpness == negatives.sharpness
    assert torch.equal(restored(BLURRY, SHARP), negatives(BLURRY, SHARP))
    for twin in (copy.deepcopy(negatives), pickle.loads(pickle.dumps(negatives))):
        assert torch.equal(twin(BLURRY, SHARP), negatives(BLURRY, SHARP))


# ---- blend ----


def test_a_blend_is_part_of_the_way_to_sharp() -> None:
    made = at(0.4)(BLURRY, SHARP)
    torch.testing.assert_close(made[0], BLURRY + 0.3 * (SHARP - BLURRY))
    assert torch.equal(at(0.0)(BLURRY, SHARP)[0], BLURRY)


def test_several_lie_evenly_between_the_sharpest_and_the_blurry_image() -> None:
    made = at(0.8, count=4)(BLURRY, SHARP)
    assert made.shape == (4, *SHARP.shape)
    for index, sharpness in enumerate((0.6, 0.4, 0.2, 0.0)):
        torch.testing.assert_close(made[index], at(1.0, ((0.0, sharpness),))(BLURRY, SHARP)[0])
    assert torch.equal(made[-1], BLURRY)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_returned_in_kind(dtype: torch.dtype) -> None:
    made = at(0.4)(BLURRY.to(dtype), SHARP.to(dtype))
    assert made.dtype == dtype
    torch.testing.assert_close(made.float(), at(0.4)(BLURRY, SHARP), rtol=0.01, atol=0.01)


# ---- exposures of kernels ----


def pairs(levels: tuple[float, ...] = LEVELS, **options: object) -> tuple[BlurSynthesizer, BlurKernels, Tensor]:
    blur = BlurSynthesizer(levels, **options)
    drawn = blur.sample(len(SHARP), image_size=(48, 48), generator=torch.Generator().manual_seed(3))
    return blur, drawn, blur(SHARP, kernels=drawn)


@pytest.mark.parametrize(
    "options",
    [{}, {"transfer": None, "border": "replicate"}, {"highlight_gain": 20.0, "extent_jitter": 0.3}, {"roll_deg": 3.0}],
)
def test_an_exposure_is_the_synthesizers_own_level(options: dict[str, object]) -> None:
    blur, drawn, levels = pairs(**options)
    for sharpness, level in ((0.0, 4), (0.25, 3), (0.5, 2), (0.75, 1)):
        negatives = at(0.0, ((0.0, sharpness),), kind="exposure", synthesizer=blur)
        made = negatives(levels[-1], SHARP, kernels=drawn)
        torch.testing.assert_close(made[0], levels[level], rtol=0, atol=2e-6)


def test_without_sharpness_it_is_the_input_itself_with_its_noise() -> None:
    blur, drawn, levels = pairs()
    noisy = (levels[-1] + 0.01 * torch.randn(SHARP.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    made = ProgressiveNegatives(kind="exposure", synthesizer=blur)(noisy, SHARP, kernels=drawn)
    assert torch.equal(made[0], noisy)


def test_each_scene_takes_its_own_nearest_level_and_never_the_sharp_one() -> None:
    blur, drawn, levels = pairs()
    # The second scene was blurred by 6 px, so that its levels lie elsewhere.
    kernels, extents = drawn.kernels.clone(), drawn.extents.clone()
    kernels[:, 1], extents[:, 1] = drawn.kernels[[0, 1, 1, 1, 2], 1], drawn.extents[[0, 1, 1, 1, 2], 1]
    mixed = BlurKernels(kernels, extents, drawn.kinds)
    blurry = torch.stack([levels[4, 0], levels[2, 1]])
    made = at(0.0, ((0.0, 0.95),), kind="exposure", count=2, synthesizer=blur)(blurry, SHARP, kernels=mixed)
    torch.testing.assert_close(made[0], levels[1], rtol=0, atol=2e-6)
    assert torch.equal(made[1], blurry)
    half = at(0.0, ((0.0, 0.5),), kind="exposure", synthesizer=blur)(blurry, SHARP, kernels=mixed)
    torch.testing.assert_close(half[0], torch.stack([levels[2, 0], levels[1, 1]]), rtol=0, atol=2e-6)


@pytest.mark.parametrize("options", [{}, {"roll_deg": 2.0}, {"extent_jitter": 0.2, "kind": "linear"}])
def test_the_same_seed_gives_the_same_shake_at_any_levels(options: dict[str, object]) -> None:
    _, few, _ = pairs((12.0,), **options)
    _, many, _ = pairs(LEVELS, **options)
    torch.testing.assert_close(few.kernels[-1], many.kernels[-1], rtol=0, atol=1e-6)
    torch.testing.assert_close(few.extents[-1], many.extents[-1])


# ---- exposures of frames ----


def moving(count: int, step: int = 1) -> Tensor:
    """Frames (F, N, 3, 48, 32) that pan over the scenes."""
    return torch.stack([SHARP[..., step * place : step * place + 32] for place in range(count)])


@pytest.mark.parametrize(
    ("count", "counts"),
    [(7, (7, 5, 3, 3, 3)), (11, (11, 9, 5, 3, 3)), (8, (8, 6, 4, 2, 2)), (4, (4, 4, 2, 2, 2)), (5, (5, 3, 3, 3, 3))],
)
@pytest.mark.parametrize("transfer", ["srgb", None])
def test_fewer_frames_are_averaged_about_the_same_centre(
    count: int, counts: tuple[int, ...], transfer: str | None
) -> None:
    frames = moving(count)
    sharp, blurry = frames[count // 2], frames.mean(0)
    for sharpness, kept in zip((0.0, 0.25, 0.5, 0.75, 0.94), counts, strict=True):
        negatives = at(0.0, ((0.0, sharpness),), kind="exposure", transfer=transfer)
        first = (count - kept) // 2
        expected = from_linear(to_linear(frames[first : first + kept], transfer).mean(0), transfer)
        torch.testing.assert_close(negatives(blurry, sharp, frames=frames)[0], expected)


def test_frames_of_half_precision_are_averaged_in_full() -> None:
    frames = moving(7)
    negatives = at(0.5, kind="exposure", count=2)
    made = negatives(frames.mean(0).half(), frames[3].half(), frames=frames.half())
    assert made.dtype == torch.float16
    expected = negatives(frames.mean(0), frames[3], frames=frames)
    torch.testing.assert_close(made.float(), expected, rtol=0, atol=1e-3)


# ---- a good citizen ----


def test_no_gradient_flows_into_negatives() -> None:
    blurry, sharp = BLURRY.clone().requires_grad_(), SHARP.clone().requires_grad_()
    blur, drawn, _ = pairs()
    for made in (
        at(0.5)(blurry, sharp),
        at(0.0)(blurry, sharp),
        at(0.5, kind="exposure", synthesizer=blur)(blurry, sharp, kernels=drawn),
        at(0.5, kind="exposure")(blurry, sharp, frames=torch.stack([sharp] * 5)),
    ):
        assert not made.requires_grad


def test_what_is_passed_is_not_changed() -> None:
    blurry, sharp = BLURRY.clone(), SHARP.clone()
    at(0.0)(blurry, sharp).zero_()
    at(0.5)(blurry, sharp).zero_()
    assert torch.equal(blurry, BLURRY)
    assert torch.equal(sharp, SHARP)


def test_repr_says_how_negatives_are_made() -> None:
    text = repr(at(0.25, kind="exposure", count=3))
    for part in ("ProgressiveNegatives", "(1.0, 0.75)", "kind='exposure'", "count=3", "progress=0.25"):
        assert part in text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"schedule": ()}, ValueError, "points of rising progress"),
        ({"schedule": ((0.5, 0.1), (0.5, 0.2))}, ValueError, "points of rising progress"),
        ({"schedule": ((0.0, 0.1), (2.0, 0.2))}, ValueError, "progress from 0 to 1"),
        ({"schedule": ((0.0, 0.0), (1.0, 1.0))}, ValueError, "less than 1"),
        ({"schedule": ((0.0, -0.1),)}, ValueError, "less than 1"),
        ({"schedule": ((0.0, math.nan),)}, ValueError, "less than 1"),
        ({"schedule": 0.5}, TypeError, "or a function, got 0.5"),
        ({"schedule": (0.0, 0.5)}, TypeError, "schedule must be points"),
        ({"kind": "exposures"}, ValueError, "did you mean 'exposure'"),
        ({"count": 0}, ValueError, "count must be .* got 0"),
        ({"count": 1.5}, ValueError, "count must be .* got 1.5"),
        ({"transfer": "rgb"}, ValueError, "transfer must be"),
        ({"synthesizer": "shake"}, TypeError, "a BlurSynthesizer, got str"),
        ({"synthesizer": BlurSynthesizer(border="valid")}, ValueError, "as large as their pairs"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ProgressiveNegatives(**options)


@pytest.mark.parametrize("step", [(-0.1,), (1.1,), (11, 10), (1, 0), (math.nan,), (1, math.inf)])
def test_progress_outside_of_training_is_an_error(step: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="progress must be from 0 to 1"):
        ProgressiveNegatives().step(*step)


@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_a_function_that_gives_no_sharpness_is_an_error(value: float) -> None:
    with pytest.raises(ValueError, match="sharpness of 0 or more"):
        ProgressiveNegatives(lambda progress: value)(BLURRY, SHARP)


BLUR, DRAWN, _ = pairs()
FRAMES = torch.stack([SHARP] * 5)


@pytest.mark.parametrize(
    ("options", "images", "given", "error", "message"),
    [
        ({}, (BLURRY[:1], SHARP), {}, ValueError, "blurry and sharp must have the same shape"),
        ({}, (BLURRY.byte(), SHARP), {}, TypeError, "blurry must be a floating-point"),
        ({}, (BLURRY, SHARP[0]), {}, ValueError, "sharp must have shape"),
        ({}, (BLURRY.half(), SHARP), {}, ValueError, r"same shape, dtype and device.*float16.*float32"),
        ({}, (BLURRY, SHARP), {"frames": FRAMES}, ValueError, "takes no kernels or frames, got one"),
        ({"kind": "exposure"}, (BLURRY, SHARP), {}, ValueError, "takes kernels or frames, got neither"),
        ({"kind": "exposure"}, (BLURRY, SHARP), {"kernels": DRAWN, "frames": FRAMES}, ValueError, "got both"),
        ({"kind": "exposure"}, (BLURRY, SHARP), {"kernels": DRAWN}, ValueError, r"need .*synthesizer="),
        ({"kind": "exposure"}, (BLURRY, SHARP), {"frames": FRAMES[:3]}, ValueError, r"4 or more, got \(3, 2"),
        ({"kind": "exposure"}, (BLURRY, SHARP), {"frames": FRAMES[0]}, ValueError, r"shape \(F, 2, 3, 48, 48\)"),
        ({"kind": "exposure"}, (BLURRY, SHARP), {"frames": FRAMES.byte()}, TypeError, "frames must be a floating"),
        ({"kind": "exposure"}, (BLURRY, SHARP), {"frames": 255 * FRAMES}, ValueError, "divide 8-bit values"),
    ],
)
def test_wrong_images_are_errors(options, images, given, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ProgressiveNegatives(**options)(*images, **given)


@pytest.mark.parametrize(
    ("kernels", "images", "error", "message"),
    [
        (DRAWN.kernels, (BLURRY, SHARP), TypeError, "kernels must come from .* got Tensor"),
        (DRAWN.of_scenes(slice(1)), (BLURRY, SHARP), ValueError, "those of the 2 images"),
        (BlurKernels(DRAWN.kernels[:2], *DRAWN[1:]), (BLURRY, SHARP), ValueError, "those of the 2 images"),
        (pairs((12.0,))[1], (BLURRY, SHARP), ValueError, "a shorter exposure"),
        (pairs((0.0, 12.0))[1], (BLURRY, SHARP), ValueError, r"a shorter exposure.* \[0.0, 12.0\] px"),
        (DRAWN, (BLURRY[..., :8], SHARP[..., :8]), ValueError, r"kernels reach 11 px.*pass whole images"),
        (DRAWN, (BLURRY, 255 * SHARP), ValueError, "sharp must have values in"),
    ],
)
def test_wrong_kernels_are_errors(kernels, images, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ProgressiveNegatives(kind="exposure", synthesizer=BLUR)(*images, kernels=kernels)


@pytest.mark.parametrize("state", [None, 5, ["progress"], {}, {"progress": None}, {1: 2}, {"progress": 0.5, "more": 1}])
def test_a_state_of_something_else_is_refused(state: Any) -> None:
    with pytest.raises(ValueError, match="state must hold progress alone"):
        ProgressiveNegatives().load_state_dict(state)
