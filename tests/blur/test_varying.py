"""Blur by a rolling camera: accuracy, flat fields, extents and the grid."""

import math

import pytest
import torch
import torch.nn.functional as F

from tafm_loss.blur import BlurSynthesizer, blur_extent
from tafm_loss.blur.camera import Nodes, camera_paths, displacements, swings
from tafm_loss.blur.convolution import convolution, convolution_between_nodes
from tafm_loss.blur.kernels import EXTENT_PER_RADIUS, _motion
from tafm_loss.scenes import generate_scenes
from tests.seeds import seeded


def image_shares(nodes: Nodes, image_size: tuple[int, int]) -> torch.Tensor:
    """Return how much of the image each node blends, counted px by px along both axes."""
    columns = sorted({float(x) for x in nodes.positions[:, 0]})
    rows = sorted({float(y) for y in nodes.positions[:, 1]})
    weights = []
    for length, places in ((image_size[0], rows), (image_size[1], columns)):
        cell = places[1] - places[0]
        pixel = torch.arange(length) + 0.5 - length / 2
        weights.append(torch.stack([(1 - (pixel - place).abs() / cell).clamp(min=0).mean() for place in places]))
    return torch.outer(*weights).flatten()


def averaged_warps(image: torch.Tensor, points: torch.Tensor, weights: torch.Tensor, margin: int) -> torch.Tensor:
    """Return the mean of an image (1, C, H, W) moved by points (H * W, T, 2) px: out(p) = sum of w image(p - d(p))."""
    height, width = image.shape[-2:]
    padded = F.pad(image, (margin,) * 4, mode="reflect")
    scale = torch.tensor([2 / (width + 2 * margin), 2 / (height + 2 * margin)])
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([x, y], dim=-1).flatten(0, 1) + 0.5 + margin
    moved = torch.zeros_like(image)
    for step, weight in enumerate(weights):
        if weight > 0:
            position = (place - points[:, step]) * scale - 1
            grid = position.view(1, height, width, 2)
            moved += weight * F.grid_sample(padded, grid, mode="bilinear", align_corners=False)
    return moved


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_within_50_db_of_129_averaged_warps(seed: int) -> None:
    size, grid, extent = (384, 384), 4, 12.0
    image = generate_scenes(1, 384, generator=seeded(seed))
    generator = seeded(seed)
    paths, turned = (
        camera_paths(
            torch.rand(1, 3, generator=generator), torch.rand(1, 129, 3, generator=generator), jitter=2.0, impulse=0.01
        )
        for _ in range(2)
    )
    angles = swings(turned, torch.tensor([math.radians(1.2)]))
    radii = torch.full((1, 1), extent / EXTENT_PER_RADIUS)
    nodes = Nodes.over(size, grid, image.device)
    kernels = _motion(paths, angles, radii, 5, nodes)
    margin = kernels.shape[-1] // 2
    padded = F.pad(image, (margin,) * 4, mode="reflect")
    blurred = convolution_between_nodes(kernels.unflatten(2, (grid, grid)), padded.shape[2:])(padded)[0]

    # Every px is a node of its own, beside the nodes that set the scale.
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    pixels = torch.stack([x - size[1] / 2, y - size[0] / 2], dim=-1).flatten(0, 1)
    everywhere = Nodes(torch.cat([nodes.positions, pixels]), torch.cat([nodes.shares, torch.zeros(len(pixels))]), 0)
    points, weights = displacements(paths, angles, radii, everywhere)
    # The splats at the nodes were scaled to the radius; the mean of their own extents says by how much.
    nodes_only = displacements(paths, angles, radii, nodes)
    cloud = (nodes_only[1][0, 0] * nodes_only[0][0, 0].square().sum(-1)).sum(-1) @ nodes.shares
    scale = ((radii[0, 0] ** 2 - 1 / 3) / cloud).sqrt()
    expected = averaged_warps(image, scale * points[0, 0, len(nodes.positions) :], weights[0, 0], margin)

    inside = (..., slice(8, -8), slice(8, -8))
    error = (blurred - expected)[inside].square().mean()
    uniform = convolution(kernels[:, :, 5], padded.shape[2:])(padded)[0]
    assert -10 * error.log10() >= 50
    assert (uniform - expected)[inside].square().mean() > 10 * error


def test_the_mean_squared_extent_over_the_image_is_the_one_asked_for() -> None:
    blur, size = BlurSynthesizer((3.0, 8.0, 20.0), roll_deg=3.0), (180, 240)
    drawn = blur.sample(40, image_size=size, generator=seeded())
    assert drawn.kernels.shape[:4] == (3, 40, 4, 4)
    nodes = Nodes.over(size, 4, torch.device("cpu"))
    torch.testing.assert_close(nodes.shares, image_shares(nodes, size))
    measured = (blur_extent(drawn.kernels).square().flatten(2) @ nodes.shares).sqrt()
    torch.testing.assert_close(measured, drawn.extents, rtol=0.02, atol=0.02)
    # Corners move farther than the middle in the mean, and no kernel is shifted.
    local = blur_extent(drawn.kernels)[2].mean(0)
    assert local[0, 0] > local[1, 1] and local[3, 3] > local[2, 2]
    position = torch.arange(drawn.kernels.shape[-1]) - drawn.kernels.shape[-1] // 2.0
    for axis in (-1, -2):
        assert (drawn.kernels.sum(axis) * position).sum(-1).abs().max() < 1e-4


