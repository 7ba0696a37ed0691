"""Images of another range than the loss was told are warned about; what is fine is not."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tafm_loss import TaskAdaptiveFeatureLoss
from tests.losses.test_contract import GOOD, LOSSES, image_batch

SHARP = image_batch(1)
WRONG_RANGE = {
    "8 bits": ({}, 255 * SHARP, r"to 25\d.*input_range=\(0, 255\)"),
    "from -1": ({}, 2 * SHARP - 1, r"from -0\.99\d.*input_range=\(-1, 1\)"),
    "divided twice": ({}, SHARP / 255, r"divided by 255 twice"),
    "not 8 bits": ({"input_range": (0, 255)}, SHARP, r"input_range is \(0, 255\).*input_range=\(0, 1\)"),
    "not finite": ({}, SHARP.masked_fill(SHARP > 0.9, torch.nan), r"must be finite"),
}


@pytest.mark.parametrize(("options", "sharp", "message"), WRONG_RANGE.values(), ids=WRONG_RANGE.keys())
def test_a_target_of_another_range_is_warned_about_once(options, sharp: Tensor, message: str) -> None:
    loss_fn = TaskAdaptiveFeatureLoss(**options)
    with pytest.warns(UserWarning, match=message):
        loss_fn(sharp, sharp)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(201):
            loss_fn._range.see(sharp)


@pytest.mark.parametrize("factory", LOSSES.values(), ids=LOSSES.keys())
def test_every_loss_looks_at_the_target_and_not_at_pred(factory: Callable[[], nn.Module]) -> None:
    loss_fn = factory()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_fn(40 * GOOD - 20, SHARP)  # what an untrained network may return
    loss_fn._range._batches = 0
    with pytest.warns(UserWarning, match="8-bit"):
        loss_fn(GOOD, 255 * SHARP)


@pytest.mark.parametrize("later", [255 * SHARP, 2 * SHARP - 1])
def test_it_looks_again_after_a_good_first_batch(later: Tensor) -> None:
    loss_fn = TaskAdaptiveFeatureLoss()
    with pytest.warns(UserWarning, match="input_range"):
        for sharp in [SHARP, *[later] * 100]:
            loss_fn._range.see(sharp)


def test_images_that_are_never_dark_are_in_a_range_that_is_too_wide() -> None:
    loss_fn = TaskAdaptiveFeatureLoss(input_range=(-1, 1))
    with pytest.warns(UserWarning, match=r"was ever darker.*input_range=\(0, 1\)"):
        for _ in range(1000):
            loss_fn._range.see(SHARP)
    dark_once = TaskAdaptiveFeatureLoss(input_range=(-1, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for sharp in [2 * SHARP - 1, *[SHARP] * 1000]:
            dark_once._range.see(sharp)


@pytest.mark.parametrize("sharp", [torch.zeros_like(SHARP), SHARP * 1.1 - 0.05, SHARP / 20])
def test_black_dark_and_resized_targets_are_fine(sharp: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TaskAdaptiveFeatureLoss()(SHARP, sharp)


@pytest.mark.parametrize("factory", LOSSES.values(), ids=LOSSES.keys())
def test_a_compiled_loss_does_not_look_and_does_not_spend_the_look(factory: Callable[[], nn.Module]) -> None:
    loss_fn = factory()
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*input_range.*")
        torch.compile(loss_fn, fullgraph=True, backend="eager")(GOOD * 255, SHARP * 255)
    with pytest.warns(UserWarning, match="input_range"):
        loss_fn(GOOD * 255, SHARP * 255)
