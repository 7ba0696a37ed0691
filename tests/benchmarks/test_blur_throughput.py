"""The trajectory references are what they claim to be, and figures are compared as the benchmark says."""

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tafm_loss.blur import blur_extent, kernel_size


@pytest.fixture
def trajectory(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("_trajectory")


@pytest.fixture
def benchmark(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("blur_throughput")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("size", [7, 31])
def test_the_vectorised_reference_equals_the_one_by_one_reference(trajectory: ModuleType, size: int) -> None:
    forces = trajectory.draw_forces(4, generator=generator())
    together = trajectory.kernels_of_all(forces, size)
    alone = np.stack([trajectory.kernel_of_one(forces.of(index), size) for index in range(4)])
    np.testing.assert_allclose(together, alone, atol=1e-12)


@pytest.mark.parametrize("size", [5, 31, 63])
def test_kernels_of_trajectories_are_centred_point_spread_functions_of_differing_extent(
    trajectory: ModuleType, size: int
) -> None:
    kernels = torch.from_numpy(trajectory.kernels_of_all(trajectory.draw_forces(16, generator=generator()), size))
    assert kernels.shape == (16, size, size)
    assert (kernels >= 0).all()
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(16, dtype=torch.float64))
    position = torch.arange(size, dtype=torch.float64) - size // 2
    for axis in (1, 2):
        assert (kernels.sum(axis) @ position).abs().max() < 1e-9
    extents = blur_extent(kernels)
    # Two px are left for the splat; nothing is longer than the straight path.
    assert (extents < math.hypot(size - 3, 2)).all()
    assert extents.unique().numel() == 16


def test_a_particle_left_alone_draws_a_line_a_shake_turns_it_back_and_the_pull_holds_it(trajectory: ModuleType) -> None:
    steps = trajectory.STEPS
    forces = trajectory.Forces(
        np.ones(1, complex), np.zeros(1), np.zeros((steps, 1), complex), np.ones((steps, 1), complex)
    )

    def extent(forces: Any) -> float:
        return blur_extent(torch.from_numpy(trajectory.kernels_of_all(forces, 31))).item()

    np.testing.assert_allclose(trajectory.kernels_of_all(forces, 31)[0][15].sum(), 1.0)
    assert extent(forces) == pytest.approx(28, abs=0.1)
    aside = forces._replace(headings=np.array([np.exp(0.5j)]), perturbations=forces.perturbations.copy())
    aside.perturbations[100] = 0.5j
    assert extent(aside._replace(pulls=np.array([trajectory.LARGEST_PULL]))) < 0.7 * extent(aside)
    forces.shakes[steps // 2] = -1
    assert extent(forces) == pytest.approx(14, abs=0.1)


def test_both_references_blur_the_interior_alike(trajectory: ModuleType) -> None:
    pytest.importorskip("scipy", reason="the one-by-one reference convolves with SciPy, which is not installed")
    images = torch.rand(1, 3, 40, 36, generator=generator())
    (alone,) = trajectory.blur_one_by_one(images.numpy(), 15, generator=generator())
    together = trajectory.blur_at_once(images, 15, generator=generator())
    inside = (..., slice(7, -7), slice(7, -7))
    np.testing.assert_allclose(together[0].numpy()[inside], alone[inside], atol=1e-5)


@pytest.mark.parametrize("size", [15, 31, 63, 95])
def test_the_extent_of_a_kernel_size_is_the_largest(benchmark: ModuleType, size: int) -> None:
    (largest,) = benchmark.synthesizer(size, shares=(1.0,)).extents
    assert kernel_size(largest) == size
    assert kernel_size(1.001 * largest) > size


def test_an_absent_peer_is_skipped(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = benchmark.Arm("absent", lambda case: pytest.fail("it was built"), package="no_such_package")
    monkeypatch.setattr(benchmark, "ARMS", [benchmark.ARMS[0], absent])
    rows = benchmark.measure_throughput([benchmark.Case(16, 1, 5)], benchmark.QUICK)
    assert [row["peer"] for row in rows] == [benchmark.OURS]
    assert len(rows[0]["seconds"]) == 1


def result_of(benchmark: ModuleType) -> dict[str, Any]:
    """A result without trajectories and deepinv, in which albumentations is faster with float32."""
    rates = [
        (benchmark.OURS, benchmark.OURS, 100.0),
        ("kornia RandomMotionBlur", "kornia RandomMotionBlur", 20.0),
        ("albumentations MotionBlur", "albumentations MotionBlur, float32", 25.0),
        ("albumentations MotionBlur", "albumentations MotionBlur, uint8", 10.0),
    ]
    return {
        "absent": ["deepinv", "scipy"],
        "throughput": [
            {"peer": peer, "arm": arm, "images_per_s": rate}
            | {"size": case.size, "batch": case.batch, "kernel": case.kernel}
            for case in (*benchmark.SHOWN, *benchmark.GROWTH)
            for peer, arm, rate in rates
        ],
        "ours": {"three_levels_over_one": 4.6, "k63_over_k15": 1.31, "share_of_sample": {"shake": 0.01}},
        "memory": [
            {"arm": benchmark.OURS, "over_output": 1.5},
            {"arm": benchmark.OURS_THREE_LEVELS.name, "over_output": 1.7},
        ],
        "varying": [{"over_uniform": 5.0}, {"over_uniform": 6.5}],
    }


def test_goals_table_and_picture_compare_the_fastest_arm_of_each_peer_and_the_worst_case(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    result = result_of(benchmark)
    goals = benchmark.compare(result)
    assert [row["value"] for row in goals] == [5.0, 4.0, 4.6, 1.31, 0.01, 1.5, 1.7, 6.5]
    assert [row["met"] for row in goals] == [True, False, True, False, True, True, False, False]
    table = benchmark.as_table(result)
    peers = ["ours", "kornia RandomMotionBlur", "albumentations MotionBlur, float32"]
    assert [row[0] for row in table["rows"]] == peers
    assert table["rows"][2] == [peers[2], "25", "25", "25", "25", "4.0", ""]
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert "deepinv, scipy" in table["caption"]
    pytest.importorskip("matplotlib", reason="matplotlib draws the picture and is not installed")
    benchmark.draw(result, tmp_path / "new" / "picture.png")
    picture = (tmp_path / "new" / "picture.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) < 100_000
