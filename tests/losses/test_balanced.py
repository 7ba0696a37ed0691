"""A weight that follows the training: the ratio it keeps, when it measures, and its state."""

import copy
import functools
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn

from tafm_loss import BalancedLoss, ContrastiveFeatureLoss, TaskAdaptiveFeatureLoss, gradient_ratio
from tafm_loss.losses import RECOMMENDED_RATIO
from tafm_loss.losses.distances import DISTANCES
from tests.losses import toys

image_batch = functools.partial(toys.image_batch, height=32, width=40)
PRED, TARGET = image_batch(0).requires_grad_(), image_batch(1)
L1, L2 = nn.L1Loss(), nn.MSELoss()


def differing_by(difference: float) -> tuple[Tensor, Tensor]:
    """L1 and L2 then ask for a weight of ratio / (2 difference)."""
    return torch.full((1, 3, 8, 8), 0.5 + difference, requires_grad=True), torch.full((1, 3, 8, 8), 0.5)


@pytest.mark.parametrize("make", [functools.partial(toys.two_taps), toys.embedding, lambda: "tafm-compact"])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("pixel", [L1, L2])
def test_the_first_step_has_the_ratio_whatever_is_compared(pixel: nn.Module, distance: str, make) -> None:
    balanced = BalancedLoss(pixel, TaskAdaptiveFeatureLoss(make(), distance=distance))
    balanced(PRED, TARGET).backward()

    def feature(pred: Tensor, target: Tensor) -> Tensor:
        return balanced.terms(pred, target)["feature"]

    assert gradient_ratio(feature, pixel, PRED, TARGET) == pytest.approx(RECOMMENDED_RATIO, rel=1e-4)
    assert balanced.log()["ratio"] == pytest.approx(RECOMMENDED_RATIO, rel=1e-4)


def test_the_sum_its_terms_and_its_log_agree() -> None:
    balanced = BalancedLoss(L1, L2, ratio=0.5)
    pred, target = differing_by(0.25)
    total, terms = balanced(pred, target), balanced.terms(pred, target)
    torch.testing.assert_close(total, terms["pixel"] + terms["feature"])
    assert balanced.log() == pytest.approx({"pixel": 0.25, "feature": 0.0625, "weight": 1.0, "ratio": 0.5})


def test_it_measures_now_and_then_and_the_weight_moves_slowly() -> None:
    balanced = BalancedLoss(L1, L2, ratio=0.5, every=3)
    weights, measured = [], []
    for difference in [0.25] * 31 + [0.0625] * 6:  # which asks for 1, and later for 4
        balanced(*differing_by(difference))
        weights.append(balanced.log()["weight"])
        measured.append(balanced.just_measured)
    assert measured == [step % 3 == 0 for step in range(37)]
    assert weights[:33] == pytest.approx([1.0] * 33)
    assert weights[33:] == pytest.approx([4**0.1] * 3 + [4**0.19], rel=1e-4)
    assert balanced.log()["ratio"] == pytest.approx(4**0.19 / 8, rel=1e-4)


def test_the_first_measurements_count_alike() -> None:
    balanced = BalancedLoss(L1, L2, ratio=0.5, every=1)
    for difference in (0.25, 0.0625):
        balanced(*differing_by(difference))
    assert balanced.log()["weight"] == pytest.approx(2.0)


def test_nothing_is_measured_where_nothing_trains() -> None:
    balanced = BalancedLoss(L1, L2)
    with torch.no_grad():
        balanced(PRED, TARGET)
    balanced(PRED.detach(), TARGET)
    assert balanced.measurements == 0 and not balanced.just_measured
    assert balanced(PRED, TARGET) > L1(PRED, TARGET) and balanced.measurements == 1


@pytest.mark.parametrize("feature", [L2, TaskAdaptiveFeatureLoss()])
def test_outputs_of_several_sizes_are_added(feature: nn.Module) -> None:
    preds = [image_batch(2).requires_grad_(), toys.image_batch(3, 2, 16, 20).requires_grad_()]
    balanced = BalancedLoss(L1, feature, ratio=0.2)
    balanced(preds, TARGET).backward()
    assert all(bool(pred.grad.any()) for pred in preds)
    terms = BalancedLoss(L1, feature, ratio=0.2).terms(preds, TARGET)
    norms = [
        torch.cat([grad.flatten() for grad in torch.autograd.grad(term, preds, retain_graph=True)]).norm()
        for term in terms.values()
    ]
    assert float(norms[1] / norms[0]) == pytest.approx(0.2, rel=1e-3)


def test_its_state_is_saved_and_a_checkpoint_without_it_loads() -> None:
    before = nn.ModuleDict({"net": nn.Conv2d(3, 3, 1)})
    after = nn.ModuleDict({"net": nn.Conv2d(3, 3, 1), "loss": BalancedLoss(L1, L2, ratio=0.5)})
    after.load_state_dict(before.state_dict())
    after["loss"](*differing_by(0.25))
    resumed = copy.deepcopy(after)
    resumed["loss"] = BalancedLoss(L1, L2, ratio=0.5)
    resumed.load_state_dict(after.state_dict())
    resumed["loss"](*differing_by(0.0625))  # the second measurement, and not the first
    assert resumed["loss"].log()["weight"] == pytest.approx(2.0)
    assert not [name for name, _ in after.named_parameters() if name.startswith("loss")]


def test_it_works_in_half_precision_and_with_negatives() -> None:
    negatives = image_batch(5)
    loss_fn = functools.partial(ContrastiveFeatureLoss(), negatives=negatives)
    balanced = BalancedLoss(L1, loss_fn, ratio=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert balanced(PRED, TARGET).isfinite()
    assert balanced.half().log()["ratio"] == pytest.approx(0.1, rel=0.01)
    assert balanced(PRED, TARGET).isfinite()


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    balanced = BalancedLoss(L1, L2, ratio=0.5, every=1)
    balanced(*differing_by(0.25))
    balanced(torch.full((1, 3, 8, 8), torch.nan, requires_grad=True), TARGET[:1, :, :8, :8])
    balanced(*[images.detach().requires_grad_() for images in (TARGET, TARGET)])
    assert balanced.log()["weight"] == pytest.approx(1.0) and balanced.measurements == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.0}, "ratio must be more than 0"),
        ({"ratio": -1.0}, "ratio must be finite and not negative"),
        ({"every": 0}, "every must be a number of steps"),
        ({"every": 1.5}, "every must be a number of steps"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BalancedLoss(L1, L2, **options)


def test_losses_that_cannot_be_balanced_are_errors() -> None:
    with pytest.raises(ValueError, match="feature_loss must give one number"):
        BalancedLoss(L1, TaskAdaptiveFeatureLoss(reduction="none"))(PRED, TARGET)
    with pytest.raises(ValueError, match="gradient of feature_loss is zero"):
        BalancedLoss(L1, lambda pred, target: 0 * L2(pred, target))(PRED, TARGET)


def train_on_a_rank(rank: int, folder: str) -> None:
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    balanced = BalancedLoss(L1, L2, ratio=0.5)
    balanced(*differing_by((0.25, 0.0625)[rank]))
    torch.save(balanced.log_weight, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_all_processes_have_the_weight_of_the_whole_batch(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(train_on_a_rank, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt").exp() for rank in (0, 1))
    # L1: sqrt(2) / n; L2: sqrt(0.5^2 + 0.125^2) / n.
    assert first == second
    assert float(first) == pytest.approx(0.5 * 2**0.5 / (0.25 + 0.015625) ** 0.5, rel=1e-4)
