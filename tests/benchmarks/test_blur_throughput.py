"""The trajectory references are what they claim to be, and figures are compared as the benchmark says."""

import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tafm_loss.blur import blur_extent, kernel_size

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.fixture
def trajectory(scripts: None) -> ModuleType:
    return importlib.import_module("_trajectory")


@pytest.fixture
def benchmark(scripts: None) -> ModuleType:
    return importlib.import_module("blur_throughput")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def unforced(trajectory: ModuleType) -> Any:
    """Forces that leave one particle alone, heading along a row."""
    steps = trajectory.STEPS
    return trajectory.Forces(
        np.ones(1, complex), np.zeros(1), np.zeros((steps, 1), complex), np.ones((steps, 1), complex)
    )


def extent(trajectory: ModuleType, forces: Any, size: int) -> float:
    return blur_extent(torch.from_numpy(trajectory.kernels_of_all(forces, size))).item()


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


def test_a_particle_left_alone_draws_a_straight_line(trajectory: ModuleType) -> None:
    kernel = trajectory.kernels_of_all(unforced(trajectory), 31)[0]
    np.testing.assert_allclose(kernel[15].sum(), 1.0)
    assert extent(trajectory, unforced(trajectory), 31) == pytest.approx(28, abs=0.1)


def test_a_shake_turns_the_particle_back(trajectory: ModuleType) -> None:
    forces = unforced(trajectory)
    forces.shakes[trajectory.STEPS // 2] = -1
    assert extent(trajectory, forces, 31) == pytest.approx(14, abs=0.1)


def test_the_pull_keeps_the_particle_near_its_start(trajectory: ModuleType) -> None:
    forces = unforced(trajectory)._replace(headings=np.array([np.exp(0.5j)]))
    forces.perturbations[100] = 0.5j
    pulled = forces._replace(pulls=np.array([trajectory.LARGEST_PULL]))
    assert extent(trajectory, pulled, 31) < 0.7 * extent(trajectory, forces, 31)


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
            {
                "peer": peer,
                "arm": arm,
                "size": case.size,
                "batch": case.batch,
                "kernel": case.kernel,
                "images_per_s": rate,
            }
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


def test_goals_compare_the_fastest_arm_of_each_peer_and_the_worst_case(benchmark: ModuleType) -> None:
    goals = benchmark.compare(result_of(benchmark))
    assert [(row["value"], row["met"]) for row in goals] == [
        (5.0, True),
        (4.0, False),
        (4.6, True),
        (1.31, False),
        (0.01, True),
        (1.5, True),
        (1.7, False),
        (6.5, False),
    ]


def test_the_table_has_a_row_for_each_peer_and_names_the_absent(benchmark: ModuleType) -> None:
    table = benchmark.as_table(result_of(benchmark))
    assert [row[0] for row in table["rows"]] == [
        "ours",
        "kornia RandomMotionBlur",
        "albumentations MotionBlur, float32",
    ]
    assert table["rows"][2] == ["albumentations MotionBlur, float32", "25", "25", "25", "25", "4.0", ""]
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert "deepinv, scipy" in table["caption"]


def test_the_picture_is_drawn_from_the_result(benchmark: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib draws the picture and is not installed")
    path = tmp_path / "new" / "picture.png"
    benchmark.draw(result_of(benchmark), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < 100_000
