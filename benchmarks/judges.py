"""How well the bundled backbone tells blur from other changes, and whether its gradient can be trusted.

Runs `tafm_loss.finetune.report.measure` for the bundled backbone, an untuned SqueezeNet 1.0 (ImageNet), the mean
squared error, and the same after 8 x 8 averaging, on photographs and on generated scenes that no training saw.
Writes results/selectivity.json and results/health.json after every arm and skips the arms that are there:

    python benchmarks/judges.py --photographs DIR --squeezenet FILE.safetensors [--again ARM]
"""

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _common import RESULTS, metadata, write_result
from _photographs import central_crops
from torch import Tensor
from tqdm import tqdm

from tafm_loss import TaskAdaptiveFeatureLoss, create_backbone
from tafm_loss.finetune.report import RESPONSE_EXTENTS, SELECTIVITY_EXTENTS, measure, measure_units, response
from tafm_loss.scenes import generate_scenes

SIZE = 160
SCENES = 60
SCENE_SEED = 2**40
COMMAND = "python benchmarks/judges.py --photographs BSDS500/test --squeezenet squeezenet1_0-imagenet.safetensors"
SQUEEZENET_TAPS = ("relu1", "fire3", "fire5", "fire9")

Distance = Callable[[Tensor, Tensor], Tensor]


def untuned_squeezenet(weights: Path) -> Distance:
    """Return the default loss over an ImageNet SqueezeNet, every tap in the unit of a 10 px shake as ours is."""
    import dataclasses

    backbone = create_backbone("squeezenet1_0", weights=weights, layers=SQUEEZENET_TAPS)
    units = measure_units(backbone, generate_scenes(32, SIZE, generator=torch.Generator().manual_seed(SCENE_SEED + 1)))
    backbone.config = dataclasses.replace(backbone.config, units=units)
    return TaskAdaptiveFeatureLoss(backbone, reduction="none")


