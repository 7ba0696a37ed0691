"""LatentComparisonLoss: closed forms, what must not lower it, and what it refuses."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from tafm_loss.losses.latent import LatentComparisonLoss


def latents(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or (5, 6, 3, 4), generator=torch.Generator().manual_seed(seed))


def unit(z: Tensor) -> Tensor:
    return z / (z.square().sum(1, keepdim=True) + 1e-8).sqrt()


def definition(
    z: Tensor, reference: Tensor, margin: float, statistics: tuple[Tensor, Tensor] | None = None
) -> dict[str, float]:
    """The terms without weights, one pair after the other, in float64."""
    u, v = unit(z.double()), unit(reference.double())

    def distance(i: int, j: int) -> float:
        return float((u[i] - v[j]).square().sum(0).mean())

    pairs = range(len(z))
    hinges = [max(0.0, margin + distance(i, i) - distance(i, j)) for i in pairs for j in pairs if i != j]
    terms = {"pull": sum(distance(i, i) for i in pairs) / len(z), "push": sum(hinges) / max(1, len(hinges))}
    if statistics is not None:
        change = (u - v).flatten(2).mean(2) if z.dim() == 4 else u - v
        removed = statistics[0].double() - statistics[1].double()
        correlations = [
            torch.nn.functional.cosine_similarity(a, b, dim=0).square() for a in change.T for b in removed.T
        ]
        terms["decorrelation"] = float(torch.stack(correlations).mean())
    return terms


@pytest.mark.parametrize("shape", [(5, 6, 3, 4), (2, 3, 1, 1), (4, 8), (3, 1, 5, 7)])
@pytest.mark.parametrize("margin", [0.0, 0.5, 4.0])
def test_its_terms_are_the_definition(shape: tuple[int, ...], margin: float) -> None:
    z, reference = latents(0, *shape), latents(1, *shape)
    found = LatentComparisonLoss(margin=margin).terms(z, reference)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        definition(z, reference, margin), rel=1e-4, abs=1e-5
    )


@pytest.mark.parametrize("shape", [(5, 6, 3, 4), (4, 8)])
def test_decorrelation_is_the_mean_squared_correlation_of_the_changes(shape: tuple[int, ...]) -> None:
    z, reference = latents(0, *shape), latents(1, *shape)
    statistics = latents(2, shape[0], 7), latents(3, shape[0], 7)
    found = LatentComparisonLoss(decorrelation_weight=1.0).terms(z, reference, *statistics)
    expected = definition(z, reference, 0.5, statistics)
    assert found["decorrelation"].item() == pytest.approx(expected["decorrelation"], rel=1e-4)


def test_weights_multiply_their_terms_and_the_terms_add_up() -> None:
    given = latents(0), latents(1), latents(2, 5, 4), latents(3, 5, 4)
    plain = LatentComparisonLoss(margin=3.0, push_weight=1.0, decorrelation_weight=1.0).terms(*given)
    weighted = LatentComparisonLoss(margin=3.0, push_weight=0.3, decorrelation_weight=0.2, weight=5.0)
    found = weighted.terms(*given)
    for name, factor in {"pull": 5.0, "push": 1.5, "decorrelation": 1.0}.items():
        torch.testing.assert_close(found[name], factor * plain[name])
    torch.testing.assert_close(weighted(*given), sum(found.values()))
    off = LatentComparisonLoss(push_weight=0, decorrelation_weight=0)
    assert off.terms(*given).keys() == {"pull"}


@pytest.mark.parametrize(("scale", "reference_scale"), [(1e-2, 1e-2), (1e3, 1e3), (1e-2, 1e3)])
def test_the_scale_of_the_latents_and_statistics_changes_nothing(scale: float, reference_scale: float) -> None:
    loss_fn = LatentComparisonLoss(margin=2.0)
    given = latents(0), latents(1), latents(2, 5, 4), latents(3, 5, 4)
    scaled = scale * given[0], reference_scale * given[1], 1e3 * given[2], 1e3 * given[3]
    for name, value in loss_fn.terms(*given).items():
        torch.testing.assert_close(loss_fn.terms(*scaled)[name], value, rtol=1e-4, atol=1e-5)


def test_gradient_reaches_both_latents_and_no_statistics() -> None:
    given = [each.requires_grad_() for each in (latents(0), latents(1), latents(2, 5, 4), latents(3, 5, 4))]
    LatentComparisonLoss(margin=3.0)(*given).backward()
    assert all(each.grad.count_nonzero() > 0 for each in given[:2])
    assert all(each.grad is None for each in given[2:])


@pytest.mark.parametrize("options", [{}, {"push_weight": 0}, {"decorrelation_weight": 3.0}, {"margin": 4.0}])
def test_gradients_are_the_slopes_of_the_loss(options: dict[str, float]) -> None:
    loss_fn = LatentComparisonLoss(**options)
    given = [each.requires_grad_() for each in (latents(0), latents(1))]
    statistics = latents(2, 5, 4), latents(3, 5, 4)
    gradients = torch.autograd.grad(loss_fn(*given, *statistics), given)
    direction = latents(4), latents(5)
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    step = 1e-2
    ahead, behind = (
        loss_fn(*(z.detach() + sign * step * d for z, d in zip(given, direction, strict=True)), *statistics)
        for sign in (1, -1)
    )
    torch.testing.assert_close((ahead - behind) / (2 * step), slope, rtol=0.02, atol=1e-4)


def test_few_pairs_have_no_decorrelation() -> None:
    loss_fn = LatentComparisonLoss(decorrelation_weight=1.0)
    three = loss_fn.terms(*(latents(seed, 3, 6) for seed in range(4)))
    four = loss_fn.terms(*(latents(seed, 4, 6) for seed in range(4)))
    assert three["decorrelation"] == 0
    assert four["decorrelation"] > 0


HUGE = {torch.float16: 6e4, torch.bfloat16: 1e15, torch.float32: 1e15}


@pytest.mark.parametrize("dtype", HUGE)
@pytest.mark.parametrize(
    "kinds", [("zero", "zero"), ("zero", "one"), ("one", "one"), ("huge", "huge"), ("huge", "one")]
)
@pytest.mark.parametrize("shape", [(4, 16, 3, 3), (4, 16)])
def test_equal_zero_and_huge_latents_are_finite_with_finite_gradients(
    dtype: torch.dtype, kinds: tuple[str, str], shape: tuple[int, ...]
) -> None:
    levels = {"zero": 0.0, "one": 1.0, "huge": HUGE[dtype]}
    given = [torch.full(shape, levels[kind], dtype=dtype, requires_grad=True) for kind in kinds]
    statistics = [torch.full((4, 5), levels[kind], dtype=dtype) for kind in kinds]
    loss = LatentComparisonLoss()(*given, *statistics)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, given))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    loss_fn = LatentComparisonLoss(margin=2.0)
    given = [each.to(dtype) for each in (latents(0), latents(1), latents(2, 5, 4), latents(3, 5, 4))]
    expected = loss_fn(*(each.float() for each in given))
    assert torch.equal(loss_fn(*given), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss_fn(*given), expected)
        assert torch.equal(loss_fn(*(each.float() for each in given)), expected)


def test_it_traces_as_one_graph() -> None:
    torch.compiler.reset()
    loss_fn = LatentComparisonLoss()
    given = latents(0), latents(1), latents(2, 5, 4), latents(3, 5, 4)
    compiled = torch.compile(loss_fn, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given), loss_fn(*given))


def test_it_holds_nothing_and_copies() -> None:
    loss_fn = LatentComparisonLoss(margin=1.5, weight=0.3)
    assert not loss_fn.state_dict()
    assert not list(loss_fn.parameters())
    expected = loss_fn(latents(0), latents(1))
    for twin in (copy.deepcopy(loss_fn), pickle.loads(pickle.dumps(loss_fn)), nn.Sequential(loss_fn).half()[0]):
        assert torch.equal(twin(latents(0), latents(1)), expected)
    assert "margin=1.5" in repr(loss_fn) and "weight=0.3" in repr(loss_fn)


def test_a_batch_of_one_is_refused_with_push_alone() -> None:
    one = latents(0, 1, 4), latents(1, 1, 4)
    with pytest.raises(ValueError, match=r"at least 2 contents.*drop_last=True.*push_weight=0"):
        LatentComparisonLoss()(*one)
    assert LatentComparisonLoss(push_weight=0)(*one) > 0


GOOD = latents(0, 4, 6)
WRONG = {
    "no tensor": ((GOOD, GOOD.numpy()), TypeError, r"reference_latents must be a torch\.Tensor, got ndarray"),
    "integers": ((GOOD.int(), GOOD), TypeError, r"latents must be a floating-point.*int32"),
    "three dimensions": ((GOOD[..., None], GOOD[..., None]), ValueError, r"\(N, C, H, W\) or \(N, C\).*\(4, 6, 1\)"),
    "an empty batch": ((GOOD[:0], GOOD[:0]), ValueError, r"none of them 0, got \(0, 6\)"),
    "other shapes": ((GOOD, GOOD[:, :5]), ValueError, r"same shape, got \(4, 6\) and \(4, 5\)"),
    "other devices": ((GOOD, GOOD.to("meta")), ValueError, r"latents are on cpu, but reference_latents on meta"),
    "one statistics": ((GOOD, GOOD, GOOD), ValueError, r"for both sides or for none; reference_statistics are missing"),
    "other statistics": ((GOOD, GOOD, None, GOOD), ValueError, r"; statistics are missing"),
    "statistics of maps": ((GOOD, GOOD, GOOD[..., None], GOOD[..., None]), ValueError, r"shape \(4, K\).*\(4, 6, 1\)"),
    "statistics of others": ((GOOD, GOOD, GOOD[:3], GOOD[:3]), ValueError, r"shape \(4, K\).*got \(3, 6\)"),
    "unlike statistics": (
        (GOOD, GOOD, GOOD, GOOD[:, :5]),
        ValueError,
        r"statistics and reference_statistics.*\(4, 5\)",
    ),
    "integer statistics": ((GOOD, GOOD, GOOD.int(), GOOD), TypeError, r"statistics must be a floating-point"),
    "statistics elsewhere": (
        (GOOD, GOOD, GOOD.to("meta"), GOOD.to("meta")),
        ValueError,
        r"statistics are on meta, but latents on cpu",
    ),
}


@pytest.mark.parametrize(("given", "error", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_an_error_that_says_what_came(given, error, message: str) -> None:
    with pytest.raises(error, match=message):
        LatentComparisonLoss()(*given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -0.1}, "margin must be from 0 to 4.*-0.1"),
        ({"margin": 4.5}, "margin must be from 0 to 4"),
        ({"margin": float("nan")}, "margin"),
        ({"push_weight": -1.0}, "push_weight must be finite and not negative"),
        ({"decorrelation_weight": float("inf")}, "decorrelation_weight must be finite"),
        ({"weight": float("nan")}, "weight must be finite"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatentComparisonLoss(**options)
