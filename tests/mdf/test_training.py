"""Training discriminators: what they learn, and that the run can be interrupted and repeated."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.utils import save_image

from tafm_loss import DiscriminativeFeatureLoss, TaskAdaptiveFeatureLoss, create_backbone, load_backbone
from tafm_loss.mdf import adversarial_scale
from tafm_loss.mdf import training as discriminator_training
from tafm_loss.mdf.degradations import BlurDegradation, NoiseDegradation
from tafm_loss.mdf.training import train_discriminators
from tafm_loss.scenes import generate_scenes

BLUR = BlurDegradation((3, 6))
SMALL: dict[str, Any] = {"scales": 3, "steps": 2, "widths": (4, 4, 6), "progress": False}


@pytest.fixture(scope="module")
def image() -> Tensor:
    return generate_scenes(1, (40, 51), generator=torch.Generator().manual_seed(3))[0]


@pytest.fixture(scope="module")
def unbroken(image: Tensor) -> DiscriminativeFeatureLoss:
    return train_discriminators(image, BLUR, **SMALL)


def test_it_gives_a_loss_with_a_discriminator_for_every_scale(
    unbroken: DiscriminativeFeatureLoss, image: Tensor
) -> None:
    config = unbroken.backbone.config
    assert {name: tap.channels for name, tap in config.taps.items() if "tail" not in name} == {
        "scale1.head": 4, "scale1.body": 4, "scale2.head": 4, "scale2.body": 4, "scale3.head": 6, "scale3.body": 6,
    }  # fmt: skip
    pred = (0.9 * image[None]).requires_grad_()
    loss = unbroken(pred, image[None])
    loss.backward()
    assert loss.item() > 0 and pred.grad is not None and bool(pred.grad.isfinite().all())
    assert config.name == "mdf-blur" and config.licence == "unknown" and repr(BLUR) in config.recipe
    assert "40 x 51 px" in config.training_data


def test_equal_seeds_give_equal_weights_and_the_global_random_state_stays(
    unbroken: DiscriminativeFeatureLoss, image: Tensor
) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # which change nothing
        again = train_discriminators(image[None], BLUR, **SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    assert again.sha256 == unbroken.sha256
    assert train_discriminators(image, BLUR, seed=1, **SMALL).sha256 != unbroken.sha256


def test_sizes_rise_evenly_from_25_px_and_every_scale_is_degraded_anew(image: Tensor) -> None:
    seen: list[tuple[int, ...]] = []

    def spy(sharp: Tensor, *, generator: torch.Generator) -> Tensor:
        seen.append(tuple(sharp.shape[1:]))
        return BLUR(sharp, generator=generator)

    loss_fn = train_discriminators(image, spy, **SMALL)
    assert seen == [(3, 25, 32), (3, 32, 40), (3, 40, 51)]
    assert loss_fn.backbone.config.name == "mdf-spy" and " at 0x" not in loss_fn.backbone.config.recipe


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_run_that_is_killed_between_scales_resumes_bit_for_bit(
    unbroken: DiscriminativeFeatureLoss, image: Tensor, tmp_path: Path, done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def killed(name: str) -> Callable[..., Any]:
        own = getattr(discriminator_training, name)

        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            if calls == done:
                raise KeyboardInterrupt
            calls += name == "train_scale"
            return own(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for name in ("train_scale", "_measure_statistics"):
            patched.setattr(discriminator_training, name, killed(name))
        with pytest.raises(KeyboardInterrupt):
            train_discriminators(image, BLUR, out_dir=tmp_path, **SMALL)
    assert calls == done and not (tmp_path / "model.safetensors").exists()
    with monkeypatch.context() as patched:
        counted: list[int] = []
        own = discriminator_training.train_scale
        patched.setattr(discriminator_training, "train_scale", lambda *a, **o: (counted.append(1), own(*a, **o))[1])
        resumed = train_discriminators(image, BLUR, out_dir=tmp_path, resume=True, **SMALL)
    assert len(counted) == 3 - done
    assert resumed.sha256 == unbroken.sha256
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 3


def test_the_folder_is_a_backbone_and_gives_the_loss_that_was_returned(image: Tensor, tmp_path: Path) -> None:
    save_image(image, tmp_path / "image.png")
    out = tmp_path / "out"
    trained = train_discriminators(tmp_path / "image.png", NoiseDegradation(), out_dir=out, **SMALL)
    assert load_backbone(out).sha256 == trained.sha256
    pred, target = 0.8 * image[None], image[None]
    assert torch.equal(DiscriminativeFeatureLoss(out)(pred, target), trained(pred, target))
    with pytest.raises(ValueError, match=r"holds checkpoint\.pt of an earlier run"):
        train_discriminators(image, NoiseDegradation(), out_dir=out, **SMALL)
    with pytest.raises(ValueError, match="is of another run"):
        train_discriminators(image, BLUR, out_dir=out, resume=True, **SMALL)


def test_discriminators_learn_to_rate_sharp_above_degraded_images_that_they_have_not_seen() -> None:
    def scenes(n: int, seed: int) -> Tensor:
        return generate_scenes(n, 40, generator=torch.Generator().manual_seed(seed))

    others = scenes(6, 2)
    degraded = BLUR(others, generator=torch.Generator().manual_seed(3))

    def gaps(steps: int) -> Tensor:
        loss_fn = train_discriminators(scenes(1, 1), BLUR, scales=2, steps=steps, widths=(8, 8), progress=False)
        sharp, blurred = (loss_fn.features(images).maps for images in (others, degraded))
        return torch.stack([(sharp[tap] - blurred[tap]).mean() for tap in sharp if "tail" in tap])

    start, trained = gaps(1), gaps(25)
    assert bool((trained > 0.1).all()) and bool((trained > 2 * start).all())


def test_batch_statistics_are_those_of_full_size_images_sharp_degraded_and_restored(
    image: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    own = discriminator_training._measure_statistics

    def spy(critics: Any, scale: Any, restored: Tensor) -> None:
        seen.extend(torch.stack([scale.sharp[0], scale.degraded[v], restored[v]]) for v in (0, 1))
        own(critics, scale, restored)

    monkeypatch.setattr(discriminator_training, "_measure_statistics", spy)
    loss_fn = train_discriminators(image, BLUR, **SMALL)
    assert torch.equal(seen[0][0], image) and not torch.equal(seen[0][1], seen[1][1])
    for discriminator in loss_fn.backbone.network.children():
        before = [discriminator.head.conv(batch) for batch in seen]
        means = torch.stack([maps.mean((0, 2, 3)) for maps in before])
        variances = torch.stack([maps.var((0, 2, 3)) for maps in before])
        torch.testing.assert_close(discriminator.head.norm.running_mean, means.mean(0))
        torch.testing.assert_close(discriminator.head.norm.running_var, variances.mean(0), rtol=1e-4, atol=1e-8)
        assert discriminator.head.norm.momentum == 0.1


def test_an_objective_that_is_not_finite_ends_the_run(image: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adversarial_scale, "LEARNING_RATE", 1e30)
    with pytest.raises(FloatingPointError, match="not finite"):
        train_discriminators(image, BLUR, **SMALL)


def returns(value: Callable[[Tensor], Any]) -> Callable[..., Any]:
    def degradation(sharp: Tensor, *, generator: torch.Generator) -> Any:
        return value(sharp)

    return degradation


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image": torch.rand(2, 3, 40, 40)}, ValueError, "one image, got 2"),
        ({"image": torch.rand(3, 20, 40)}, ValueError, "at least 32 px"),
        ({"image": torch.rand(1, 40, 40)}, ValueError, "3 channels"),
        ({"image": 255 * torch.rand(3, 40, 40)}, ValueError, "divide 8-bit values by 255"),
        ({"image": torch.full((3, 40, 40), math.nan)}, ValueError, "values in"),
        ({"image": torch.zeros(3, 40, 40, dtype=torch.uint8)}, TypeError, "images.float"),
        ({"image": [1, 2]}, TypeError, "a tensor .* or a path, got list"),
        ({"image": "absent.png"}, FileNotFoundError, "absent.png"),
        ({"image": torch.full((3, 40, 40), 0.5)}, ValueError, "image must have contrast"),
        ({"degradation": "blur"}, TypeError, r"must be an instance, such as BlurDegradation\(\), got 'blur'"),
        ({"degradation": BlurDegradation}, TypeError, r"must be an instance, such as BlurDegradation\(\)"),
        ({"degradation": returns(lambda sharp: None)}, ValueError, "of the shape that it is given.*NoneType"),
        ({"degradation": returns(lambda sharp: sharp[..., 1:])}, ValueError, "of the shape that it is given"),
        ({"degradation": returns(lambda sharp: 255 * sharp)}, ValueError, "of the shape that it is given.*in .0, 1."),
        ({"scales": 0}, ValueError, "scales must be an integer of 1 or more, got 0"),
        ({"steps": 1.5}, ValueError, "steps must be an integer of 1 or more, got 1.5"),
        ({"widths": (4, 4)}, ValueError, "widths must be 3 positive integers, one for each scale"),
        ({"widths": (4, 4, 0)}, ValueError, "widths must be 3 positive integers"),
        ({"widths": (4, 4, 4.0)}, ValueError, "widths must be 3 positive integers"),
        ({"seed": None}, ValueError, "seed must be an integer"),
        ({"resume": True}, ValueError, "resume=True needs the out_dir"),
    ],
)
def test_bad_input_is_refused_with_advice(
    image: Tensor, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments = {"image": image, "degradation": BLUR, **SMALL, **change}
    with pytest.raises(error, match=message):
        train_discriminators(arguments.pop("image"), arguments.pop("degradation"), **arguments)


@pytest.mark.slow
def test_an_image_is_recovered_from_noise_by_official_discriminators_and_not_by_classification_features(
    shared_path: Callable[[str], Path],
) -> None:
    """The experiment of gfxdisp/mdf: 500 steps of Adam at 0.1 on pixels; 50.8 dB there, and 9.95 dB by VGG.

    It shows that the loss holds all of the pixels, not what it has learned: random discriminators reach as much.
    """
    target = generate_scenes(1, 64, generator=torch.Generator().manual_seed(0))
    start = torch.rand(target.shape, generator=torch.Generator().manual_seed(1))
    squeezenet = create_backbone("squeezenet1_0", weights=shared_path("weights/squeezenet1_0-imagenet.safetensors"))
    losses = {
        "official": DiscriminativeFeatureLoss(shared_path("weights/mdf/Ds_SISR.pth")),
        "squeezenet": TaskAdaptiveFeatureLoss(squeezenet),
    }
    reached = {}
    for name, loss_fn in losses.items():
        pixels = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([pixels], lr=0.1)
        features = loss_fn.features(target)
        for _ in range(500):
            optimizer.zero_grad()
            loss_fn(pixels, features).backward()
            optimizer.step()
        reached[name] = float(-10 * (pixels.detach().clamp(0, 1) - target).square().mean().log10())
    print(reached)
    assert reached["official"] >= 45 and reached["squeezenet"] < 25


def test_resuming_with_what_does_something_else_under_the_same_name_is_refused(tmp_path: Path) -> None:
    sharp = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    options = {"scales": 1, "steps": 1, "widths": (4,), "out_dir": tmp_path, "progress": False}
    half, inverse = (lambda sharp, *, generator: sharp * 0.5), (lambda sharp, *, generator: 1 - sharp)
    train_discriminators(sharp, half, **options)
    with pytest.raises(ValueError, match="is of another run"):
        train_discriminators(sharp, inverse, **options, resume=True)
