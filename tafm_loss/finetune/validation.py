"""The validation pass: what held-out scenes say while a backbone is tuned."""

import torch
from torch import Tensor

from tafm_loss.blur.synthesizer import BlurSynthesizer
from tafm_loss.finetune.grading import Grade, grade, scene_generators
from tafm_loss.finetune.triplets import SceneCrops
from tafm_loss.finetune.tuning import Tuning
from tafm_loss.report.figures import selectivity

__all__ = ["Validation"]

SCENES = 16
CHUNK = 4
SELECTIVITY_SCENES = 8
SELECTIVITY_EXTENTS = (3.0, 12.0)


class Validation:
    """The same graded crops of held-out scenes at every pass.

    Args:
        held_out: scenes that training does not see.
        synthesizer: what grades them.
        seed: of the crops, the blur and the distractors.
    """

    def __init__(self, held_out: SceneCrops, synthesizer: BlurSynthesizer | Grade, seed: int) -> None:
        count = max(2, min(SCENES, len(held_out)) // 2 * 2)
        drawn = held_out.draw(count, torch.Generator().manual_seed(seed))
        self.graded = grade(synthesizer, drawn, seed, count=count, part=slice(0, count))
        self.knows_blur = isinstance(synthesizer, BlurSynthesizer)
        self.seed = seed

    @torch.no_grad()
    def figures(self, tuning: Tuning, scales: Tensor, untuned_scales: Tensor) -> dict[str, float]:
        """Return the objective, the ordering accuracy and, for blur, the selectivities at 3 and 12 px, the lesser."""
        count = self.graded.levels.shape[1]
        modes = {module: module.training for module in tuning.modules()}
        tuning.eval()
        try:
            losses, accuracies = [], []
            for start in range(0, count, CHUNK):
                levels, extents = (part[:, start : start + CHUNK].to(scales.device) for part in self.graded)
                scenes = range(start, start + levels.shape[1])
                generators = scene_generators(self.seed, scenes, scales.device)
                output = tuning(levels, extents, generators, scales, untuned_scales)
                losses.append(len(scenes) * float(torch.stack([*output.terms.values()]).sum()))
                accuracies.append(len(scenes) * float(output.ordering_accuracy))
            figures = {
                "validation_loss": sum(losses) / count,
                "validation_ordering_accuracy": sum(accuracies) / count,
            }
            return figures | (self._selectivities(tuning, scales) if self.knows_blur else {})
        finally:
            for module, mode in modes.items():
                module.training = mode

    def _selectivities(self, tuning: Tuning, scales: Tensor) -> dict[str, float]:
        sharp = self.graded.levels[0, :SELECTIVITY_SCENES].to(scales.device)

        def distance(pred: Tensor, target: Tensor) -> Tensor:
            return tuning.distance(pred, target, scales)

        found = selectivity(distance, sharp, kinds=("shake",), extents=SELECTIVITY_EXTENTS, seed=self.seed)
        return {
            f"selectivity, {distractor}": float(kinds["shake"].median(dim=1).values.min())
            for distractor, kinds in found.items()
        }
