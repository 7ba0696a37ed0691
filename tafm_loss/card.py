"""The model card: what README.md on the Hub says of a backbone, which is what its config and its reports say."""

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tafm_loss.backbones.config import BackboneConfig
from tafm_loss.backbones.discriminators import ARCHITECTURE as DISCRIMINATORS
from tafm_loss.backbones.registry import list_backbones
from tafm_loss.report.table import LEAST_EXTENT, least_selectivity, report_table
from tafm_loss.weights.hub import HUB_PREFIX, REPOSITORY

__all__ = ["model_card"]

LIBRARY = "tafm-loss"
TASK = "image-feature-extraction"
TAGS = (LIBRARY, "deblurring", "image-restoration", "perceptual-loss", "feature-matching-loss")
NOT_RECORDED = "not recorded"
SNIPPET_SIZE = 64
# Those of the Hub's identifiers that weights are published under.
HUB_LICENCE = re.compile(
    r"unknown|apache-2\.0|bsd-2-clause|bsd-3-clause(-clear)?|isc|mit|unlicense|zlib|a?gpl-3\.0|gpl-2\.0|lgpl-(2\.1|3\.0)|"
    r"mpl-2\.0|cc0-1\.0|cc-by(-sa|-nc|-nc-sa|-nc-nd)?-[34]\.0|cc-by-nd-4\.0"
)
HUB_MODEL = re.compile(rf"(?<!\S)\(?{HUB_PREFIX}(?P<repository>[^\s@,;()]+)")
HUB_TAG = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
# As entities they are text wherever they stand: in a heading, a cell or a sentence, and whatever is beside them.
ENTITIES = {ord(character): f"&#{ord(character)};" for character in "\\`*_[]<>&|~$#"}
# Their identifiers and names on the Hub.
MEASUREMENTS = {
    "selectivity_white_noise": f"selectivity, white noise, least from {LEAST_EXTENT:g} px",
    "selectivity_scrambled_error": f"selectivity, scrambled error, least from {LEAST_EXTENT:g} px",
    "recovery_before_db": "PSNR of a 6 px shake, dB",
    "recovery_after_db": "PSNR after recovery from it, dB",
    "gradient_peak": "Nyquist peak of the gradient",
}

CARD = """---
{metadata}
---

# {name}

A backbone for tafm-loss, of the architecture {architecture}: a frozen network whose features a loss compares, of a \
restored image and of the sharp one, while a deblurring network is trained. It is neither a classifier nor a \
deblurring network: it names nothing and restores nothing.

## Use it

```bash
pip install tafm-loss
```

```python
import torch
from tafm_loss import {imports}

loss_fn = {loss}

restored = torch.rand(1, 3, {side}, {side}, requires_grad=True)  # what your network returned: RGB in [0, 1]
sharp = torch.rand(1, 3, {side}, {side})
loss = loss_fn(restored, sharp)
loss.backward()
```

The loss is added to a pixel loss: `calibrate_weight` of tafm-loss finds the weight for your own images.{note}

## Features

{taps}

## Weights

- Size: {size:,} bytes, safetensors
- SHA-256: `{sha256}`
- Architecture: {architecture}
- Smallest image: {minimum_size} x {minimum_size} px

With `sha256="{sha256}"`, `load_backbone` takes these weights and no others.

## How it was made

- Base weights: {base_weights}
- Training data: {training_data}
- Recipe: {recipe}

## Measurements

{measured}

## Limits

In the package's own measurements, such losses paid in PSNR for what they gained in sharpness, as an unsharp mask on \
the network's output does: compare with one before you keep the loss. The measurements say how the features judge \
changes to the images they were measured on; they do not show that a network trained with them restores better.

## Licence

{licence} What they derive from: {base_weights}.

## Citation

The idea is that of {citation}. tafm-loss is an independent implementation and goes its own way in places. Please cite \
the paper first.
"""
NOTE = """

The architecture {architecture} is not part of tafm-loss: `MyNetwork()` stands for an instance of it, whose code you \
must have. No code comes with the weights."""
LEGEND = (
    "Selectivity: how many times the squared error of blur another change needs to be as far from sharp; the least "
    "median over kinds and extents of blur. Recovery: pixels optimised from a 6 px shake by the loss alone, PSNR "
    "before and after. Nyquist peak: of the gradient's power, over its mean; white noise has about 1."
)
CITATION = (
    "Chang, Yang, Liu, Chen, Jhuo and Lin, *Task-Adaptive Feature Matching Loss for Image Deblurring*, ICIP 2023, pp. "
    "3135-3139: synthesise blur of several extents, teach a backbone their order by a triplet loss, and match its "
    "features while a deblurring network is trained"
)
MDF_CITATION = (
    "Mustafa, Mikhailiuk, Iliescu, Babbar and Mantiuk, *Training a Task-Specific Image Reconstruction Loss*, WACV "
    "2022: train discriminators on one image and its degradation, and match their features"
)


