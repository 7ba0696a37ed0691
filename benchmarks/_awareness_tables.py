"""The tables of blur_awareness.json and blur_awareness_residuals.json, and what their picture shares with them."""

from collections.abc import Iterable, Mapping
from typing import Any

from _residuals import BANDS, DETAIL, DISTRACTORS, MASK, MORE_BLUR, NOISE, SCRAMBLED, STEP_SIZES, WIDE_MASK

Figures = Mapping[str, Any]

SHOWN_EXTENTS = ("3", "6", "12", "24")
SHOWN_STEPS = (MASK, WIDE_MASK, MORE_BLUR, SCRAMBLED, NOISE)


def least_selectivities(figures: Figures, distractor: str) -> dict[str, float]:
    """Return the least median over shake, linear and defocus blur, by extent."""
    kinds = figures["selectivity"][distractor].values()
    return {extent: min(kind[extent]["median"] for kind in kinds) for extent in SHOWN_EXTENTS}


def rewards(figures: Figures, size: float) -> dict[str, float]:
    """Return by step what it takes off the distance, over what a step of its size to the sharp image takes off."""
    falls = {name: figures["falls"][f"{name}, {size:g}"]["median"] for name in (*SHOWN_STEPS, DETAIL)}
    return {name: falls[name] / falls[DETAIL] for name in SHOWN_STEPS}


def awareness_table(arms: Mapping[str, Figures], caption: str) -> dict[str, Any]:
    """Return a row a judge: selectivity and health on clean blur."""
    selectivities = [f"selectivity, {distractor}" for distractor in DISTRACTORS]
    ratios = ["mirrored", "grey", "other", "shift"]
    rows = [
        [
            name,
            *(_slashed(least_selectivities(f, distractor).values(), "{:.1f}") for distractor in DISTRACTORS),
            f"{f['recovery_before_db']:.1f} → {f['recovery_after_db']:.1f}",
            f"{f['gradient_peak']:.1f}",
            *(f"{f[ratio]['median']:.2f}" for ratio in ratios),
            f"{min(f['response_slopes']):.2f}",
            f"{100 * f['ordered_share']:.0f} %",
        ]
        for name, f in arms.items()
    ]
    columns = ["judge", *selectivities, "recovery, dB", "Nyquist peak", *ratios, "least slope", "ordered"]
    return {"columns": columns, "rows": rows, "caption": caption}


def residuals_table(arms: Mapping[str, Figures], caption: str) -> dict[str, Any]:
    """Return a row a judge: selectivity, rewards and the gradient on residuals."""
    small, large = STEP_SIZES
    rows = [
        [
            name,
            *(f"{f['selectivity'][distractor]['median']:.2f}" for distractor in DISTRACTORS),
            *(f"{reward:+.2f}" for reward in rewards(f, small).values()),
            _slashed((rewards(f, large)[step] for step in (MASK, NOISE)), "{:+.2f}"),
            f"{f['cosines']['all']['median']:.2f}",
            *(_slashed((f[key][band]["median"] for band in BANDS), "{:.2f}") for key in ("cosines", "energy")),
        ]
        for name, f in arms.items()
    ]
    selectivities = [f"selectivity, {distractor}" for distractor in DISTRACTORS]
    steps = [f"reward, {step}" for step in SHOWN_STEPS]
    columns = ["judge", *selectivities, *steps, "long: mask / noise", "cosine", "by band", "gradient's energy"]
    return {"columns": columns, "rows": rows, "caption": caption}


def _slashed(values: Iterable[float], form: str) -> str:
    return " / ".join(form.format(value) for value in values)
