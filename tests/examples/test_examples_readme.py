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

from tafm_loss import gradient_ratio
from tafm_loss.basicsr import register
from tafm_loss.losses import RECOMMENDED_RATIO
from tests.basicsr_copies import PSNRLoss, install_basicsr, install_hinet, install_nafnet

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


def trained(section: str, dropped: str, weight: float) -> Outputs:
    """Return a network after the loop of a patch, with the lines taken out that start with `dropped`."""
    (patch,) = blocks(section, "diff")
    code = "\n".join(line[1:] for line in patch.splitlines() if not line.startswith(dropped))
    network = Outputs(SCALES[section])
    generator = torch.Generator().manual_seed(0)
    namespace = {
        "network": network,
        "optimizer": torch.optim.SGD(network.parameters(), lr=0.1),
        "loader": [torch.rand(2, 2, 3, 64, 64, generator=generator).unbind() for _ in range(2)],
        "device": "cpu",
        "weight": weight,
        "pixel_loss": mimo_pixel_loss() if section == "MIMO-UNet" else nn.L1Loss(),
        "F": F,
    }
    run(code, namespace)
    return network


def mimo_pixel_loss() -> Callable[[Tensor, Tensor], Tensor]:
    (block,) = blocks("MIMO-UNet", "python")
    return run(block, {})["pixel_loss"]


@pytest.mark.parametrize("section", list(SCALES))
def test_a_patched_loop_trains_as_before_plus_the_loss_on_every_output(section: str) -> None:
    before = trained(section, "+", weight=0.0)
    unweighted = trained(section, "-", weight=0.0)
    patched = trained(section, "-", weight=1.0)
    start = Outputs(SCALES[section])
    for index in range(3):
        old, same, new, first = (network.convolutions[index].weight for network in (before, unweighted, patched, start))
        torch.testing.assert_close(same, old)
        assert not torch.allclose(old, first) and not torch.allclose(new, old)


def test_the_spectral_term_counts_real_and_imaginary_parts() -> None:
    pixel_loss = mimo_pixel_loss()
    target = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    # A constant has one coefficient, c H W, which is real: c / 2 on average over both parts.
    assert float(pixel_loss(target + 0.5, target)) == pytest.approx(0.5 + 0.1 * 0.25, rel=1e-4)
    row = torch.sin(2 * torch.pi * torch.arange(8) / 8).expand(1, 3, 8, 8)
    # A sine has two imaginary coefficients of H W / 2 each: 1 / 2 on average as well.
    mean = float(row.abs().mean())
    assert float(pixel_loss(target + row, target)) == pytest.approx(mean + 0.1 * 0.5, rel=1e-4)


# ---- text ----


def test_the_table_of_weights_is_what_the_block_computes(calibrated: Namespace) -> None:
    rows = [line.strip("| ").split("|") for line in SECTIONS["Which weight"].splitlines() if line.startswith("| `")]
    table = {name.strip(" `"): [float(cell) for cell in cells] for name, *cells in rows}
    assert list(table) == list(calibrated["weights"])
    for name, weights in calibrated["weights"].items():
        assert table[name] == pytest.approx(weights, rel=0.03), name


def test_every_example_is_listed_and_every_link_points_at_something() -> None:
    for example in [*EXAMPLES.glob("*.py"), EXAMPLES / "deblurring"]:
        assert example.name.startswith("_") or f"[{example.name}]({example.name}" in README, example.name
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", README):
        page = (EXAMPLES / target).resolve() if target else EXAMPLES / "README.md"
        assert page.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in titles}, anchor
