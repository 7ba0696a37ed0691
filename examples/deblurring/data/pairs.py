"""Pairs of a blurred and a sharp image: what they are called, and how they are read."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor
from torch.utils.data import Dataset

from examples.deblurring.data.files import named
from tafm_loss.images import read_pixels

__all__ = [
    "INCOMPLETE",
    "Pair",
    "PairDataset",
    "PairName",
    "PairSample",
    "PairedImages",
    "check_counts",
    "count_scenes",
]

# The advice where a published set is not all there, as Python and the commands understand it.
INCOMPLETE = "with complete=False (in a command: --dataset-options complete=False)"


class PairName(Protocol):
    """How a pair is called in tables and on disk.

    `scene` is what it shares with other pairs, such as the video it comes from: splits and intervals go by scenes.
    `name` is its own in the data set, and can be the name of a file. `sharp` is the file of the sharp image.
    """

    @property
    def scene(self) -> str: ...  # noqa: D102

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def sharp(self) -> Path: ...  # noqa: D102


class Pair(NamedTuple):
    """The two files of a pair, its scene and its name; see `PairName`."""

    blurred: Path
    sharp: Path
    scene: str
    name: str


class PairSample(NamedTuple):
    """The images of a pair: uint8 (3, H, W), RGB, of one size."""

    blurred: Tensor
    sharp: Tensor


class PairDataset(Dataset[PairSample]):
    """Pairs by index; `pairs` says how each is called.

    Args:
        pairs: in the order of the samples.

    Raises:
        ValueError: if there is none, or two are called the same.
    """

    def __init__(self, pairs: Sequence[PairName]) -> None:
        if not pairs:
            raise ValueError("there is no pair")
        counts = Counter(pair.name for pair in pairs)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ValueError(f"{len(twice)} names belong to more than one pair: {named(twice)}")
        self.pairs = pairs

    def leave_out(self, names: Collection[str]) -> None:
        """Do without the pairs of these names, be they there or not; the others keep their order."""
        self.pairs = [pair for pair in self.pairs if pair.name not in names]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> PairSample:
        """Return the images of one pair."""
        raise NotImplementedError


class PairedImages(PairDataset):
    """Pairs of image files. They are read, whole, when one is asked for.

    Raises:
        ValueError: for no pairs or equal names; on reading, if the images of a pair differ in size or cannot be read.
        FileNotFoundError: on reading, if a file is gone.
    """

    pairs: Sequence[Pair]

    def __init__(self, pairs: Sequence[Pair]) -> None:
        super().__init__(pairs)

    def __getitem__(self, index: int) -> PairSample:
        """Read the images of one pair."""
        pair = self.pairs[index]
        sample = PairSample(read_pixels(pair.blurred), read_pixels(pair.sharp))
        if sample.blurred.shape != sample.sharp.shape:
            (height, width), (other_height, other_width) = (image.shape[1:] for image in sample)
            raise ValueError(
                f"{pair.blurred} is {width} x {height} px and {pair.sharp} {other_width} x {other_height} px; "
                "the images of a pair must be of one size"
            )
        return sample


def count_scenes(pairs: Sequence[PairName]) -> dict[str, int]:
    """Return how many pairs each scene has, in the order of the pairs."""
    return dict(Counter(pair.scene for pair in pairs))


def check_counts(title: str, found: Mapping[str, int], expected: Mapping[str, int | None]) -> None:
    """Raise ValueError unless the scenes, and how many pairs each has, are those that were published.

    Args:
        title: what was read, and where.
        found: the number of pairs by scene.
        expected: the same, as published; None where that number is not known.
    """
    differences = [f"scene {scene} is missing" for scene in expected if scene not in found]
    differences += [
        f"scene {scene} has {found[scene]} pairs and not {count}"
        for scene, count in expected.items()
        if count is not None and found.get(scene, count) != count
    ]
    differences += [f"scene {scene} is none of the published ones" for scene in found if scene not in expected]
    if differences:
        raise ValueError(
            f"{title} is not the published set: {named(differences)}; restore it, or take what is there {INCOMPLETE}"
        )
