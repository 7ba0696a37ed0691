"""ContrastiveFeatureLoss: AECR-Net's ratio where no guard acts, and what the guards keep from happening."""

import pytest
import torch
from torch import Tensor, nn

from tafm_loss import TaskAdaptiveFeatureLoss
from tafm_loss.backbones.backbone import Backbone
from tafm_loss.blur import BlurSynthesizer
from tafm_loss.losses.contrastive import ContrastiveFeatureLoss, guarded_ratio
from tafm_loss.losses.distances import DISTANCES
from tafm_loss.scenes import generate_scenes
from tests.losses import toys
from tests.losses.toys import image_batch

LAYERS = {"fine": 0.25, "coarse": 1.0}


UNITS = {"l1": {"fine": 0.3, "coarse": 0.2}}


def two_taps() -> Backbone:
    return toys.two_taps(units=UNITS)


def pixels(**options: object) -> ContrastiveFeatureLoss:
    return ContrastiveFeatureLoss(toys.pixels(), **options)


TARGET = image_batch(0)
NEGATIVE = TARGET + 0.5 * (image_batch(1) - 0.5)
OTHER = TARGET + 0.4 * (image_batch(2) - 0.5)
# Nearer to the target than either negative.
PRED = TARGET + 0.1 * (image_batch(3) - 0.5)


def loss_and_gradient(loss_fn: nn.Module, pred: Tensor, target: Tensor, negatives: object) -> tuple[Tensor, Tensor]:
    pred = pred.clone().requires_grad_()
    loss = loss_fn(pred, target, negatives)
    (gradient,) = torch.autograd.grad(loss, pred)
    return loss.detach(), gradient


def plain_ratios(pred: Tensor, target: Tensor, negative: Tensor) -> dict[str, Tensor]:
    """AECR-Net's ratio of mean absolute differences, of each image and tap."""
    network = two_taps()
    with torch.no_grad():
        a, p, n = (network(images) for images in (pred, target, negative))
    return {
        tap: (a[tap] - p[tap]).abs().mean((1, 2, 3)) / ((a[tap] - n[tap]).abs().mean((1, 2, 3)) + 1e-7)
        for tap in LAYERS
    }


# ---- the formula ----


def test_it_is_the_published_ratio_where_no_guard_acts() -> None:
    ratios = plain_ratios(PRED, TARGET, NEGATIVE)
    loss_fn = ContrastiveFeatureLoss(two_taps(), layers=LAYERS, reduction="none", weight=0.1)
    expected = 0.1 * (ratios["fine"] / 4 + ratios["coarse"])
    torch.testing.assert_close(loss_fn(PRED, TARGET, negatives=NEGATIVE), expected)
    assert torch.equal(loss_fn(PRED, loss_fn.features(TARGET), NEGATIVE), loss_fn(PRED, TARGET, NEGATIVE))
    with pytest.warns(UserWarning, match="input_range"):
        ContrastiveFeatureLoss(two_taps())(PRED, TARGET, NEGATIVE * 255)


def test_its_gradient_is_that_of_the_published_ratio() -> None:
    network, pred = two_taps().frozen_copy(), PRED.clone().requires_grad_()
    a, p, n = (network(images) for images in (pred, TARGET, NEGATIVE))
    ratios = [(a[t] - p[t]).abs().mean((1, 2, 3)) / (a[t] - n[t]).abs().mean((1, 2, 3)) for t in LAYERS]
    (expected,) = torch.autograd.grad(torch.stack(ratios).mean(), pred)
    _, gradient = loss_and_gradient(ContrastiveFeatureLoss(two_taps()), PRED, TARGET, NEGATIVE)
    torch.testing.assert_close(gradient, expected)


def test_several_negatives_are_averaged_as_ratios() -> None:
    loss_fn = ContrastiveFeatureLoss(two_taps(), reduction="none")
    alone = [loss_fn(PRED, TARGET, negatives) for negatives in (NEGATIVE, OTHER)]
    for several in ([NEGATIVE, OTHER], torch.stack([NEGATIVE, OTHER]), (NEGATIVE[None], OTHER)):
        torch.testing.assert_close(loss_fn(PRED, TARGET, several), (alone[0] + alone[1]) / 2)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_terms_add_up_to_the_loss(reduction: str) -> None:
    loss_fn = ContrastiveFeatureLoss(two_taps(), layers=LAYERS, reduction=reduction, weight=0.3)
    terms = loss_fn.terms(PRED, TARGET, NEGATIVE)
    assert list(terms) == list(LAYERS)
    assert torch.equal(sum(terms.values()), loss_fn(PRED, TARGET, NEGATIVE))
    each = ContrastiveFeatureLoss(two_taps(), layers=LAYERS, reduction="none", weight=0.3)(PRED, TARGET, NEGATIVE)
    expected = {"mean": each.mean(), "sum": each.sum(), "none": each}[reduction]
    torch.testing.assert_close(loss_fn(PRED, TARGET, NEGATIVE), expected)


