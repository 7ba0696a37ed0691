"""Makes the bundled backbone `tafm-compact`: tunes it from random weights on generated scenes, no photograph involved.

    python examples/train_compact.py OUT_DIR
    python examples/train_compact.py OUT_DIR --describe

The run can be interrupted and started again. OUT_DIR then holds model.safetensors, which the wheel ships as
tafm_loss/backbones/assets/tafm-compact.safetensors; `--install` copies it there. Its SHA-256 belongs into the registry.
The same machine, versions and number of threads give the same file. `--describe` trains nothing: it takes the weights
in the package, and writes what their config says of them anew. Units that it holds already stay.

The weights in the package were made by this script at commit 88b1b6c, and described later. The objective has changed
since; what it makes now is the row "generated scenes" of benchmarks/results/finetuning_compact.json, which did no
better as a loss (tuned_losses.json), so that the weights stayed as they are.
"""

import argparse
import dataclasses
import shutil
import warnings
from pathlib import Path

import torch
from torch import Tensor

import tafm_loss.backbones
from tafm_loss import Backbone, create_backbone, save_backbone
from tafm_loss.finetune import finetune_backbone
from tafm_loss.report import measure_units
from tafm_loss.scenes import generate_scenes

SCENES = 800
SCENE_SIZE = 192
VALIDATION_SCENES = 48
STEPS = 1000
BATCH_SIZE = 6
# The form that beat L1 with an unsharp mask at the same PSNR, by MDSI and ST-LPIPS: results/deblurring_contrasts.json.
RECOMMENDED_LAYERS = {"stage1": 1.0}
RECOMMENDED_DISTANCE = "structure"
ASSET = Path(tafm_loss.backbones.__file__).parent / "assets" / "tafm-compact.safetensors"


def main() -> None:
    """Train, or take the weights in the package; measure, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--describe", action="store_true", help="train nothing: describe the weights in the package")
    parser.add_argument("--install", action="store_true", help="put the result into the package")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    validation = generate_scenes(VALIDATION_SCENES, SCENE_SIZE, generator=torch.Generator().manual_seed(1))
    made = create_backbone("tafm-compact") if options.describe else train(options.steps, validation, options.out_dir)
    made = described(made, validation)
    save_backbone(made, options.out_dir)
    print(f"sha256 {made.sha256}")
    if options.install:
        shutil.copyfile(options.out_dir / "model.safetensors", ASSET)
        print(f"installed as {ASSET}; put the sha256 into tafm_loss/backbones/registry.py")


def train(steps: int, validation: Tensor, out_dir: Path) -> Backbone:
    """Return the backbone, tuned from random weights."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        start = create_backbone("tafm-compact", weights=None)
    scenes = generate_scenes(SCENES, SCENE_SIZE, generator=torch.Generator().manual_seed(0))
    return finetune_backbone(
        start,
        scenes,
        steps=steps,
        batch_size=BATCH_SIZE,
        validation=validation,
        out_dir=out_dir,
        resume=True,
    ).backbone


def described(backbone: Backbone, validation: Tensor) -> Backbone:
    """Put into its config what the backbone is, the recommended form, and the units that are not there."""
    measured = measure_units(backbone, validation)
    # Rounded, so that every machine writes the same.
    rounded = {name: {tap: float(f"{unit:.4g}") for tap, unit in units.items()} for name, units in measured.items()}
    backbone.config = dataclasses.replace(
        backbone.config,
        name="tafm-compact",
        licence="Apache-2.0",
        base_weights="none: tuned from random weights",
        training_data=f"{SCENES} generated scenes (tafm_loss.scenes), no photograph",
        recipe="python examples/train_compact.py OUT_DIR --install; units are means over its "
        f"{VALIDATION_SCENES} validation scenes",
        recommended_layers=RECOMMENDED_LAYERS,
        recommended_distance=RECOMMENDED_DISTANCE,
        units=rounded | dict(backbone.config.units),
    )
    return backbone


if __name__ == "__main__":
    main()