def model_card(
    config: BackboneConfig,
    *,
    repo_id: str,
    sha256: str,
    size: int,
    reports: Mapping[str, Any] | None = None,
    figure: str | None = None,
    licence_file: str | None = None,
) -> str:
    """Return the text of a README.md for the Hugging Face Hub: a YAML block, and Markdown.

    Nothing is said that is not in the arguments; what they do not have is left out, or said to be not recorded. The
    strings of the config and of the reports stay text, whatever is in them: no markup, HTML, code or YAML.

    Args:
        config: of the backbone.
        repo_id: "owner/name".
        sha256: of the weights.
        size: of the weights, in bytes.
        reports: {title: what `tafm_loss.report.report` returns}, as in `report.json`; None without one.
        figure: name of the picture of the reports that is beside the card; None without one.
        licence_file: name of the text of the licence that is beside the card; None without one.

    Raises:
        ValueError: if measurements are not as a report has them.
    """
    measured = _measurements(config.measurements)
    architecture, imports, note = _escaped(config.architecture), "TaskAdaptiveFeatureLoss", ""
    citation = CITATION
    if config.architecture == DISCRIMINATORS:
        imports, citation = "DiscriminativeFeatureLoss", MDF_CITATION
        loss = f'DiscriminativeFeatureLoss("{repo_id}")'
    elif config.architecture in list_backbones():
        loss = f'TaskAdaptiveFeatureLoss.from_pretrained("{repo_id}")'
    else:
        imports, note = f"{imports}, load_backbone", NOTE.format(architecture=architecture)
        loss = f'TaskAdaptiveFeatureLoss(load_backbone("{repo_id}", module=MyNetwork()))'
    taps = [("tap", "channels", "stride, px"), *((_escaped(name), *tap) for name, tap in config.taps.items())]
    vectors = "One vector an image at every tap, no map.\n\n" + _table([row[:2] for row in taps])
    recipe = _recorded(config.recipe)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", recipe)), default=0))
    licence = f"The licence of these weights is {_escaped(_recorded(config.licence))}."
    if _recorded(config.licence) == NOT_RECORDED:
        licence = f"{licence[:-1]}: ask who published them before you use them."
    if licence_file is not None:
        licence += f" Its text: [{licence_file}]({licence_file})."
    return CARD.format(
        metadata=_metadata(config, measured, licence_file),
        name=_escaped(_name(config)),
        architecture=architecture,
        imports=imports,
        loss=loss,
        note=note,
        side=max(SNIPPET_SIZE, config.minimum_size),
        taps=_table(taps) if config.spatial else vectors,
        size=size,
        sha256=sha256,
        minimum_size=config.minimum_size,
        base_weights=_escaped(_recorded(config.base_weights)),
        training_data=_escaped(_recorded(config.training_data)),
        recipe=recipe if recipe == NOT_RECORDED else f"\n\n{fence}\n{recipe}\n{fence}",
        measured=_measured(config, measured, reports, figure),
        licence=licence,
        citation=citation,
    )


