"""The tables of the page, made from what was measured."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from meter.images import CONDITIONS, SEEN
from meter.measuring import LEAST_COVERED, LEAST_ORDERED, OURS, Arms, ordered

Table = dict[str, Any]
NOT_MEASURED = ""


def verdict_table(arms: Arms, verdict: Mapping[str, Any], images: Mapping[str, int]) -> Table:
    """Return a row for each demand of the verdict."""
    rows = []
    for name, found in verdict["conditions"].items():
        best = {group: found[group] for group in ("best_control", "best_classical")}
        margins = [f"{arm}: {_margin(found['margins'][arm])}" for arm in best.values()]
        ours = arms[OURS]["conditions"][name]
        met = found["higher"] and found["covered"]
        rows.append([name, f"{ours['rank']:.3f}", *margins, f"{ours['covered']:.0%}", "yes" if met else "no"])
    return {
        "columns": [
            "not learned from",
            "rank correlation",
            "margin over the best of all controls",
            "margin over the best classical control",
            "covered",
            "demand met",
        ],
        "rows": rows,
        "caption": f"{images['judged']} photographs of BSDS500 test. Margins of the rank correlation, with 95 % "
        f"intervals by the bootstrap over photographs. The demand: a margin over all controls whose interval is above "
        f"0, and {LEAST_COVERED:.0%} covered by the 90 % interval. The third demand is {LEAST_ORDERED:.0%} of the real "
        f"pairs in order: {verdict['ordered']:.0%} of {images['pairs']} are.",
    }


def _margin(margin: Sequence[float]) -> str:
    middle, low, high = margin
    return f"{middle:+.3f} ({low:+.3f} to {high:+.3f})"


def ranks_table(arms: Arms) -> Table:
    """Return rank correlations: a row for each condition, a column for each arm."""
    rows = [[_described(name), *(_rank(arm, name) for arm in arms.values())] for name in CONDITIONS]
    scenes = list(dict.fromkeys(pair["scene"].split(",")[0] for pair in arms[OURS]["pairs"]))
    for scene in scenes:
        own = [[pair for pair in arm["pairs"] if pair["scene"].startswith(scene)] for arm in arms.values()]
        rows.append([f"{scene}: pairs in order, of {len(own[0])}", *(f"{ordered(pairs):.0%}" for pairs in own)])
        rows.append([f"{scene}: read of blurred / sharp, px", *(_medians(pairs) for pairs in own)])
    for name in arms[OURS]["photographs"]:
        rows.append([f"{name}: read, px", *(_interval(arm["photographs"][name]) for arm in arms.values())])
    return {
        "columns": ["images", *arms],
        "rows": rows,
        "caption": "Spearman's correlation of the extent that is read with the true one, over photographs of BSDS500 "
        "test; in brackets what of it was not learned from. All arms learn from shake with a sensor's noise, by the "
        "same regression: networks from two numbers a channel, the others from one to five a window. Of pairs, the "
        "medians are given; of single photographs, which have no sharp original, the 90 % interval. SqueezeNet, which "
        "takes long, was asked for the conditions of the verdict alone.",
    }


def _described(name: str) -> str:
    group = CONDITIONS[name].group
    return name if name == SEEN else f"{name} ({group})"


def _rank(arm: Mapping[str, Any], name: str) -> str:
    return f"{arm['conditions'][name]['rank']:.3f}" if name in arm["conditions"] else NOT_MEASURED


def _interval(reading: Sequence[float]) -> str:
    low, middle, high = reading
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def _medians(pairs: Sequence[Mapping[str, float]]) -> str:
    return " / ".join(f"{statistics.median(pair[side] for pair in pairs):.1f}" for side in ("blurred", "sharp"))


def errors_table(arms: Arms, compared: str) -> Table:
    """Return errors and calibration of ours, and the same of one control in short."""
    rows = []
    for name in CONDITIONS:
        ours, other = (arms[arm]["conditions"][name] for arm in (OURS, compared))
        rows.append(
            [
                _described(name),
                f"{ours['error_px']:.1f}",
                f"{ours['error_octaves']:.2f}",
                f"{ours['bias_octaves']:+.2f}",
                f"{ours['covered']:.0%}",
                f"{ours['factor']:.1f}",
                f"{other['error_px']:.1f}",
                f"{other['error_octaves']:.2f}",
                f"{other['covered']:.0%}",
                f"{other['factor']:.1f}",
            ]
        )
    figures = ["error, px", "error, octaves", "bias, octaves", "covered", "interval, factor"]
    return {
        "columns": ["images", *figures, *(f"{figure} ({compared})" for figure in figures if "bias" not in figure)],
        "rows": rows,
        "caption": "The same photographs. Errors are means. Octaves are of 1 px + extent: an error of 1 is twice "
        "too much, or half. Covered: by the 90 % interval, calibrated on shake of other photographs. Factor: of the "
        "interval's upper end over its middle, in 1 px + extent; the median.",
    }
