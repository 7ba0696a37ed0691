"""What a training step pays for a feature loss: forward, and backward to the prediction.

    python benchmarks/loss_cost.py

Time: all arms in one process, in interleaved rounds whose order rotates; median and interquartile range. Memory: one
process per arm; the peak of its resident memory during two steps over what it holds with everything imported, built and
the images made, so that weights are not counted. All networks have random weights, which cost the same as trained
ones. VGG19 "as BasicSR" is written from its description: the network up to conv5_4 with in-place ReLUs, both images
normalised and forwarded, the target detached, L1 between the features. LPIPS is the `lpips` package. The contrastive
losses have the backbone of "default" and forward their negatives at every step; MDF has as many features as the
official discriminators.
"""

import argparse
import dataclasses
import functools
import gc
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _common import RESULTS, command_line, markdown, metadata, peak, reset_peak, write_result
from torch import Tensor, nn

from tafm_loss import ContrastiveFeatureLoss, DiscriminativeFeatureLoss, TaskAdaptiveFeatureLoss, create_backbone
from tafm_loss.backbones.discriminators import PatchDiscriminators, discriminator_backbone

Loss = Callable[[Tensor, Tensor], Tensor]
VGG_CONV5_4 = 34
OFFICIAL_WIDTHS = [32] * 4 + [64] * 4
FAST_SECONDS = 1.0
FAST_REPEATS = 5


class BasicSRVgg19(nn.Module):
    """The perceptual loss on conv5_4 that restoration papers train with, as BasicSR computes it."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import vgg19

        self.features = vgg19(weights=None).features[: VGG_CONV5_4 + 1].requires_grad_(False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        self.criterion = nn.L1Loss()

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the mean absolute difference of the features."""
        ours = self.features((pred - self.mean) / self.std)
        theirs = self.features((target.detach() - self.mean) / self.std)
        return self.criterion(ours, theirs)


def build_default(target: Tensor) -> Loss:
    return TaskAdaptiveFeatureLoss()


def build_default_cached(target: Tensor) -> Loss:
    return _cached(TaskAdaptiveFeatureLoss(), target)


def build_basicsr_vgg19(target: Tensor) -> Loss:
    return BasicSRVgg19()


def build_vgg19(target: Tensor) -> Loss:
    return TaskAdaptiveFeatureLoss(_random_backbone("vgg19", ["conv5_4"]), distance="l1")


def build_vgg19_cached(target: Tensor) -> Loss:
    return _cached(build_vgg19(target), target)


def build_squeezenet(target: Tensor) -> Loss:
    return TaskAdaptiveFeatureLoss(_random_backbone("squeezenet1_0"))


def build_discriminative(target: Tensor) -> Loss:
    return DiscriminativeFeatureLoss(discriminator_backbone(PatchDiscriminators(OFFICIAL_WIDTHS), "random"))


def build_contrastive(count: int, target: Tensor) -> Loss:
    generator = torch.Generator().manual_seed(1)
    negatives = torch.rand(count, *target.shape, generator=generator)
    return functools.partial(ContrastiveFeatureLoss(), negatives=negatives)


def build_lpips(net: str, target: Tensor) -> Loss:
    import lpips

    metric = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    return lambda pred, target: metric(pred, target, normalize=True).mean()


ARMS: dict[str, Callable[[Tensor], Loss]] = {
    "default": build_default,
    "default, cached targets": build_default_cached,
    "contrastive, 1 negative": functools.partial(build_contrastive, 1),
    "contrastive, 3 negatives": functools.partial(build_contrastive, 3),
    "MDF, 8 discriminators": build_discriminative,
    "squeezenet1_0, our loss": build_squeezenet,
    "lpips-alex": functools.partial(build_lpips, "alex"),
    "lpips-vgg": functools.partial(build_lpips, "vgg"),
    "VGG19 conv5_4, as BasicSR": build_basicsr_vgg19,
    "VGG19 conv5_4, our loss": build_vgg19,
    "VGG19 conv5_4, our loss, cached targets": build_vgg19_cached,
}

# (arm, the arm it is compared with, measure, at most this ratio)
REQUIREMENTS = [
    ("default", "VGG19 conv5_4, as BasicSR", "seconds", 1 / 20),
    ("default", "VGG19 conv5_4, as BasicSR", "mebibytes", 1 / 8),
    ("default", "lpips-alex", "seconds", 1.0),
    ("VGG19 conv5_4, our loss", "VGG19 conv5_4, as BasicSR", "seconds", 1.0),
    ("VGG19 conv5_4, our loss, cached targets", "VGG19 conv5_4, as BasicSR", "seconds", 1 / 1.25),
]