def test_the_logged_distances_are_those_of_the_feature_loss() -> None:
    options = {"layers": LAYERS, "distance": "l1", "weight": 0.5}
    plain = TaskAdaptiveFeatureLoss(two_taps(), **options)
    logged = ContrastiveFeatureLoss(two_taps(), **options).distances(PRED.requires_grad_(), TARGET, [NEGATIVE, OTHER])
    PRED.requires_grad_(False)
    torch.testing.assert_close(logged["positive"], plain(PRED, TARGET))
    torch.testing.assert_close(logged["negative"], (plain(PRED, NEGATIVE) + plain(PRED, OTHER)) / 2)
    assert not logged["positive"].requires_grad
    assert not logged["negative"].requires_grad


# ---- where the gradient points ----


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_step_to_the_target_lowers_the_loss_and_one_to_the_negative_raises_it(distance: str) -> None:
    pred = torch.lerp(TARGET, NEGATIVE, 0.3)
    _, gradient = loss_and_gradient(ContrastiveFeatureLoss(two_taps(), distance=distance), pred, TARGET, NEGATIVE)
    assert (gradient * (TARGET - pred)).sum() < 0
    assert (gradient * (NEGATIVE - pred)).sum() > 0


def test_pred_is_driven_from_the_negative_where_that_does_not_bring_it_to_the_target() -> None:
    target = torch.zeros(1, 3, 4, 4)
    pred, negative = target.clone(), target.clone()
    pred[:, 0], negative[:, 1] = 0.2, 0.5
    _, gradient = loss_and_gradient(pixels(), pred, target, negative)
    assert (gradient[:, 0] > 0).all()
    assert (gradient[:, 1] > 0).all()


@pytest.mark.parametrize("distance", ["l1", "l2", "charbonnier"])
def test_on_the_way_through_the_negative_the_loss_always_rises(distance: str) -> None:
    # The plain ratio falls beyond the negative, and would drive pred away from the target.
    target, negative = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.1)
    places = [0.02 * step for step in range(400)]
    losses = torch.stack([pixels(distance=distance)(target + 0.1 * t, target, negative) for t in places])
    assert losses[0] == 0
    assert (losses.diff() > 0).all()
    assert losses.max() < 8


def test_gradient_reaches_pred_alone() -> None:
    leaves = [images.clone().requires_grad_() for images in (PRED, TARGET, NEGATIVE)]
    ContrastiveFeatureLoss(two_taps())(*leaves).backward()
    assert leaves[0].grad is not None
    assert leaves[0].grad.count_nonzero() > 0
    assert leaves[1].grad is None
    assert leaves[2].grad is None


# ---- guards ----

COINCIDENCES = {
    "pred is the target": (TARGET, TARGET, NEGATIVE),
    "pred is the negative": (NEGATIVE, TARGET, NEGATIVE),
    "pred is one of two negatives": (NEGATIVE, TARGET, [OTHER, NEGATIVE]),
    "the negative is the target": (PRED, TARGET, TARGET),
    "all are one": (TARGET, TARGET, TARGET),
    "all are black": (0 * TARGET, 0 * TARGET, 0 * TARGET),
    "the target is black": (PRED, 0 * TARGET, 1e-5 * TARGET),
    "pred has overshot": (2 * TARGET - NEGATIVE, TARGET, NEGATIVE),
    "pred is far away": (1e3 * PRED, TARGET, NEGATIVE),
}


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("case", COINCIDENCES.values(), ids=COINCIDENCES.keys())
@pytest.mark.filterwarnings("ignore:the target has values")
def test_value_and_gradient_are_finite_whatever_coincides(case, distance: str) -> None:
    for make in (two_taps, toys.pixels):
        loss, gradient = loss_and_gradient(ContrastiveFeatureLoss(make(), distance=distance), *case)
        assert 0 <= loss <= 8
        assert gradient.isfinite().all()
        if case[0] is case[1]:
            assert loss == 0
            assert gradient.count_nonzero() == 0


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_negative_that_is_the_target_says_nothing(distance: str) -> None:
    loss_fn = ContrastiveFeatureLoss(two_taps(), distance=distance)
    loss, gradient = loss_and_gradient(loss_fn, PRED, TARGET, TARGET.clone())
    assert loss == 0
    assert gradient.count_nonzero() == 0
    _, alone = loss_and_gradient(loss_fn, PRED, TARGET, NEGATIVE)
    _, beside = loss_and_gradient(loss_fn, PRED, TARGET, [NEGATIVE, TARGET])
    torch.testing.assert_close(beside, alone / 2)