def squared_error(pred: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of each image."""
    return (pred - target).square().mean(dim=(1, 2, 3))


def pooled_squared_error(pred: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of each image after averaging 8 x 8 px."""
    return squared_error(F.avg_pool2d(pred, 8), F.avg_pool2d(target, 8))


def selectivity_table(arms: dict[str, Any]) -> dict[str, Any]:
    """Return the least median over shake, linear and defocus blur, per arm, distractor and extent."""
    rows = []
    for name, figures in arms.items():
        for distractor, kinds in figures["photographs"]["selectivity"].items():
            least = [min(kinds[kind][f"{extent:g}"]["median"] for kind in kinds) for extent in SELECTIVITY_EXTENTS]
            rows.append([f"{name}, {distractor}", *(f"{value:.2f}" for value in least)])
    count = next(iter(arms.values()))["photographs"]["images"]
    return {
        "columns": ["judge, distractor", *(f"{extent:g} px" for extent in SELECTIVITY_EXTENTS)],
        "rows": rows,
        "caption": "Selectivity: the mean squared error of a distractor that is as far as blur, over that of the blur. "
        f"Median over {count} photographs (BSDS500 test, central {SIZE} px square), the least of shake, linear and "
        f"defocus blur.{_provenance(arms)}",
    }


def health_table(arms: dict[str, Any]) -> dict[str, Any]:
    """Return the health figures, photographs beside generated scenes."""
    rows = []
    for name, figures in arms.items():
        for where in ("photographs", "scenes"):
            f = figures[where]
            rows.append(
                [
                    f"{name}, {where}",
                    f"{f['recovery_before_db']:.1f} → {f['recovery_after_db']:.1f}",
                    f"{f['gradient_peak']:.1f}",
                    *(_range(f[key]) for key in ("mirrored", "grey", "other", "shift")),
                    f"{min(f['response_slopes']):.2f}",
                    f"{100 * f['ordered_share']:.1f} %",
                    f"{max(decile_ratios(figures).values()):.1f}" if where == "photographs" else "",
                ]
            )
    extents = f"{RESPONSE_EXTENTS[0]:g} to {RESPONSE_EXTENTS[-1]:g} px"
    return {
        "columns": [
            "judge, images",
            "recovery, dB",
            "Nyquist peak",
            "mirrored",
            "grey",
            "other",
            "shift",
            "least slope",
            "ordered",
            "worst decile",
        ],
        "rows": rows,
        "caption": "Health. Recovery: pixels optimised from a 6 px shake by the judge alone, PSNR before and after. "
        "Nyquist peak: of the gradient's power, over its mean. Mirrored: a 3 px shake's error with its sign turned, "
        "over the shake. Grey: the image without colour, over a 3 px shake. Other: another image, over a 24 px shake. "
        "Shift: by 1 px, over a 3 px shake. Each the median over images, in brackets 10th and 90th percentile. Least "
        f"slope: of log response over log extent between neighbours, {extents}; ordered: images whose response only "
        "grows. Worst decile: the largest factor, over all figures that an image has of its own, selectivity included, "
        "by which the worst decile of photographs is worse than the median scene."
        f"{_unit_sentence(arms)}{_provenance(arms)}",
    }


def _provenance(arms: dict[str, Any]) -> str:
    """Return at which commit each arm was measured, since arms are kept from earlier runs."""
    commits = {name: figures.get("metadata", {}).get("commit", "") for name, figures in arms.items()}
    parts = [f"{name} {commit[:8] or 'not recorded'}" for name, commit in commits.items()]
    return f" Measured at: {', '.join(parts)}."


def _range(spread: dict[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['p10']:.2f}-{spread['p90']:.2f})"


def _unit_sentence(arms: dict[str, Any]) -> str:
    mean = arms.get("tafm-compact", {}).get("ten_px_shake_of_photographs")
    return "" if mean is None else f" A 10 px shake of the photographs costs {mean:.2f} by tafm-compact, on average."


def decile_ratios(figures: dict[str, Any]) -> dict[str, float]:
    """Return by what factor the worst decile of photographs is worse than the median of generated scenes."""

    def factor(photographs: dict[str, float], scenes: dict[str, float]) -> float:
        return round(scenes["median"] / max(photographs["p10"], 1e-9), 2)

    here, there = figures["photographs"], figures["scenes"]
    ratios = {name: factor(here[name], there[name]) for name in ("grey", "other")}
    mirrored = here["mirrored"]
    ratios["mirrored"] = round(max(mirrored["p90"], 1 / mirrored["p10"]) / max(there["mirrored"]["median"], 1), 2)
    for distractor, kinds in here["selectivity"].items():
        for extent in next(iter(kinds.values())):
            matching = there["selectivity"][distractor]
            ratios[f"{distractor}, {extent} px"] = max(
                factor(kinds[kind][extent], matching[kind][extent]) for kind in kinds
            )
    return ratios


def write_tables(path: Path, arms: dict[str, Any], *, order: Iterable[str]) -> None:
    """Write both result files, arms in `order`; the metadata is that of the last arm that has its own."""
    arms = {name: arms[name] for name in order if name in arms}
    measured = [figures["metadata"] for figures in arms.values() if "metadata" in figures]
    facts = measured[-1] if measured else metadata(COMMAND)
    write_result(path, {"table": health_table(arms), "metadata": facts, "arms": arms})
    write_result(RESULTS / "selectivity.json", {"table": selectivity_table(arms), "metadata": facts})


def main() -> None:
    """Measure what is not measured yet, and write both result files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, required=True, help="a folder of photographs (BSDS500 test)")
    parser.add_argument(
        "--squeezenet", type=Path, required=True, help="ImageNet weights for torchvision's squeezenet1_0"
    )
    parser.add_argument("--again", action="append", default=[], help="an arm to measure again")
    options = parser.parse_args()
    judges: dict[str, Callable[[], Distance]] = {
        "MSE": lambda: squared_error,
        "MSE of 8 x 8 means": lambda: pooled_squared_error,
        "SqueezeNet untuned": lambda: untuned_squeezenet(options.squeezenet),
        "tafm-compact": lambda: TaskAdaptiveFeatureLoss(reduction="none"),
    }
    images = {
        "photographs": central_crops(options.photographs, SIZE),
        "scenes": generate_scenes(SCENES, SIZE, generator=torch.Generator().manual_seed(SCENE_SEED)),
    }
    path = RESULTS / "health.json"
    known = json.loads(path.read_text())["arms"] if path.exists() else {}
    arms = {name: known[name] for name in judges if name in known and name not in options.again}
    if "tafm-compact" in arms and arms["tafm-compact"]["judge"] != repr(judges["tafm-compact"]()):
        del arms["tafm-compact"]
    for name in tqdm([name for name in judges if name not in arms], desc="judges"):
        judge = judges[name]()
        arms[name] = {where: measure(judge, batch, recovered_images=12) for where, batch in images.items()}
        arms[name]["worst_decile_factors"] = decile_ratios(arms[name])
        arms[name]["ten_px_shake_of_photographs"] = float(
            response(judge, images["photographs"], extents=(10.0,)).mean()
        )
        arms[name]["metadata"] = metadata(COMMAND)
        arms[name]["judge"] = repr(judge)
        write_tables(path, arms, order=judges)
    write_tables(path, arms, order=judges)


if __name__ == "__main__":
    main()
