"""An arm's network judged at several prices in PSNR, each after the mask that its validation photographs choose."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from quality.data import Pairs
from quality.masks import Sharpened, Sharpening, chosen_masks, mean_psnr
from quality.measuring import Measures, Reference

CHOOSING = "choosing"
Restore = Callable[[nn.Module, Pairs], Tensor]


class Judged(NamedTuple):
    """Pairs to judge on, and the metrics that are taken of them: {metric: every so many-th photograph}."""

    pairs: Pairs
    metrics: Mapping[str, int]


class Judge:
    """Measures networks on held-out pairs.

    Args:
        choosing: what masks are chosen on.
        judged: {case: what is judged}.
        primary: the metric that chooses masks.
        measures: what takes the metrics.
        prices: dB that arms are brought below L1 as it is.
        restore: what a network makes of pairs, in [0, 1].
        device: where images are compared.
    """

    def __init__(
        self,
        choosing: Pairs,
        judged: Mapping[str, Judged],
        primary: str,
        measures: Measures,
        prices: Sequence[float],
        restore: Restore,
        device: torch.device,
    ) -> None:
        self.choosing, self.judged, self.primary, self.prices = choosing, judged, primary, prices
        self.restore = restore
        cases = {CHOOSING: choosing} | {case: each.pairs for case, each in judged.items()}
        self.pairs = cases
        self.references = {
            case: measures.against(pairs.batch(slice(None), device).sharp) for case, pairs in cases.items()
        }

    def levels(self, network: nn.Module) -> dict[str, float]:
        """Return {case: mean PSNR, dB} of the network that prices are taken from."""
        return {
            case: mean_psnr(self.restore(network, pairs), self.references[case].sharp)
            for case, pairs in self.pairs.items()
        }

    def __call__(self, network: nn.Module, levels: Mapping[str, float]) -> dict[str, Any]:
        """Return {"raw": {case: {metric: values}}, "masks": {price: mask}, "equal": {price: {case: {...}}}}.

        "raw" is the network as it is. "equal" is after the mask that was chosen, with the gain that brings the arm to
        the price on the very photographs; None where no gain does.
        """
        masks = self._chosen_masks(network, levels[CHOOSING])
        raw: dict[str, Any] = {}
        equal: dict[str, Any] = {str(price): {} for price in self.prices}
        for case, (pairs, metrics) in self.judged.items():
            restored, reference = self.restore(network, pairs), self.references[case]
            raw[case] = _measured(restored, reference, {"psnr": 1, self.primary: 1})
            for price, mask in masks.items():
                sharpened = mask and Sharpened(restored, reference.sharp, mask)
                gain = sharpened and sharpened.largest_gain(levels[case] - price)
                equal[str(price)][case] = (
                    None
                    if sharpened is None or gain is None
                    else {"gain": gain, **_measured(sharpened.at(gain), reference, metrics)}
                )
        shown = {str(price): mask and [mask.sigma, str(mask.floor), mask.gain] for price, mask in masks.items()}
        return {"raw": raw, "masks": shown, "equal": equal}

    def _chosen_masks(self, network: nn.Module, level: float) -> dict[float, Sharpening | None]:
        restored, reference = self.restore(network, self.choosing), self.references[CHOOSING]

        def distance(images: Tensor) -> Tensor:
            return reference.values(self.primary, images)

        levels = [level - price for price in self.prices]
        masks = chosen_masks(restored, reference.sharp, levels, distance)
        return dict(zip(self.prices, masks, strict=True))


def _measured(images: Tensor, reference: Reference, metrics: Mapping[str, int]) -> dict[str, list[float]]:
    return {
        name: [round(value, 6) for value in reference.values(name, images, every).tolist()]
        for name, every in metrics.items()
    }