def test_the_loss_drops_out_smoothly_and_its_slope_has_a_bound() -> None:
    # pred is nearer than the negative by the same factor throughout, where the plain ratio would not change at all and
    # its slope would be without bound.
    target = torch.full((1, 3, 4, 4), 0.5)
    losses, slopes = [], []
    for gap in torch.logspace(-7, -1, 25).tolist():
        loss, gradient = loss_and_gradient(pixels(), target + gap / 2, target, target + gap)
        losses.append(float(loss))
        slopes.append(float(gradient.sum()))
    assert losses == pytest.approx(sorted(losses), abs=1e-2)
    assert losses[0] < 1e-3
    assert losses[-1] == pytest.approx(1, rel=1e-3)
    # z at which the guard begins: a thousandth of 0.5. There y is half of z: 1 / y + x / y^2 is 4 / z.
    assert max(slopes) < 1.05 * 4 / 0.0005


def test_at_the_negative_the_pull_is_to_the_target() -> None:
    target = torch.zeros(1, 3, 4, 4)
    loss, gradient = loss_and_gradient(pixels(), target + 0.5, target, target + 0.5)
    assert loss == pytest.approx(4)
    assert (gradient > 0).all()
    assert float(gradient.sum()) == pytest.approx(4 / 0.5)


def test_the_ratio_has_bounds_for_any_distances() -> None:
    x, y, z, size = (10 ** (12 * image_batch(seed, 40).flatten() - 9) for seed in range(4))
    y[:100] = 0
    z[50:150] = 0
    x[200:300] = z[200:300]
    x.requires_grad_()
    y.requires_grad_()
    ratio = guarded_ratio(x, y, z, size)
    assert (ratio >= 0).all()
    assert (ratio <= 8 * (1 + 1e-6)).all()
    for slope in torch.autograd.grad(ratio.sum(), (x, y)):
        assert slope.isfinite().all()
        # 1 / (z / 4) + 2 * 2 z / (z / 4)^2 with z at its least, and no more than rounding adds.
        assert (slope.abs() * (1e-3 * size).clamp(min=1e-6) <= 72).all()


# ---- a good citizen ----


@pytest.mark.parametrize(
    ("negatives", "error", "message"),
    [
        ([], ValueError, "at least one batch"),
        (NEGATIVE[None][:0], ValueError, "at least one batch"),
        (NEGATIVE[0], ValueError, r"negatives must have shape \(N, C, H, W\)"),
        (NEGATIVE[:1], ValueError, r"pred and negatives must have the same shape.*\(2, 3, 12, 16\).*\(1, 3, 12, 16\)"),
        ([NEGATIVE, NEGATIVE[..., 1:]], ValueError, r"same shape.*\(2, 3, 12, 15\)"),
        (NEGATIVE.mul(255).byte(), TypeError, "negatives must be a floating-point tensor"),
        (None, TypeError, "negatives must be a torch.Tensor, got NoneType"),
        (NEGATIVE.numpy(), TypeError, "negatives must be a torch.Tensor, got ndarray"),
        (NEGATIVE.to("meta"), ValueError, "negatives is on meta"),
    ],
)
def test_wrong_negatives_are_errors(negatives: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ContrastiveFeatureLoss(two_taps())(PRED, TARGET, negatives)


def test_a_negative_sharper_than_pred_does_not_make_it_blurrier_as_the_plain_ratio_does() -> None:
    sharp = generate_scenes(1, 64, generator=torch.Generator().manual_seed(1))
    blur = BlurSynthesizer((0.0, 2.5, 6.0))
    _, negative, pred = blur(sharp, generator=torch.Generator().manual_seed(2))
    loss_fn = ContrastiveFeatureLoss()
    pred = pred.requires_grad_()
    parts = loss_fn._measured(pred, sharp, negative).values()
    (plain,) = torch.autograd.grad(sum((at.positive / at.negative[0]).mean() for at in parts), pred)
    (guarded,) = torch.autograd.grad(loss_fn(pred, sharp, negative), pred)
    assert (plain * (sharp - pred)).sum() > 0
    assert (guarded * (sharp - pred)).sum() < 0
