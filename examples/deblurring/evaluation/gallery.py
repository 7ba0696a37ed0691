"""Crops of results side by side."""

from collections.abc import Mapping

import torch
from torch import Tensor

from examples.deblurring.data.pairs import PairSample
from examples.deblurring.evaluation.methods import open_method
from examples.deblurring.evaluation.pictures import CROP_SIZE, Example, as_pixels, choose, make_example
from examples.deblurring.evaluation.results import Result, open_data
from tafm_loss.images import read_pixels

__all__ = ["PLACE", "SAVED_IMAGES", "make_gallery"]

SAVED_IMAGES = "images"
PLACE = (
    f"Crops of {CROP_SIZE} px, twice enlarged without interpolation, are at the place where the input's squared error "
    "is largest."
)


def make_gallery(
    results: Mapping[str, Result], values: Tensor, device: torch.device, *, quantity: str = "gain"
) -> list[Example]:
    """Return crops of the images with the greatest, the median and the least of some values, of all methods.

    Restored images that were saved are read; others are restored once more.

    Args:
        results: by label, on the same images; those of the input are left out, for it is shown in any case.
        values: what the images are chosen by, in the order of the first result's rows.
        device: where images are restored.
        quantity: what the values are of, in a word.

    Raises:
        OSError: if data or weights are gone.
        ValueError: if they have changed.
    """
    first = next(iter(results.values()))
    chosen = {first.rows.names[index]: which for index, which in choose(values, quantity).items()}
    samples = _read(first, list(chosen))
    restored = {
        label: _restored(result, samples, device)
        for label, result in results.items()
        if result.settings.network is not None
    }
    return [
        make_example(
            f"{name}: {which}",
            samples[name].blurred,
            {label: images[name] for label, images in restored.items()},
            samples[name].sharp,
        )
        for name, which in chosen.items()
    ]


def _read(result: Result, names: list[str]) -> dict[str, PairSample]:
    pairs = open_data(result.settings)
    index_of = {pair.name: index for index, pair in enumerate(pairs.pairs)}
    if gone := [name for name in names if name not in index_of]:
        raise ValueError(f"{result.settings.root} has no image {gone[0]} any more: evaluate it anew")
    return {name: pairs[index_of[name]] for name in names}


def _restored(result: Result, samples: Mapping[str, PairSample], device: torch.device) -> dict[str, Tensor]:
    files = {name: result.folder / SAVED_IMAGES / f"{name}.png" for name in samples}
    if all(file.is_file() for file in files.values()):
        return {name: read_pixels(file) for name, file in files.items()}
    method = open_method(result.settings.network, device)
    return {name: as_pixels(method(sample.blurred.to(device) / 255)) for name, sample in samples.items()}
