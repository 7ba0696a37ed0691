"""Gradient ratios in closed form, and losses over lists that reach every output."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tafm_loss import TaskAdaptiveFeatureLoss, calibrate_weight, gradient_ratio, multi_output
from tafm_loss.losses import RECOMMENDED_RATIO
from tests.losses import toys

image_batch = functools.partial(toys.image_batch, height=32, width=40)
PRED, TARGET = image_batch(0), image_batch(1)
L1, L2 = nn.L1Loss(), nn.MSELoss()


# ---- ratio and weight ----


def test_ratio_in_closed_form() -> None:
    # d = 0.25 everywhere: the gradient of L2 is 2 d / n, that of L1 is 1 / n.
    pred, target = torch.full((1, 3, 8, 8), 0.75), torch.full((1, 3, 8, 8), 0.5)
    assert gradient_ratio(L2, L1, pred, target) == pytest.approx(0.5)
    assert gradient_ratio(L1, L2, pred, target) == pytest.approx(2.0)


@pytest.mark.parametrize("ratio", [0.0, 0.05, 1.0, 30.0])
def test_the_calibrated_weight_gives_the_ratio(ratio: float) -> None:
    weight = calibrate_weight(TaskAdaptiveFeatureLoss(), L1, PRED, TARGET, ratio)
    loss_fn = TaskAdaptiveFeatureLoss(weight=weight)
    assert gradient_ratio(loss_fn, L1, PRED, TARGET) == pytest.approx(ratio, rel=1e-4)


def test_ratio_leaves_the_training_alone() -> None:
    network = nn.Conv2d(3, 3, 1)
    pred = network(PRED)
    target = TARGET.clone().requires_grad_()
    expected = gradient_ratio(L2, L1, pred.detach(), TARGET)
    with torch.no_grad():
        assert gradient_ratio(L2, L1, pred, target) == expected
    assert network.weight.grad is None
    assert target.grad is None
    pred.sum().backward()
    assert network.weight.grad is not None


def test_ratio_of_half_precision_does_not_underflow() -> None:
    pred, target = toys.image_batch(0, 2, 64, 64), toys.image_batch(1, 2, 64, 64)
    expected = gradient_ratio(L2, L1, pred, target)
    assert gradient_ratio(L2, L1, pred.half(), target.half()) == pytest.approx(expected, rel=0.01)


def test_a_loss_that_is_no_scalar_is_refused() -> None:
    def per_image(pred: Tensor, target: Tensor) -> Tensor:
        return (pred - target).square().mean(dim=(1, 2, 3))

    pred, target = torch.ones(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"pixel_loss must give one number, got shape \(2,\)"):
        gradient_ratio(F.mse_loss, per_image, pred, target)


def test_a_zero_gradient_is_an_error_where_it_would_be_divided_by() -> None:
    with pytest.raises(ValueError, match="gradient of pixel_loss must not be zero"):
        gradient_ratio(L1, L2, PRED, PRED)
    assert gradient_ratio(lambda pred, target: 0 * L1(pred, target), L1, PRED, TARGET) == 0
    with pytest.raises(ValueError, match="gradient of loss must not be zero"):
        calibrate_weight(lambda pred, target: 0 * L1(pred, target), L1, PRED, TARGET, 0.1)


def test_a_gradient_that_is_not_finite_is_an_error() -> None:
    def broken(pred: Tensor, target: Tensor) -> Tensor:
        return (pred - pred).sum().sqrt()

    with pytest.raises(ValueError, match="gradient of loss must be finite"):
        gradient_ratio(broken, L1, PRED, TARGET)
    with pytest.raises(ValueError, match="gradient of pixel_loss must be finite"):
        gradient_ratio(L1, broken, PRED, TARGET)


@pytest.mark.parametrize("ratio", [-1.0, float("nan"), float("inf")])
def test_a_wrong_ratio_is_an_error(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio must be finite and not negative"):
        calibrate_weight(L2, L1, PRED, TARGET, ratio)


def test_the_recommended_ratio_is_taken_if_none_is_given() -> None:
    found = calibrate_weight(L2, L1, PRED, TARGET)
    assert found == calibrate_weight(L2, L1, PRED, TARGET, RECOMMENDED_RATIO) and RECOMMENDED_RATIO == 2.0


# ---- several outputs ----


def test_stages_are_added() -> None:
    stages = [image_batch(seed) for seed in (2, 3, 4)]
    expected = sum(L1(stage, TARGET) for stage in stages)
    torch.testing.assert_close(multi_output(L1, stages, TARGET), expected)
    weighted = 0.5 * L1(stages[0], TARGET) + 2 * L1(stages[2], TARGET)
    torch.testing.assert_close(multi_output(L1, tuple(stages), TARGET, weights=[0.5, 0, 2]), weighted)


def test_scales_are_compared_with_the_resized_target() -> None:
    scales = [image_batch(2), toys.image_batch(3, 2, 16, 20), toys.image_batch(4, 2, 8, 10)]
    # At half size without antialiasing the bilinear resize is the mean of 2 x 2 pixels; at a quarter, of the inner
    # 2 x 2 of every 4 x 4.
    half = F.avg_pool2d(TARGET, 2)
    quarter = F.avg_pool2d(TARGET[..., 1:-1, 1:-1], 2, stride=4)
    expected = L1(scales[0], TARGET) + L1(scales[1], half) + L1(scales[2], quarter)
    torch.testing.assert_close(multi_output(L1, scales, TARGET), expected)


@pytest.mark.parametrize("loss", [L1, TaskAdaptiveFeatureLoss(), TaskAdaptiveFeatureLoss(reduction="none")])
def test_gradient_reaches_every_stage_and_scale(loss: nn.Module) -> None:
    # MPRNet's users replaced a failing sum of stages by torch.tensor([...]), which trains on nothing.
    stages = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
    *first, last = [stage(PRED) for stage in stages]
    target = TARGET.clone().requires_grad_()
    multi_output(loss, [*first, F.avg_pool2d(last, 2)], target).sum().backward()
    assert all(stage.weight.grad is not None and stage.weight.grad.any() for stage in stages)
    assert target.grad is None


def test_target_features_are_computed_once_per_size_and_losses_stay_per_image(monkeypatch: pytest.MonkeyPatch) -> None:
    loss_fn = TaskAdaptiveFeatureLoss(reduction="none")
    stages = [image_batch(2), image_batch(3), image_batch(4), toys.image_batch(5, 2, 16, 20)]
    expected = sum(loss_fn(stage, TARGET) for stage in stages[:3])
    expected = expected + loss_fn(stages[3], F.avg_pool2d(TARGET, 2))
    seen = []
    compute = loss_fn.features
    monkeypatch.setattr(loss_fn, "features", lambda images: seen.append(tuple(images.shape)) or compute(images))
    torch.testing.assert_close(multi_output(loss_fn, stages, TARGET), expected)
    assert seen == [(2, 3, 32, 40), (2, 3, 16, 20)]


@pytest.mark.parametrize(
    ("preds", "weights", "error", "message"),
    [
        ([], None, ValueError, "at least one output"),
        (PRED, None, TypeError, r"list or tuple of tensors, got Tensor; wrap one as \[pred\]"),
        ([PRED, None], None, TypeError, r"preds\[1\].*NoneType"),
        ([PRED, PRED], [1.0], ValueError, "each of the 2 outputs, got 1"),
        ([PRED], [], ValueError, "each of the 1 outputs, got 0"),
        ([PRED, PRED], [1.0, -1.0], ValueError, "finite and not negative"),
        ([PRED], [float("nan")], ValueError, "finite and not negative"),
        ([toys.image_batch(0, 2, 33, 40)], None, ValueError, r"preds\[0\] must not be larger than target"),
    ],
)
def test_wrong_outputs_are_errors(preds, weights, error, message: str) -> None:
    with pytest.raises(error, match=message):
        multi_output(L1, preds, TARGET, weights=weights)


# ---- what calibration takes ----


class WithoutFloat64(TorchDispatchMode):
    """Refuse float64, as Apple's GPUs do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        assert not (isinstance(result, Tensor) and result.dtype == torch.float64), f"{func} gives float64"
        return result


