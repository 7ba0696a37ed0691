"""README of the examples: its option files build, its code and its patches train, its numbers are what they say."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tafm_loss import gradient_ratio, multi_output
from tafm_loss.basicsr import register
from tafm_loss.losses import RECOMMENDED_RATIO
from tests.basicsr_copies import PSNRLoss, Registry, install_basicsr, install_hinet, install_nafnet

yaml = pytest.importorskip("yaml")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
README = (EXAMPLES / "README.md").read_text()
SECTIONS = {part.split("\n", 1)[0]: part for part in re.split(r"^## ", README, flags=re.MULTILINE)}
MOVED = "torchvision.transforms.functional_tensor"

Namespace = dict[str, Any]


def blocks(section: str, language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", SECTIONS[section], re.DOTALL)
    assert found, f"no {language} in {section}"
    return found


def run(code: str, namespace: Namespace) -> Namespace:
    exec(compile(code, "examples/README.md", "exec"), namespace)
    return namespace


@pytest.fixture(scope="module")
def calibrated() -> Namespace:
    (block,) = blocks("Which weight", "python")
    return run(block, {})


# ---- option files ----


def train_options(section: str) -> list[dict[str, Any]]:
    return [yaml.safe_load(block)["train"] for block in blocks(section, "yaml")]


@pytest.mark.parametrize(("section", "install"), [("BasicSR", install_basicsr), ("NAFNet", install_nafnet)])
def test_perceptual_slots_build_and_pull_at_the_recommended_ratio(
    section: str, install: Callable[..., Any], calibrated: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = install(monkeypatch)
    register()
    for options in train_options(section):
        pixel, perceptual = build(options["pixel_opt"]), build(options["perceptual_opt"])

        def feature(pred: Tensor, target: Tensor, perceptual: nn.Module = perceptual) -> Tensor:
            loss, style = perceptual(pred, target)
            assert style is None
            return loss

        ratio = gradient_ratio(feature, pixel, calibrated["levels"][-1], calibrated["sharp"])
        assert ratio == pytest.approx(RECOMMENDED_RATIO, rel=0.03)


def test_the_pixel_slot_of_hinet_is_its_own_loss_and_the_feature_loss(
    calibrated: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = install_hinet(monkeypatch)
    register()
    (options,) = train_options("HINet")
    assert "perceptual_opt" not in options
    both, own = build(options["pixel_opt"]), PSNRLoss(loss_weight=0.5)
    restored, sharp = calibrated["levels"][1], calibrated["sharp"]
    ratio = gradient_ratio(lambda pred, target: both(pred, target) - own(pred, target), own, restored, sharp)
    assert ratio == pytest.approx(RECOMMENDED_RATIO, rel=0.03)


def test_the_training_script_of_basicsr_registers_before_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    build = install_basicsr(monkeypatch)
    trained: list[str] = []
    train = ModuleType("basicsr.train")

    def train_pipeline(root: str) -> None:
        build({"type": "TAFMPerceptualLoss"}), build({"type": "PixelTAFMLoss"})
        trained.append(root)

    vars(train)["train_pipeline"] = train_pipeline
    monkeypatch.setitem(sys.modules, "basicsr.train", train)
    monkeypatch.setitem(sys.modules, MOVED, ModuleType(MOVED))
    del sys.modules[MOVED]
    (script,) = blocks("BasicSR", "python")
    run(script, {"__name__": "__main__"})
    assert trained == ["."]
    assert callable(vars(sys.modules[MOVED])["rgb_to_grayscale"])  # what BasicSR asks it for


def test_the_two_lines_reach_the_module_that_nafnet_looks_into(monkeypatch: pytest.MonkeyPatch) -> None:
    build = install_nafnet(monkeypatch)
    (lines,) = blocks("NAFNet", "python")
    run(lines, {})
    assert isinstance(build({"type": "TAFMPerceptualLoss"}), nn.Module)


# ---- patches ----


class Outputs(nn.Module):
    """A convolution for each output, at its own scale, so that an output without gradient leaves one untrained."""

    def __init__(self, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.scales = scales
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in scales)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [
            convolution(F.avg_pool2d(images, scale))
            for scale, convolution in zip(self.scales, self.convolutions, strict=True)
        ]


SCALES = {"MPRNet": (1, 1, 1), "MIMO-UNet": (4, 2, 1)}


def test_a_ratio_is_an_option_of_basicsr(calibrated: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    build = install_basicsr(monkeypatch)
    register()
    (block,) = re.findall(r"```yaml\n(.*?)```", README.split("## BasicSR")[0], re.DOTALL)
    perceptual = build(yaml.safe_load(block)["train"]["perceptual_opt"])
    restored = calibrated["levels"][0].clone().requires_grad_()
    (ours,), (theirs,) = (
        torch.autograd.grad(loss, restored)
        for loss in (perceptual(restored, calibrated["sharp"])[0], F.l1_loss(restored, calibrated["sharp"]))
    )
    assert float(ours.norm() / theirs.norm()) == pytest.approx(RECOMMENDED_RATIO, rel=1e-3)


def test_trainers_with_a_registry_of_their_own_get_one_tensor(calibrated: Namespace) -> None:
    registry = Registry()
    (lines,), (options,) = blocks("neosr, traiNNer-redux", "python"), train_options("neosr, traiNNer-redux")
    run(lines, {"LOSS_REGISTRY": registry})
    loss_fn = registry.get(options["perceptual_opt"].pop("type"))(**options["perceptual_opt"])
    ratio = gradient_ratio(loss_fn, nn.L1Loss(), calibrated["levels"][-1], calibrated["sharp"])
    assert ratio == pytest.approx(RECOMMENDED_RATIO, rel=0.03)


def stand_in(section: str, network: Outputs) -> tuple[Namespace, str, str]:
    """Return what the loop of a repository knows, and what it calls outputs and sharp images."""
    if section == "MPRNet":
        edges = lambda pred, sharp: F.l1_loss(pred.diff(dim=-1), sharp.diff(dim=-1))  # noqa: E731
        return {"criterion_char": nn.L1Loss(), "criterion_edge": edges}, "restored", "target"
    return {"criterion": nn.L1Loss(), "device": "cpu"}, "pred_img", "label_img"


@pytest.mark.parametrize("section", list(SCALES))
def test_a_patched_loop_trains_every_output_on_both_losses(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Module, "cuda", lambda module: module)
    network = Outputs(SCALES[section])
    namespace, outputs, sharp = stand_in(section, network)
    setup, step = blocks(section, "python")
    run(setup, namespace)
    generator = torch.Generator().manual_seed(0)
    blurred, namespace[sharp] = torch.rand(2, 2, 3, 64, 64, generator=generator)
    namespace[outputs] = network(blurred)
    run(step, namespace)
    namespace["loss"].backward()
    pixel = multi_output(namespace["pixel_loss"], namespace[outputs], namespace[sharp])
    assert namespace["loss"] > pixel > 0
    assert namespace["balanced"].log()["ratio"] == pytest.approx(RECOMMENDED_RATIO, rel=1e-3)
    for convolution in network.convolutions:
        assert convolution.weight.grad is not None and convolution.weight.grad.any()
    if section == "MIMO-UNet":  # what its loop logs
        torch.testing.assert_close(namespace["loss_content"] + 0.1 * namespace["loss_fft"], pixel)


def test_the_spectral_term_counts_real_and_imaginary_parts() -> None:
    fft_loss = run(blocks("MIMO-UNet", "python")[0], {"criterion": nn.L1Loss(), "device": "cpu"})["fft_loss"]
    target = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    # A constant has one coefficient, c H W, which is real: c / 2 on average over both parts.
    assert float(fft_loss(target + 0.5, target)) == pytest.approx(0.25, rel=1e-4)
    row = torch.sin(2 * torch.pi * torch.arange(8) / 8).expand(1, 3, 8, 8)
    # A sine has two imaginary coefficients of H W / 2 each: 1 / 2 on average as well.
    assert float(fft_loss(target + row, target)) == pytest.approx(0.5, rel=1e-4)


# ---- text ----


def test_the_table_of_weights_is_what_the_block_computes(calibrated: Namespace) -> None:
    rows = [line.strip("| ").split("|") for line in SECTIONS["Which weight"].splitlines() if line.startswith("| `")]
    table = {name.strip(" `"): [float(cell) for cell in cells] for name, *cells in rows}
    assert list(table) == list(calibrated["weights"])
    for name, weights in calibrated["weights"].items():
        assert table[name] == pytest.approx(weights, rel=0.03), name


def test_every_example_is_listed_and_every_link_points_at_something() -> None:
    for example in [*EXAMPLES.glob("*.py"), EXAMPLES / "deblurring", EXAMPLES / "integrations"]:
        assert example.name.startswith("_") or f"[{example.name}]({example.name}" in README, example.name
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", README):
        page = (EXAMPLES / target).resolve() if target else EXAMPLES / "README.md"
        assert page.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in titles}, anchor
