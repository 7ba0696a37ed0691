"""The same routine for other tasks than deblurring: backbones that go by noise, or by JPEG, instead of blur.

    python examples/task_adaptive.py

All that changes is the synthesizer: a function that returns graded versions of scenes. Aligned versions that differ in
one damage alone are ordered by any backbone. So here the images are blurred, noisy and compressed at once, and the
versions are graded in one of the three while the other two vary at random. The table has the share of triples (image,
less, more) of new scenes in which `more` is farther from the image than `less`. A few minutes on two processor cores.
"""

import argparse
import dataclasses
from itertools import pairwise

import torch
from torch import Tensor

from tafm_loss import Backbone, BlurSynthesizer, TaskAdaptiveFeatureLoss, create_backbone, finetune_backbone
from tafm_loss.distractors import jpeg
from tafm_loss.finetune import GradedObjective
from tafm_loss.scenes import generate_scenes

# From none to much: px of a shake, standard deviation in 8-bit levels, 100 - quality.
STRENGTHS = {"blur": (0.0, 2.0, 4.0, 8.0), "noise": (0.0, 5.0, 10.0, 20.0), "jpeg": (0.0, 50.0, 75.0, 90.0)}
BLUR = BlurSynthesizer(STRENGTHS["blur"])
UNSEEN_SCENES = 64


@dataclasses.dataclass(frozen=True)
class Graded:
    """A synthesizer that grades one damage, and draws the strengths of the others anew for every version.

    Args:
        task: "blur", "noise" or "jpeg".
    """

    task: str

    def __call__(self, sharp: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return versions (L, N, 3, H, W) of images (N, 3, H, W), themselves first, and their strengths (L, N)."""
        shape = len(STRENGTHS[self.task]), len(sharp)
        grades = {kind: torch.randint(len(STRENGTHS[kind]), shape, generator=generator) for kind in STRENGTHS}
        grades[self.task] = torch.arange(shape[0])[:, None].expand(shape)
        strengths = {kind: torch.tensor(STRENGTHS[kind])[grade] for kind, grade in grades.items()}
        shaken = BLUR(sharp.cpu(), generator=generator)
        versions = torch.stack([shaken[grade, torch.arange(len(sharp))] for grade in grades["blur"]])
        noise = torch.randn(versions.shape, generator=generator)
        versions = (versions + strengths["noise"][..., None, None, None] / 255 * noise).clamp(0, 1)
        versions = _compressed(versions.flatten(0, 1), strengths["jpeg"].flatten()).view_as(versions)
        return torch.cat([sharp[None], versions[1:].to(sharp)]), strengths[self.task]


def _compressed(images: Tensor, strengths: Tensor) -> Tensor:
    """Return images (N, 3, H, W) after JPEG of quality 100 - strength; 0 leaves an image as it is."""
    pairs = zip(images, strengths.tolist(), strict=True)
    return torch.cat([jpeg(image[None], 100 - int(strength)) if strength else image[None] for image, strength in pairs])


@torch.no_grad()
def ordered_share(backbone: Backbone, task: str, scenes: Tensor) -> float:
    """Return the share of triples (image, less, more), with neighbouring strengths, in their right order."""
    distance = TaskAdaptiveFeatureLoss(
        backbone, layers=list(backbone.config.taps), distance="normalized_l2", reduction="none"
    )
    levels, _ = Graded(task)(scenes, generator=torch.Generator().manual_seed(0))
    distances = [distance(level, scenes) for level in levels[1:]]
    return float(torch.cat([more > less for less, more in pairwise(distances)]).float().mean())


def main() -> None:
    """Adapt the bundled backbone, which goes by blur, to noise and to JPEG, and print what each one goes by."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000, help="for each task (default: %(default)s)")
    parser.add_argument("--scenes", type=int, default=200, help="to train on (default: %(default)s)")
    options = parser.parse_args()

    scenes = generate_scenes(options.scenes, 96, generator=torch.Generator().manual_seed(0))
    unseen = generate_scenes(UNSEEN_SCENES, 96, generator=torch.Generator().manual_seed(1))
    backbones = {"bundled": create_backbone("tafm-compact")}
    for task in ("noise", "jpeg"):
        backbones[f"adapted to {task}"] = finetune_backbone(
            backbones["bundled"],
            scenes,
            synthesizer=Graded(task),
            # The usual distractors hold noise and JPEG to be none of the task.
            objective=GradedObjective(distractors=False),
            steps=options.steps,
            crop_size=64,
        ).backbone
    print("ordered by".ljust(18), *(task.rjust(6) for task in STRENGTHS))
    for name, backbone in backbones.items():
        print(name.ljust(18), *(f"{ordered_share(backbone, task, unseen):6.0%}" for task in STRENGTHS))


if __name__ == "__main__":
    main()