def _metadata(config: BackboneConfig, measured: Mapping[str, float], licence_file: str | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    architecture, licence = _one_line(config.architecture), _one_line(config.licence).lower() or "unknown"
    fields: dict[str, Any] = {"license": licence}
    if not HUB_LICENCE.fullmatch(licence):
        name = re.sub(r"[^a-z0-9.]+", "-", licence).strip("-.") or "unnamed"
        fields = {"license": "other", "license_name": name, "license_link": licence_file}
    named = [match["repository"] for match in HUB_MODEL.finditer(_one_line(config.base_weights))]
    base = [repository for repository in dict.fromkeys(named) if REPOSITORY.fullmatch(repository)]
    about: dict[str, Any] = {"task_type": TASK, "dataset_type": "custom", "dataset_name": _measured_on(config)}
    results = [
        EvalResult(**about, metric_type=identifier, metric_name=MEASUREMENTS[identifier], metric_value=value)
        for identifier, value in measured.items()
    ]
    return ModelCardData(
        **fields,
        base_model=(base if len(base) > 1 else base[0]) if base else None,
        base_model_relation="finetune" if base else None,
        library_name=LIBRARY,
        pipeline_tag=TASK,
        tags=[*TAGS, architecture] if HUB_TAG.fullmatch(architecture) else list(TAGS),
        model_name=_name(config),
        eval_results=results or None,
    ).to_yaml()


def _measured(
    config: BackboneConfig, measured: Mapping[str, float], reports: Mapping[str, Any] | None, figure: str | None
) -> str:
    parts = []
    if reports:
        with _as_reported("the reports", "make report.json again with `tafm-loss report`, or delete it"):
            head, rows = report_table(reports)
            parts.append(_table([[_escaped(cell) for cell in row] for row in (head, *rows)]))
            subjects = [f"{title}: {each['backbone']}, {each['images']} images" for title, each in reports.items()]
        note = "Measurements that are written into a backbone afterwards change its SHA-256."
        parts += [f"Measured: {'; '.join(map(_escaped, subjects))}. {note}", LEGEND]
        if measured and config.measurements not in reports.values():
            parts.append("The numbers in this card's metadata are those in the weights' config, measured another time.")
    elif measured:
        parts.append(_table([("measurement", "value"), *((MEASUREMENTS[name], measured[name]) for name in measured)]))
        parts += [f"As the weights' config records them, on {_measured_on(config)}.", LEGEND]
    else:
        parts.append("None are recorded.")
    return "\n\n".join(parts if figure is None else [*parts, f"![report]({figure})"])


def _measurements(numbers: Mapping[str, Any]) -> dict[str, float]:
    """Return those of a report's main numbers that have a value, by their identifiers."""
    with _as_reported(
        "the measurements in the backbone's config", "set them to {} with dataclasses.replace, or to a report"
    ):
        selectivity, found = numbers.get("selectivity") or {}, dict(numbers)
        for distractor in ("white noise", "scrambled error"):
            found[f"selectivity_{distractor.replace(' ', '_')}"] = least_selectivity(selectivity.get(distractor, {}))
        measured = {name: found[name] for name in MEASUREMENTS if found.get(name) is not None}
        for value in measured.values():
            if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
                raise TypeError(f"expected a finite number, got {str(value)[:60]}")
        return {name: float(value) for name, value in measured.items()}


def _measured_on(config: BackboneConfig) -> str:
    images = config.measurements.get("images")
    number = str(images) if type(images) is int else f"a number {NOT_RECORDED} of"
    return f"{number} sharp images that tafm-loss blurred"


@contextlib.contextmanager
def _as_reported(what: str, advice: str) -> Iterator[None]:
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {str(error)[:60]}"
        raise ValueError(f"{what} are not as tafm_loss.report.report gives them ({reason}); {advice}") from error


def _recorded(text: str) -> str:
    # The defaults of a config say that a field was not filled, which is not that there was nothing.
    line = _one_line(text)
    return NOT_RECORDED if line.lower() in {"", "none", "unknown"} else line


def _name(config: BackboneConfig) -> str:
    return _one_line(config.name) or "unnamed"


def _one_line(text: str) -> str:
    """Return a text without line breaks, controls, invisible characters and halves of surrogate pairs."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())


def _escaped(text: str) -> str:
    """Return a text as Markdown that shows it on one line; it must not stand where a line begins."""
    return _one_line(text).translate(ENTITIES)


def _table(rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table, the first row its head, all columns but the first to the right."""
    rule = ["---", *(["---:"] * (len(rows[0]) - 1))]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (rows[0], rule, *rows[1:]))