def test_small_gradients_need_no_float64() -> None:
    pred, target = PRED.clone(), PRED + 1e-3

    def faint(pred: Tensor, target: Tensor) -> Tensor:
        return 1e-30 * L1(pred, target)

    with WithoutFloat64():
        assert gradient_ratio(faint, L1, pred, target) == pytest.approx(1e-30, rel=1e-4)
        assert calibrate_weight(TaskAdaptiveFeatureLoss(), L1, pred, target) > 0


def test_images_restored_in_inference_mode_are_taken() -> None:
    expected = gradient_ratio(TaskAdaptiveFeatureLoss(), L1, PRED, TARGET)
    with torch.inference_mode():
        pred, target, loss_fn = PRED.clone(), TARGET.clone(), TaskAdaptiveFeatureLoss()
        assert gradient_ratio(loss_fn, L1, pred, target) == pytest.approx(expected)
    assert gradient_ratio(loss_fn, L1, pred, target) == pytest.approx(expected)
    loss_fn(PRED.clone().requires_grad_(), target).backward()


def test_the_ratio_over_several_outputs_is_that_of_their_sums() -> None:
    preds = [PRED, toys.image_batch(2, 2, 16, 20)]
    leaves = [pred.clone().requires_grad_() for pred in preds]
    loss_fn = TaskAdaptiveFeatureLoss()
    norms = [
        torch.cat([part.flatten() for part in torch.autograd.grad(multi_output(loss, leaves, TARGET), leaves)]).norm()
        for loss in (loss_fn, L1)
    ]
    assert gradient_ratio(loss_fn, L1, preds, TARGET) == pytest.approx(float(norms[0] / norms[1]), rel=1e-5)
    assert calibrate_weight(loss_fn, L1, preds, TARGET) == pytest.approx(2 * float(norms[1] / norms[0]), rel=1e-5)


def test_cached_features_stand_for_their_images() -> None:
    loss_fn, other = TaskAdaptiveFeatureLoss(), TaskAdaptiveFeatureLoss(distance="l1")
    expected = gradient_ratio(loss_fn, other, PRED, TARGET)
    assert gradient_ratio(loss_fn, other, PRED, loss_fn.features(TARGET)) == pytest.approx(expected)


def test_a_compiled_loss_takes_several_outputs() -> None:
    torch.compiler.reset()
    loss_fn = TaskAdaptiveFeatureLoss()
    preds = [image_batch(2).requires_grad_(), toys.image_batch(3, 2, 16, 20).requires_grad_()]
    expected = multi_output(loss_fn, preds, TARGET)
    total = multi_output(torch.compile(loss_fn, backend="aot_eager", fullgraph=True), preds, TARGET)
    torch.testing.assert_close(total, expected)
    total.backward()
    assert all(bool(pred.grad.any()) for pred in preds)