def test_a_point_of_light_far_from_the_middle_becomes_the_kernel_of_its_node() -> None:
    size, grid = (120, 120), 4
    blur = BlurSynthesizer((10.0,), roll_deg=5.0, grid=grid, transfer=None)
    drawn = blur.sample(1, image_size=size, generator=seeded(3))
    half = drawn.kernels.shape[-1] // 2
    image = torch.zeros(1, 1, *size)
    # Nodes lie between px: light on the four px about one is blurred by almost the same mixture of kernels.
    image[..., 39:41, 79:81] = 0.25
    found = blur(image, kernels=drawn)[0, 0, 0, 40 - half : 41 + half, 80 - half : 81 + half]
    errors = {
        (row, column): float((found[:-1, :-1] - _quartered(drawn.kernels[0, 0, row, column])).square().sum())
        for row in range(grid)
        for column in range(grid)
    }
    assert min(errors, key=lambda node: errors[node]) == (1, 2)


def _quartered(kernel: torch.Tensor) -> torch.Tensor:
    """Return a kernel (K, K) as light on 2 x 2 px leaves it, (K - 1, K - 1)."""
    return F.avg_pool2d(kernel[None], 2, stride=1)[0]


def test_a_roll_of_nothing_is_uniform_blur() -> None:
    images = generate_scenes(1, 80, generator=seeded(1))
    drawn = BlurSynthesizer((9.0,)).sample(1, generator=seeded(5))
    everywhere = drawn._replace(kernels=drawn.kernels[:, :, None, None].expand(-1, -1, 4, 4, -1, -1))
    varying = BlurSynthesizer((9.0,), roll_deg=1.0)(images, kernels=everywhere)
    torch.testing.assert_close(varying, BlurSynthesizer((9.0,))(images, kernels=drawn), atol=5e-6, rtol=0)


def test_a_seed_draws_the_same_kernels_in_every_version() -> None:
    kind = {"shake": 3.0, "linear": 1.0, "gaussian": 1.0}
    blur = BlurSynthesizer((6.0, 16.0), kind=kind, extent_jitter=0.3, jitter=4.0, impulse=0.03, roll_deg=6.0)
    drawn = blur.sample(5, image_size=(90, 120), generator=seeded(1))
    assert drawn.kinds.tolist() == [1, 0, 0, 0, 0]
    position = torch.arange(drawn.kernels.shape[-1]) - drawn.kernels.shape[-1] // 2.0
    products = torch.stack([position.square().expand(len(position), -1), position * position[:, None]])
    # Second moments along x and between the axes, px^2 / 100, of the kernels in a corner and near the middle.
    corner = "101 99 107 146 25 50 253 82 162 -121", "428 478 1417 -925 383 906 1143 978 976 -626"
    middle = "96 94 72 42 25 50 306 128 183 -114", "641 742 1824 -941 369 870 1440 1314 1028 -714"
    for row, column, levels in ((0, 2, corner), (1, 1, middle)):
        found = torch.einsum("lnyx,myx->lnm", drawn.kernels[:, :, row, column], products).flatten(1)
        expected = torch.tensor([[int(moment) for moment in level.split()] for level in levels]) / 100
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=0.01)


def test_however_far_the_camera_rolls_half_of_the_mean_square_is_left_to_its_path() -> None:
    blur = BlurSynthesizer((12.0,), roll_deg=180.0, grid=5)
    drawn = blur.sample(20, image_size=(100, 100), generator=seeded())
    middle = blur_extent(drawn.kernels[0, :, 2, 2])
    torch.testing.assert_close(middle.median(), torch.tensor(12 * math.sqrt(0.5)), rtol=0.05, atol=0)


def test_kinds_without_motion_do_not_turn() -> None:
    blur = BlurSynthesizer((9.0,), kind={"defocus": 1.0, "shake": 1.0}, roll_deg=4.0)
    drawn = blur.sample(20, image_size=(90, 90), generator=seeded(5))
    same = (drawn.kernels == drawn.kernels[:, :, :1, :1]).all(dim=-1).all(-1).all(-1).all(-1)[0]
    assert torch.equal(same, drawn.kinds == 2)


def test_few_nodes_are_used_for_kernels_that_are_large_beside_the_image() -> None:
    blur = BlurSynthesizer((25.0,), roll_deg=1.0)
    assert [blur.sample(1, image_size=(side, 400)).kernels.shape[2] for side in (100, 200, 300)] == [3, 3, 4]
    assert BlurSynthesizer((25.0,), roll_deg=1.0, grid=6).sample(1, image_size=(100, 100)).kernels.shape[2] == 6


def test_the_image_size_must_be_known() -> None:
    blur = BlurSynthesizer((9.0,), roll_deg=1.0)
    with pytest.raises(ValueError, match=r"needs sample\(..., image_size=\(height, width\)\)"):
        blur.sample(2)
    for size in ((0, 0), (5,)):
        with pytest.raises(ValueError, match=r"image_size must be \(height, width\)"):
            blur.sample(1, image_size=size)  # type: ignore[arg-type]
    assert blur(torch.rand(0, 3, 64, 64)).shape == (1, 0, 3, 64, 64)