@dataclasses.dataclass
class Cost:
    """One arm's figures: seconds a step, one for each measurement, and MiB."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    mebibytes: float = 0.0

    def value(self, measure: str) -> float:
        """Return the figure of that name, the median if there are several."""
        return statistics.median(self.seconds) if measure == "seconds" else self.mebibytes


def _random_backbone(name: str, layers: list[str] | None = None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return create_backbone(name, weights=None, layers=layers)


def _cached(loss: Any, target: Tensor) -> Loss:
    features = loss.features(target)
    return lambda pred, _: loss(pred, features)


def make_images(batch: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pred, target = (torch.rand(batch, 3, size, size, generator=generator) for _ in range(2))
    return pred.requires_grad_(), target


def step(loss: Loss, pred: Tensor, target: Tensor) -> float:
    """Run one step and return its seconds."""
    start = time.perf_counter()
    torch.autograd.grad(loss(pred, target), pred)
    return time.perf_counter() - start


def measure_times(batch: int, size: int, rounds: int) -> dict[str, Cost]:
    pred, target = make_images(batch, size)
    losses = {name: build(target) for name, build in ARMS.items()}
    # The first step of each plans its convolutions; it also tells which are quick enough to be repeated.
    repeats = {name: FAST_REPEATS if step(loss, pred, target) < FAST_SECONDS else 1 for name, loss in losses.items()}
    costs = {name: Cost() for name in ARMS}
    names = list(ARMS)
    for index in range(rounds):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            for _ in range(repeats[name]):
                costs[name].seconds.append(step(losses[name], pred, target))
        print(f"round {index + 1} of {rounds}", file=sys.stderr, flush=True)
    return costs


def measure_peak(name: str, batch: int, size: int) -> float:
    """Return the growth of this process's resident memory during two steps, in MiB."""
    pred, target = make_images(batch, size)
    loss = ARMS[name](target)
    gc.collect()
    baseline = reset_peak()
    for _ in range(2):
        step(loss, pred, target)
    return peak() - baseline


def measure_peaks(costs: dict[str, Cost], arguments: argparse.Namespace) -> None:
    for name, cost in costs.items():
        command = [sys.executable, __file__, "--peak-of", name]
        for option in ("batch", "size", "threads"):
            command += [f"--{option}", str(getattr(arguments, option))]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise RuntimeError(f"the memory of {name} could not be measured:\n{run.stderr}")
        cost.mebibytes = json.loads(run.stdout)


def as_table(costs: dict[str, Cost], arguments: argparse.Namespace) -> dict[str, Any]:
    rows = []
    for name, cost in costs.items():
        low, middle, high = statistics.quantiles(cost.seconds, n=4, method="inclusive")
        spread = f"{1e3 * low:.0f} - {1e3 * high:.0f}"
        rows.append([name, f"{1e3 * middle:.0f}", spread, f"{cost.mebibytes:.0f}"])
    return {
        "columns": ["loss", "ms a step, median", "quartiles", "peak memory, MiB"],
        "rows": rows,
        "caption": (
            f"Forward and backward to the prediction, {arguments.batch} x 3 x {arguments.size} x {arguments.size}, "
            "random weights throughout; memory beyond weights and images."
        ),
    }


def compare(costs: dict[str, Cost]) -> list[dict[str, Any]]:
    comparisons = []
    for arm, other, measure, limit in REQUIREMENTS:
        ratio = costs[arm].value(measure) / costs[other].value(measure)
        comparisons.append(
            {"arm": arm, "against": other, "measure": measure, "ratio": ratio, "limit": limit, "holds": ratio <= limit}
        )
    return comparisons


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "loss_cost.json")
    parser.add_argument("--peak-of", choices=ARMS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    # lpips announces on every import of torchvision's old names that they will go.
    warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
    if arguments.peak_of is not None:
        print(json.dumps(measure_peak(arguments.peak_of, arguments.batch, arguments.size)))
        return 0
    costs = measure_times(arguments.batch, arguments.size, arguments.rounds)
    gc.collect()
    measure_peaks(costs, arguments)
    table, comparisons = as_table(costs, arguments), compare(costs)
    write_result(
        arguments.out,
        {
            "table": table,
            "metadata": metadata(command_line()),
            "comparisons": comparisons,
            "measurements": {name: dataclasses.asdict(cost) for name, cost in costs.items()},
        },
    )
    print(markdown(table["columns"], table["rows"]))
    for row in comparisons:
        verdict = "holds" if row["holds"] else "DOES NOT HOLD"
        print(f"{row['arm']} / {row['against']}, {row['measure']}: {row['ratio']:.3f} <= {row['limit']:.3f} {verdict}")
    return 0 if all(row["holds"] for row in comparisons) else 1


if __name__ == "__main__":
    sys.exit(main())
