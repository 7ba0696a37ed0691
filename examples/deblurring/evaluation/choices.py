"""Two methods that people choose between without knowing which is which: the page, its key, and what was chosen."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats
from torch import Tensor

from examples.deblurring.data.files import images_below, named
from examples.deblurring.evaluation.choices_page import render_choices
from examples.deblurring.evaluation.page import Panel, crop_place
from examples.deblurring.evaluation.statistics import CONFIDENCE
from examples.deblurring.evaluation.tables import Cell, Table
from tafm_loss.images import read_pixels

__all__ = ["SHARP", "Study", "count_choices", "make_study", "read_images"]

SHARP = "sharp"
SIDES = ("left", "right")


class Study(NamedTuple):
    """A page for people, and the key (as JSON has it) that says what they chose between."""

    page: str
    key: dict[str, Any]


def read_images(folders: Mapping[str, Path]) -> dict[str, dict[str, Tensor]]:
    """Return {name: {label: pixels (3, H, W) in uint8}} of folders of the same images, in natural order.

    Args:
        folders: by the label of what is in them.

    Raises:
        NotADirectoryError: if a folder is missing.
        ValueError: if an image is not in all folders, or differs in size.
    """
    files = {label: images_below(folder) for label, folder in folders.items()}
    first, names = next(iter(files.items()))
    for label, there in files.items():
        if different := sorted(names.keys() ^ there.keys()):
            raise ValueError(
                f"all folders must hold images of the same names; only one of {folders[first]} and {folders[label]} "
                f"holds {named(different)}"
            )
    images = {name: {label: read_pixels(there[name]) for label, there in files.items()} for name in names}
    for name, versions in images.items():
        if len(sizes := {tuple(pixels.shape[1:]) for pixels in versions.values()}) > 1:
            raise ValueError(f"the versions of {name} differ in size: {sorted(sizes)}; restore it anew")
    return images


def make_study(images: Mapping[str, Mapping[str, Tensor]], *, seed: int, with_sharp: bool = True) -> Study:
    """Return a page that asks, of each image, which of two versions is better.

    Order and sides are random; each method is on the left as often as on the right, or once more. Crops are where the
    two versions differ most.

    Args:
        images: {name: {label: pixels}} of two methods, and of `SHARP`.
        seed: of order and sides.
        with_sharp: whether the sharp image is shown between the two.

    Raises:
        ValueError: unless there are two methods beside `SHARP`.
    """
    labels = [label for label in next(iter(images.values())) if label != SHARP]
    if len(labels) != 2:
        raise ValueError(f"people choose between two methods, got {len(labels)}: {named(labels)}")
    draw = random.Random(seed)
    order = list(images)
    draw.shuffle(order)
    first_left = [index % 2 == 0 for index in range(len(order))]
    draw.shuffle(first_left)
    trials = []
    shown = []
    for name, straight in zip(order, first_left, strict=True):
        sides = dict(zip(SIDES, labels if straight else reversed(labels), strict=True))
        place = crop_place(*(images[name][label] for label in labels))
        left, right = (Panel(side, images[name][label][place], "") for side, label in sides.items())
        middle = [Panel(SHARP, images[name][SHARP][place], "")] if with_sharp else []
        shown.append([left, *middle, right])
        trials.append({"image": name, **sides})
    study = hashlib.sha256(json.dumps([trials, with_sharp]).encode())
    for panels in shown:
        for panel in panels:
            study.update(panel.pixels.numpy().tobytes())
    identity = study.hexdigest()[:12]
    key = {"study": identity, "seed": seed, "methods": labels, "trials": trials}
    return Study(render_choices(identity, shown), key)


def count_choices(key: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> Table:
    """Return how often the second method of a study was chosen: the share, an exact interval and an exact test.

    Args:
        key: of the study.
        answers: what the page has saved, one file a person.

    Raises:
        ValueError: if answers are of another study, no answers, or of one person twice.
    """
    if not isinstance(key, dict) or not {"study", "methods", "trials"} <= key.keys():
        raise ValueError("the key must be the file that was made with the page, with study, methods and trials")
    first, second = key["methods"]
    people: dict[str, list[str | None]] = {}
    for number, file in enumerate(answers, start=1):
        chosen = _labels(key, file, f"answers {number}")
        if file["person"] in people:
            raise ValueError(f"answers {number} are of a person whose answers are there already: leave one file out")
        people[file["person"]] = chosen
    votes = [Counter(filter(None, of_image)) for of_image in zip(*people.values(), strict=True)]
    total = sum(votes, Counter())
    if not total:
        raise ValueError("there is no answer yet")
    rows = [_row("all answers", total, second)]
    notes = [
        f"Share: of {second}, chosen over {first}. Interval: {CONFIDENCE:.0%}, Clopper-Pearson. p: exact binomial test "
        "against one half, two-sided.",
        f"{len(people) * len(votes) - total.total()} of {len(people) * len(votes)} questions were not answered.",
    ]
    if len(people) > 1:
        majorities = Counter(
            first if vote[first] > vote[second] else second for vote in votes if vote[first] != vote[second]
        )
        rows.append(_row("images, by majority", majorities, second))
        rows += [
            _row(f"person {number}", Counter(filter(None, each)), second)
            for number, each in enumerate(people.values(), 1)
        ]
        notes.append(
            "Answers of several people about one image are not independent, so the interval of all answers is too "
            "narrow. The row of images counts each image once, and leaves out those with as many answers for each."
        )
    head = ["", "answers", f"for {second}", "share", "interval", "p"]
    return Table(f"{second} against {first}", head, rows, notes)


def _labels(key: Mapping[str, Any], file: Mapping[str, Any], what: str) -> list[str | None]:
    """Return the method that was chosen in each trial, None where there is no answer."""
    if not isinstance(file, dict) or not {"study", "person", "answers"} <= file.keys():
        raise ValueError(f"{what} must be a file that the page has saved, with study, person and answers")
    if file["study"] != key["study"]:
        raise ValueError(f"{what} are of the study {file['study']}, and the key is of {key['study']}: give its own key")
    sides, trials = file["answers"], key["trials"]
    if not isinstance(sides, list) or len(sides) != len(trials) or not {*sides} <= {*SIDES, None}:
        raise ValueError(f"{what} must hold left, right or null for each of {len(trials)} trials: save them anew")
    return [side and trial[side] for side, trial in zip(sides, trials, strict=True)]


def _row(title: str, votes: Counter[str], second: str) -> list[Cell]:
    count, total = votes[second], votes.total()
    if not total:
        return [Cell(title), Cell("0"), *[Cell("-")] * 4]
    test = stats.binomtest(count, total)
    low, high = test.proportion_ci(CONFIDENCE, method="exact")
    share = [f"{count / total:.3f}", f"{low:.3f} to {high:.3f}", f"{test.pvalue:.4f}"]
    return [Cell(text) for text in (title, str(total), str(count), *share)]
