"""The losses of the published protocols: closed forms, independent references, and gradients that arrive."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from examples.deblurring.training.config import Term
from examples.deblurring.training.losses import LOSSES, create_loss
from examples.deblurring.training.objective import Objective

OPTIONS = [
    ("l1", {}),
    ("charbonnier", {}),
    ("edge", {}),
    ("psnr", {}),
    ("fourier", {}),
    ("fourier", {"parts": "modulus"}),
    ("tafm", {}),
]


def pair(seed: int = 0, size: tuple[int, int] = (40, 48)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, *size, generator=generator), torch.rand(2, 3, *size, generator=generator)


def test_charbonnier_is_between_l1_and_l1_plus_eps() -> None:
    pred, sharp = pair()
    l1 = (pred - sharp).abs().mean()
    assert l1 < create_loss("charbonnier")(pred, sharp) < l1 + 1e-3
    assert create_loss("charbonnier")(sharp, sharp).item() == pytest.approx(1e-3)


def test_fourier_is_the_l1_of_real_and_imaginary_parts_of_numpys_transform() -> None:
    pred, sharp = pair()
    difference = np.fft.fft2((pred - sharp).double().numpy())
    parts = np.stack([difference.real, difference.imag])
    assert create_loss("fourier")(pred, sharp).item() == pytest.approx(np.abs(parts).mean(), rel=1e-5)
    assert create_loss("fourier", parts="modulus")(pred, sharp).item() == pytest.approx(
        np.abs(difference).mean(), rel=1e-5
    )


def reference_laplacian(image: np.ndarray) -> np.ndarray:
    kernel = np.outer([0.05, 0.25, 0.4, 0.25, 0.05], [0.05, 0.25, 0.4, 0.25, 0.05])
    smooth = ndimage.convolve(image, kernel, mode="nearest")
    spread = np.zeros_like(image)
    spread[::2, ::2] = smooth[::2, ::2] * 4
    return image - ndimage.convolve(spread, kernel, mode="nearest")


def test_edge_agrees_with_a_laplacian_written_in_scipy() -> None:
    pred, sharp = (images.double() for images in pair(size=(21, 34)))
    levels = [
        np.stack([[reference_laplacian(c) for c in image] for image in images.numpy()]) for images in (pred, sharp)
    ]
    expected = np.sqrt((levels[0] - levels[1]) ** 2 + 1e-6).mean()
    assert create_loss("edge")(pred, sharp).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_gradient_of_every_loss_reaches_every_output(name: str, options: dict[str, str]) -> None:
    pred, sharp = pair(size=(64, 64))
    objective = Objective([Term(name, weight=0.5, options=options)], torch.device("cpu"))
    outputs = [pred[..., ::2, ::2].contiguous().requires_grad_(), pred.clone().requires_grad_()]
    (term,) = objective(outputs, sharp).values()
    term.backward()
    for output in outputs:
        assert output.grad is not None and bool(output.grad.isfinite().all())
        assert float((output.grad != 0).double().mean()) > 0.9


def test_every_loss_is_tried_above() -> None:
    assert {name for name, _ in OPTIONS} == set(LOSSES)


def test_a_term_is_the_weighted_sum_over_outputs_with_targets_resized() -> None:
    pred, sharp = pair(size=(32, 32))
    half = torch.nn.functional.interpolate(sharp, scale_factor=0.5, mode="bilinear")
    objective = Objective([Term("l1", weight=2.0), Term("l1", weight=3.0)], torch.device("cpu"))
    terms = objective([half + 0.25, pred], sharp)
    l1 = 0.25 + (pred - sharp).abs().mean().item()
    assert {name: value.item() for name, value in terms.items()} == {
        "l1-1": pytest.approx(2 * l1, rel=1e-5),
        "l1-2": pytest.approx(3 * l1, rel=1e-5),
    }


def test_a_gradient_ratio_becomes_the_weight_that_has_it() -> None:
    pred, sharp = pair(size=(64, 64))
    terms = [Term("l1", weight=1.0), Term("edge", weight=0.05), Term("tafm", gradient_ratio=0.35)]
    objective = Objective(terms, torch.device("cpu"))
    assert not objective.calibrated
    assert "tafm" not in objective([pred], sharp)
    objective.weights = objective.calibrated_weights([pred * 0, pred], sharp)
    assert objective.calibrated
    output = pred.clone().requires_grad_()
    norms = {
        name: torch.autograd.grad(term, output, retain_graph=True)[0]
        for name, term in objective([output], sharp).items()
    }
    ratio = norms["tafm"].norm() / (norms["l1"] + norms["edge"]).norm()
    assert ratio.item() == pytest.approx(0.35, rel=1e-4)


def test_random_features_follow_from_the_seed_and_leave_the_global_state_alone() -> None:
    pred, sharp = pair(size=(64, 64))
    term = Term("tafm", weight=1.0, options={"random": True})
    values = []
    for seed in (0, 0, 1):
        state = torch.get_rng_state()
        with pytest.warns(UserWarning, match="random"):
            objective = Objective([term], torch.device("cpu"), seed)
        assert torch.equal(torch.get_rng_state(), state)
        values.append(objective([pred], sharp)["tafm"].item())
        torch.rand(3)
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("l3", {}, "there is no loss 'l3'; there are charbonnier, edge"),
        ("l1", {"epsilon": 1}, "the loss l1"),
        ("fourier", {"parts": "phase"}, "real_imaginary or modulus"),
    ],
)
def test_what_is_not_known_is_told(name: str, options: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        create_loss(name, **options)
