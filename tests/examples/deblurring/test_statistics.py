"""Means, intervals and tests over scenes have the values that can be worked out by hand."""

import itertools
from collections.abc import Sequence

import pytest
import torch

from examples.deblurring.evaluation.rows import ImageRows
from examples.deblurring.evaluation.statistics import (
    as_json,
    bootstrap_interval,
    holm,
    paired_difference,
    sign_flip_test,
    summarise,
)
from tests.seeds import seeded


def rows(scenes: Sequence[str], **columns: Sequence[float]) -> ImageRows:
    values = torch.tensor(list(columns.values()), dtype=torch.float64).T
    names = tuple(f"{scene}-{index}" for index, scene in enumerate(scenes))
    return ImageRows(names, tuple(scenes), tuple(columns), values)


def test_a_resample_weighs_a_scene_by_its_images() -> None:
    scenes = "abbbccddddddeeeee"
    values = torch.rand(len(scenes), 1, generator=seeded(1), dtype=torch.float64)
    images = [[index for index, scene in enumerate(scenes) if scene == which] for which in "abcde"]
    drawn = torch.randint(5, (10_000, 5), generator=seeded(5)).tolist()
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    of_images = torch.stack([values[[image for scene in draw for image in images[scene]]].mean() for draw in drawn])
    of_scenes = torch.stack([torch.stack([values[images[scene]].mean() for scene in draw]).mean() for draw in drawn])
    assert (of_images.quantile(ends) - of_scenes.quantile(ends)).abs().min() > 0.01
    interval = bootstrap_interval(values, scenes)
    assert interval is not None
    torch.testing.assert_close(interval[:, 0], of_images.quantile(ends), atol=0.004, rtol=0)


def test_the_interval_follows_from_the_seed_and_leaves_the_global_state_alone() -> None:
    values = torch.rand(30, 1, generator=seeded(), dtype=torch.float64)
    scenes = [str(scene) for scene in range(30)]
    state = torch.random.get_rng_state()
    first, again, other = (bootstrap_interval(values, scenes, resamples=1500, seed=seed) for seed in (1, 1, 2))
    assert first is not None and again is not None and other is not None
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_one_scene_has_no_interval_and_no_p() -> None:
    one = rows("aaa", psnr=[1, 2, 3])
    assert bootstrap_interval(one.values, one.scenes) is None
    assert as_json(summarise(one))["interval"] is None
    difference = paired_difference(one, rows("aaa", psnr=[2, 3, 4]))["psnr"]
    assert difference.mean == 1 and difference.interval is None and difference.p is None


def test_an_infinite_value_has_no_interval_and_spoils_no_other_column() -> None:
    summary = summarise(rows("abc", psnr=[torch.inf, 1, 2], ssim=[0.1, 0.2, 0.3]))
    content = as_json(summary)
    assert content["mean_over_images"] == {"psnr": "inf", "ssim": pytest.approx(0.2)}
    assert content["interval"]["psnr"] == ["nan", "nan"]
    assert content["interval"]["ssim"][0] < 0.2 < content["interval"]["ssim"][1]


def test_the_sign_flip_test_counts_what_a_loop_counts() -> None:
    sums = torch.randn(9, generator=seeded(3), dtype=torch.float64)
    reached = [
        abs(sum(sign * value for sign, value in zip(signs, sums.tolist(), strict=True)))
        >= abs(float(sums.sum())) - 1e-12
        for signs in itertools.product((-1, 1), repeat=9)
    ]
    assert sign_flip_test(sums) == sum(reached) / 2**9
    assert sign_flip_test(torch.zeros(11, dtype=torch.float64)) == 1.0


def test_of_many_scenes_patterns_are_drawn_and_p_is_never_0() -> None:
    assert sign_flip_test(torch.ones(50, dtype=torch.float64)) == 2 / 10_001
    noise = torch.randn(50, generator=seeded(), dtype=torch.float64)
    assert sign_flip_test(noise - noise.mean()) > 0.95


def test_a_difference_is_paired_by_image_whatever_the_order() -> None:
    first = rows("aabb", psnr=[20, 30, 25, 35], ssim=[0.5] * 4)
    names = first.names[::-1]
    second = ImageRows(
        names, first.scenes[::-1], ("psnr", "gmsd"), torch.tensor([[36.0, 0], [27, 0], [30, 0], [21, 0]]).double()
    )
    found = paired_difference(first, second)
    assert set(found) == {"psnr"}
    difference = found["psnr"]
    assert difference.mean == 1.0 and difference.interval == (0.5, 1.5)
    assert (difference.p, difference.exact, difference.scenes) == (0.5, True, 2)
    assert (difference.scenes_above, difference.scenes_below) == (2, 0)


def test_methods_on_other_images_are_not_compared() -> None:
    with pytest.raises(ValueError, match="1 images are in one of the two results alone, the first b-2 of scene b"):
        paired_difference(rows("aab", psnr=[1, 2, 3]), rows("aa", psnr=[1, 2]))
    with pytest.raises(ValueError, match="no metric in common: psnr and ssim"):
        paired_difference(rows("ab", psnr=[1, 2]), rows("ab", ssim=[1, 2]))


def test_holm_adjusts_stepwise_and_never_lowers_a_larger_p() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": None})
    assert found == {"a": pytest.approx(0.03), "b": 0.06, "c": 0.06, "d": 0.02, "e": None}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({"a": 0.02}) == {"a": 0.02} and holm({}) == {}
