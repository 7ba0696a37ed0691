"""Closed forms, the definitions, and what must hold for any features."""

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from tafm_loss.losses.distances import DISTANCES, charbonnier, cosine, l1, l2, normalized_l2, structure

NAMES = list(DISTANCES)


def random_features(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or (2, 5, 4, 3), generator=torch.Generator().manual_seed(seed))


def definition(name: str, a: Tensor, b: Tensor) -> Tensor:
    """The distances as they are written down, in float64."""
    x, y = a.double(), b.double()
    if name == "l1":
        return (x - y).abs().mean(1, keepdim=True)
    if name == "l2":
        return (x - y).pow(2).mean(1, keepdim=True)
    if name == "charbonnier":
        return ((x - y).pow(2) + 1e-6).sqrt().mean(1, keepdim=True) - 1e-3
    if name == "structure":
        energy = x.pow(2) + y.pow(2)
        floor = 1e-3 * energy.mean(tuple(range(1, x.dim())), keepdim=True) + 1e-8
        shares = window_sum((x - y).pow(2)) / (window_sum(energy) + floor * window_sum(torch.ones_like(x)))
        return shares.mean(1, keepdim=True)
    u, v = (z / (z.pow(2).sum(1, keepdim=True) + 1e-8).sqrt() for z in (x, y))
    return (u - v).pow(2).sum(1, keepdim=True) / (2 if name == "cosine" else 1)


def window_sum(features: Tensor) -> Tensor:
    if features.dim() == 2:
        return features
    return F.pad(features, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).sum((4, 5))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "shape", [(2, 5, 4, 3), (1, 64, 7, 9), (3, 8), (2, 1, 3, 3), (2, 4, 1, 1), (1, 3, 1, 6), (1, 3, 2, 1)]
)
def test_equals_the_definition(name: str, shape: tuple[int, ...]) -> None:
    a, b = random_features(0, *shape), random_features(1, *shape)
    distance = DISTANCES[name](a, b)
    assert distance.shape == (shape[0], 1, *shape[2:])
    torch.testing.assert_close(distance.double(), definition(name, a, b), rtol=2e-5, atol=1e-7)


def test_closed_forms() -> None:
    a, b = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, -3.0]])
    assert l1(a, b).item() == pytest.approx(4.0)
    assert l2(a, b).item() == pytest.approx(25.0)
    assert charbonnier(a, b).item() == pytest.approx((math.hypot(1, 1e-3) + math.hypot(7, 1e-3)) / 2 - 1e-3)
    assert normalized_l2(a, b).item() == pytest.approx(2.0)
    assert normalized_l2(a, -a).item() == pytest.approx(4.0)
    assert cosine(a, b).item() == pytest.approx(1.0)
    assert cosine(a, -a).item() == pytest.approx(2.0)


def test_structure_counts_a_difference_by_how_little_else_there_is_in_the_window() -> None:
    a, b = torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 5, 5)
    a[..., 2, 2] = 3
    inside = 1 / (1 + 9 * (1e-3 / 25 + 1e-8 / 9))
    expected = F.pad(torch.full((1, 1, 3, 3), inside), (1, 1, 1, 1))
    torch.testing.assert_close(structure(a, b), expected, rtol=1e-6, atol=0)
    a[..., 2, 1] = b[..., 2, 1] = 6
    assert structure(a, b)[..., 2, 2].item() == pytest.approx(9 / 81, rel=1e-3)


def test_structure_of_opposites_is_nearly_two_and_never_more() -> None:
    ones = torch.ones(2, 5, 4, 3)
    torch.testing.assert_close(structure(ones, -ones), torch.full((2, 1, 4, 3), 2 / 1.001))
    for seed in range(5):
        a = random_features(seed)
        opposites = structure(a, -a)
        assert ((opposites > 1.9) & (opposites <= 2)).all()
        assert structure(a, random_features(seed + 10)).max() <= 2


@pytest.mark.parametrize("name", NAMES)
def test_small_differences_keep_their_digits(name: str) -> None:
    a = random_features(0, 1, 16, 8, 8)
    b = a + 1e-4 * random_features(1, 1, 16, 8, 8)
    torch.testing.assert_close(DISTANCES[name](a, b).double(), definition(name, a, b), rtol=1e-2, atol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [1e-4, 1.0, 1e3])
def test_gradients_of_both_sides_equal_autograd_through_the_definition(name: str, length: float) -> None:
    a, b = (length * random_features(seed) for seed in (0, 1))
    weight = random_features(2, 2, 1, 4, 3)

    def gradients(distance, dtype: torch.dtype) -> tuple[Tensor, ...]:
        x, y = (features.to(dtype).requires_grad_() for features in (a, b))
        return torch.autograd.grad((distance(x, y) * weight).sum(), (x, y))

    for actual, expected in zip(
        gradients(DISTANCES[name], torch.float32),
        gradients(functools.partial(definition, name), torch.float64),
        strict=True,
    ):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_one_side_alone_can_be_differentiated(name: str) -> None:
    a, b = random_features(0).requires_grad_(), random_features(1)
    (of_first,) = torch.autograd.grad(DISTANCES[name](a, b).sum(), a)
    (of_second,) = torch.autograd.grad(DISTANCES[name](b, a).sum(), a)
    torch.testing.assert_close(of_first, of_second)


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_equal_differences_of_the_first(name: str) -> None:
    a, b, direction = (random_features(seed) for seed in (0, 1, 2))
    a.requires_grad_()

    def gradient(at: Tensor) -> Tensor:
        return torch.autograd.grad(DISTANCES[name](at, b).sum(), at, create_graph=True)[0]

    step = 1e-2
    expected = (gradient(a + step * direction) - gradient(a - step * direction)).detach() / (2 * step)
    product = (gradient(a) * direction).sum()
    # The gradient of l1 is constant, and autograd keeps no graph of it.
    actual = torch.autograd.grad(product, a)[0] if product.requires_grad else torch.zeros_like(a)
    close = (actual - expected).abs() < 0.02 * expected.abs().max() + 1e-6
    # Where a difference changes sign within the step, l1 and charbonnier have no second derivative to speak of.
    smooth = (a - b).abs() > 0.1
    assert close[smooth].all()


