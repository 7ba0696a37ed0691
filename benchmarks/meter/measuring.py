"""How good readings are: ranks, errors, coverage, the order of real pairs; and the verdict on all of it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata
from torch import Tensor

from meter.regression import Readings

OURS = "tafm-compact"
CLASSICAL = (
    "variance of Laplacian",
    "variance of Laplacian, whole image",
    "Tenengrad",
    "spectral slope",
    "these three",
)
# What the verdict asks of, and how much.
VERDICT_CONDITIONS = ("linear", "defocus", "strong noise", "correlated noise")
LEAST_COVERED, LEAST_ORDERED = 0.8, 0.9
RESAMPLES = 2000

Arms = Mapping[str, Any]


def figures(read: Readings, extents: Tensor, reach: float) -> dict[str, Any]:
    """Return what is published of one arm's readings (N,) of images of known extents (N,)."""
    errors = read.values - extents.log1p()
    return {
        "rank": spearman(read.values.numpy(), extents.numpy()),
        "error_px": float((read.values.expm1().clamp(min=0) - extents).abs().mean()),
        "error_octaves": float(errors.abs().mean()) / math.log(2),
        "bias_octaves": float(errors.mean()) / math.log(2),
        "covered": float((errors.abs() <= reach * read.spreads).float().mean()),
        "factor": float((reach * read.spreads).median().exp()),
        "read": [round(value, 3) for value in read.values.expm1().clamp(min=0).tolist()],
        "extents": [round(value, 3) for value in extents.tolist()],
    }


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return the rank correlation of values (K,) each."""
    return float(_spearman(np.asarray(a)[None], np.asarray(b)[None])[0])


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the rank correlations (R,) of values (R, K)."""
    ranks = [rankdata(values, axis=1) for values in (a, b)]
    ranks = [rank - rank.mean(1, keepdims=True) for rank in ranks]
    lengths = [np.linalg.norm(rank, axis=1) for rank in ranks]
    return (ranks[0] * ranks[1]).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-12)


def margin(ours: Mapping[str, Any], other: Mapping[str, Any], seed: int = 0) -> list[float]:
    """Return by how much our rank correlation is higher, and its 95 % interval by the bootstrap over photographs."""
    extents, mine, theirs = (np.array(each) for each in (ours["extents"], ours["read"], other["read"]))
    some = np.random.default_rng(seed).integers(len(extents), size=(RESAMPLES, len(extents)))
    gaps = _spearman(mine[some], extents[some]) - _spearman(theirs[some], extents[some])
    low, high = np.quantile(gaps, (0.025, 0.975))
    return [ours["rank"] - other["rank"], float(low), float(high)]


def ordered(pairs: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of pairs whose blurred image is read as the more blurred."""
    return sum(pair["blurred"] > pair["sharp"] for pair in pairs) / len(pairs)


def verdict(arms: Arms) -> dict[str, Any]:
    """Return whether the meter enters the public API by the rule of blur_meter.py, and by how much it does not."""
    conditions = {name: _demanded(arms, name) for name in VERDICT_CONDITIONS}
    share = ordered(arms[OURS]["pairs"])
    met = all(found["higher"] and found["covered"] for found in conditions.values())
    return {"conditions": conditions, "ordered": share, "passes": met and share >= LEAST_ORDERED}


def _demanded(arms: Arms, condition: str) -> dict[str, Any]:
    found = {arm: figures["conditions"][condition] for arm, figures in arms.items()}
    ours = found.pop(OURS)

    def best(names: Iterable[str]) -> str:
        return max(names, key=lambda arm: float(found[arm]["rank"]))

    margins = {arm: margin(ours, other) for arm, other in found.items()}
    control = best(found)
    return {
        "best_control": control,
        "best_classical": best(CLASSICAL),
        "margins": margins,
        "higher": margins[control][1] > 0,
        "covered": ours["covered"] >= LEAST_COVERED,
    }


def without_photographs(arms: Arms) -> dict[str, Any]:
    """Return what is published: of controls, only the figures over all photographs."""
    kept = {}
    for arm, found in arms.items():
        conditions = {
            name: {key: value for key, value in figures.items() if arm == OURS or key not in ("read", "extents")}
            for name, figures in found["conditions"].items()
        }
        kept[arm] = {**found, "conditions": conditions}
    return kept