HUGE = {torch.float16: 6e4, torch.bfloat16: 1e15, torch.float32: 1e15}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", HUGE)
@pytest.mark.parametrize(
    "kinds",
    [("zero", "zero"), ("zero", "one"), ("one", "one"), ("huge", "huge"), ("huge", "zero"), ("huge", "minus huge")],
)
def test_extreme_features_are_finite_with_finite_gradients(
    name: str, dtype: torch.dtype, kinds: tuple[str, str]
) -> None:
    levels = {"zero": 0.0, "one": 1.0, "huge": HUGE[dtype], "minus huge": -HUGE[dtype]}
    a, b = (torch.full((2, 64, 3, 3), levels[kind], dtype=dtype, requires_grad=True) for kind in kinds)
    distance = DISTANCES[name](a, b)
    # The mean, as every loss takes it: a float16 gradient holds no more than 65504.
    gradients = torch.autograd.grad(distance.mean(), (a, b))
    assert distance.dtype == torch.float32
    assert distance.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)
    if kinds[0] == kinds[1]:
        assert (distance == 0).all()
        assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_computes_in_float32_also_under_autocast(name: str, dtype: torch.dtype) -> None:
    a, b = random_features(0).to(dtype), random_features(1).to(dtype)
    expected = DISTANCES[name](a.float(), b.float())
    with torch.autocast("cpu", torch.bfloat16):
        actual = DISTANCES[name](a, b)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 5, 4, 3), (2, 1, 4, 3), (2, 5, 4, 1), (2, 5)])
def test_shapes_that_would_broadcast_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"same shape, got \(2, 5, 4, 3\)"):
        DISTANCES[name](random_features(0), random_features(1, *shape))


features_strategy = arrays(
    np.float32, (2, 3, 2, 2), elements=st.floats(-100, 100, width=32, allow_subnormal=False)
).map(torch.from_numpy)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(a=features_strategy, b=features_strategy)
def test_is_symmetric_not_negative_and_zero_for_equals_alone(name: str, a: Tensor, b: Tensor) -> None:
    distance = DISTANCES[name]
    there, back = distance(a, b), distance(b, a)
    assert (there >= 0).all()
    torch.testing.assert_close(there, back, rtol=1e-5, atol=1e-7)
    assert (distance(a, a.clone()) == 0).all()
    x, y = (features.double() for features in (a, b))
    if name in ("cosine", "normalized_l2"):
        x, y = (z / (z.square().sum(1, keepdim=True) + 1e-8).sqrt() for z in (x, y))
    assert (there[(x - y).abs().amax(1, keepdim=True) > 1e-3] > 0).all()


# ---- torch.func ----


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (2, 5)])
@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0), (1, 0)])
def test_vmap_over_either_side_is_a_loop(name: str, shape: tuple[int, ...], in_dims: tuple[int | None, ...]) -> None:
    inputs = [random_features(seed, 3, *shape) for seed in (0, 1)]
    alone = [x if axis is not None else x[:1].expand_as(x) for x, axis in zip(inputs, in_dims, strict=True)]
    given = [x[0] if axis is None else x.movedim(0, axis) for x, axis in zip(inputs, in_dims, strict=True)]

    def total(a: Tensor, b: Tensor) -> Tensor:
        return DISTANCES[name](a, b).sum()

    expected = torch.stack([DISTANCES[name](a, b) for a, b in zip(*alone, strict=True)])
    torch.testing.assert_close(torch.func.vmap(DISTANCES[name], in_dims)(*given), expected)
    gradients = torch.func.vmap(torch.func.grad(total, argnums=(0, 1)), in_dims)(*given)
    leaves = [x.clone().requires_grad_() for x in alone]
    each = sum(total(a, b) for a, b in zip(*leaves, strict=True))
    torch.testing.assert_close(gradients, torch.autograd.grad(each, leaves), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (2, 5)])
def test_forward_mode_is_the_slope(name: str, shape: tuple[int, ...]) -> None:
    a, b, change_a, change_b = (random_features(seed, *shape) for seed in range(4))
    _, slope = torch.func.jvp(DISTANCES[name], (a, b), (change_a, change_b))
    leaves = a.clone().requires_grad_(), b.clone().requires_grad_()
    of_a, of_b = torch.autograd.grad(DISTANCES[name](*leaves).sum(), leaves)
    torch.testing.assert_close(slope.sum(), (of_a * change_a + of_b * change_b).sum(), rtol=1e-4, atol=1e-5)
    by_forward = torch.func.jacfwd(torch.func.grad(lambda x: DISTANCES[name](x, b).sum()))(a)
    by_reverse = torch.func.jacrev(torch.func.grad(lambda x: DISTANCES[name](x, b).sum()))(a)
    torch.testing.assert_close(by_forward, by_reverse, rtol=1e-3, atol=1e-4)
