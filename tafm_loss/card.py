"""The model card: what README.md on the Hub says of a backbone, which is what its config and its reports say."""

import contextlib
import math
import re
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
# An identifier and a name on the Hub, and a value.
Measurement = tuple[str, str, float]

LEGEND = (
    "Selectivity: how many times the squared error of blur another change needs to be as far from sharp; the least "
    "median over kinds and extents of blur. Recovery: pixels optimised from a 6 px shake by the loss alone, PSNR "
    "before and after. Nyquist peak: of the gradient's power, over its mean; white noise has about 1."
)
LIMITS = (
    "In the package's own measurements, such losses paid in PSNR for what they gained in sharpness, as an unsharp mask "
    "on the network's output does: compare with one before you keep the loss. The measurements say how the features "
    "judge changes to the images they were measured on; they do not show that a network trained with them restores "
    "better."
)
INDEPENDENT = "tafm-loss is an independent implementation and goes its own way in places. Please cite the paper first."
CITATION = (
    "The idea is that of Chang, Yang, Liu, Chen, Jhuo and Lin, *Task-Adaptive Feature Matching Loss for Image "
    "Deblurring*, ICIP 2023, pp. 3135-3139: synthesise blur of several extents, teach a backbone their order by a "
    f"triplet loss, and match its features while a deblurring network is trained. {INDEPENDENT}"
)
MDF_CITATION = (
    "The idea is that of Mustafa, Mikhailiuk, Iliescu, Babbar and Mantiuk, *Training a Task-Specific Image "
    "Reconstruction Loss*, WACV 2022: train discriminators on one image and its degradation, and match their "
    f"features. {INDEPENDENT}"
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
    recipe = _recorded(config.recipe)
    weights = (
        f"- Size: {size:,} bytes, safetensors\n- SHA-256: `{sha256}`\n"
        f"- Architecture: {_escaped(config.architecture)}\n"
        f"- Smallest image: {config.minimum_size} x {config.minimum_size} px\n\n"
        f'With `sha256="{sha256}"`, `load_backbone` takes these weights and no others.'
    )
    origin = (
        f"- Base weights: {_escaped(_recorded(config.base_weights))}\n"
        f"- Training data: {_escaped(_recorded(config.training_data))}\n"
        f"- Recipe: {recipe if recipe == NOT_RECORDED else _code_block(recipe)}"
    )
    parts = (
        f"# {_escaped(_name(config))}",
        f"A backbone for tafm-loss, of the architecture {_escaped(config.architecture)}: a frozen network "
        "whose features a loss compares, of a restored image and of the sharp one, while a deblurring network is "
        "trained. It is neither a classifier nor a deblurring network: it names nothing and restores nothing.",
        f"## Use it\n\n{_use(config, repo_id)}",
        f"## Features\n\n{_taps(config)}",
        f"## Weights\n\n{weights}",
        f"## How it was made\n\n{origin}",
        f"## Measurements\n\n{_measured(config, measured, reports, figure)}",
        f"## Limits\n\n{LIMITS}",
        f"## Licence\n\n{_licence(config, licence_file)}",
        f"## Citation\n\n{MDF_CITATION if config.architecture == DISCRIMINATORS else CITATION}",
    )
    return f"---\n{_metadata(config, measured, licence_file)}\n---\n\n" + "\n\n".join(parts) + "\n"


def _metadata(config: BackboneConfig, measured: Sequence[Measurement], licence_file: str | None) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    architecture = _one_line(config.architecture)
    named = [match["repository"] for match in HUB_MODEL.finditer(_one_line(config.base_weights))]
    base = [repository for repository in dict.fromkeys(named) if REPOSITORY.fullmatch(repository)]
    about: dict[str, Any] = {"task_type": TASK, "dataset_type": "custom", "dataset_name": _measured_on(config)}
    results = [
        EvalResult(**about, metric_type=identifier, metric_name=name, metric_value=value)
        for identifier, name, value in measured
    ]
    return ModelCardData(
        **_hub_licence(config.licence, licence_file),
        base_model=(base if len(base) > 1 else base[0]) if base else None,
        base_model_relation="finetune" if base else None,
        library_name=LIBRARY,
        pipeline_tag=TASK,
        tags=[*TAGS, architecture] if HUB_TAG.fullmatch(architecture) else list(TAGS),
        model_name=_name(config),
        eval_results=results or None,
    ).to_yaml()


def _hub_licence(licence: str, licence_file: str | None) -> dict[str, Any]:
    """Return the Hub's fields for an SPDX identifier; what the Hub has no identifier for is `other`, with a name."""
    named = _one_line(licence).lower() or "unknown"
    if HUB_LICENCE.fullmatch(named):
        return {"license": named}
    name = re.sub(r"[^a-z0-9.]+", "-", named).strip("-.") or "unnamed"
    return {"license": "other", "license_name": name, "license_link": licence_file}


def _use(config: BackboneConfig, source: str) -> str:
    size = max(SNIPPET_SIZE, config.minimum_size)
    imports, note = "TaskAdaptiveFeatureLoss", ""
    if config.architecture == DISCRIMINATORS:
        imports, loss = "DiscriminativeFeatureLoss", f'DiscriminativeFeatureLoss("{source}")'
    elif config.architecture in list_backbones():
        loss = f'TaskAdaptiveFeatureLoss.from_pretrained("{source}")'
    else:
        imports += ", load_backbone"
        loss = f'TaskAdaptiveFeatureLoss(load_backbone("{source}", module=MyNetwork()))'
        note = (
            f"\n\nThe architecture {_escaped(config.architecture)} is not part of tafm-loss: `MyNetwork()` stands for "
            "an instance of it, whose code you must have. No code comes with the weights."
        )
    return f"""```bash
pip install {LIBRARY}
```

```python
import torch
from tafm_loss import {imports}

loss_fn = {loss}

restored = torch.rand(1, 3, {size}, {size}, requires_grad=True)  # what your network returned: RGB in [0, 1]
sharp = torch.rand(1, 3, {size}, {size})
loss = loss_fn(restored, sharp)
loss.backward()
```

The loss is added to a pixel loss: `calibrate_weight` of tafm-loss finds the weight for your own images.{note}"""


def _taps(config: BackboneConfig) -> str:
    rows = [[_escaped(name), str(tap.channels), str(tap.stride)] for name, tap in config.taps.items()]
    if config.spatial:
        return _table(["tap", "channels", "stride, px"], rows)
    return f"One vector an image at every tap, no map.\n\n{_table(['tap', 'channels'], [row[:2] for row in rows])}"


def _measured(
    config: BackboneConfig, measured: Sequence[Measurement], reports: Mapping[str, Any] | None, figure: str | None
) -> str:
    parts = []
    if reports:
        parts += [_report(reports), LEGEND]
        if measured and config.measurements not in reports.values():
            parts.append("The numbers in this card's metadata are those in the weights' config, measured another time.")
    elif measured:
        rows = [[name, str(value)] for _, name, value in measured]
        recorded = f"As the weights' config records them, on {_measured_on(config)}."
        parts += [_table(["measurement", "value"], rows), recorded, LEGEND]
    else:
        parts.append("None are recorded.")
    if figure is not None:
        parts.append(f"![report]({figure})")
    return "\n\n".join(parts)


def _report(reports: Mapping[str, Any]) -> str:
    with _as_reported("the reports", "make report.json again with `tafm-loss report`, or delete it"):
        titles, lines = report_table(reports)
        head, *rows = ([_escaped(cell) for cell in cells] for cells in (titles, *lines))
        subjects = [
            f"{_escaped(title)}: {_escaped(str(numbers['backbone']))}, {_escaped(str(numbers['images']))} images"
            for title, numbers in reports.items()
        ]
    measured = "; ".join(subjects)
    note = "Measurements that are written into a backbone afterwards change its SHA-256."
    return f"{_table(head, rows)}\n\nMeasured: {measured}. {note}"


def _licence(config: BackboneConfig, licence_file: str | None) -> str:
    licence = _recorded(config.licence)
    if licence == NOT_RECORDED:
        terms = "The licence of these weights is not recorded: ask who published them before you use them."
    else:
        terms = f"The licence of these weights is {_escaped(licence)}."
    if licence_file is not None:
        terms += f" Its text: [{licence_file}]({licence_file})."
    return f"{terms} What they derive from: {_escaped(_recorded(config.base_weights))}."


def _measurements(numbers: Mapping[str, Any]) -> list[Measurement]:
    """Return those of a report's main numbers that have a value."""
    advice = "set them to {} with dataclasses.replace, or to a report"
    with _as_reported("the measurements in the backbone's config", advice):
        selectivity = numbers.get("selectivity") or {}
        white, scrambled = (least_selectivity(selectivity.get(name, {})) for name in ("white noise", "scrambled error"))
        least = f"least from {LEAST_EXTENT:g} px"
        candidates = [
            ("selectivity_white_noise", f"selectivity, white noise, {least}", white),
            ("selectivity_scrambled_error", f"selectivity, scrambled error, {least}", scrambled),
            ("recovery_before_db", "PSNR of a 6 px shake, dB", numbers.get("recovery_before_db")),
            ("recovery_after_db", "PSNR after recovery from it, dB", numbers.get("recovery_after_db")),
            ("gradient_peak", "Nyquist peak of the gradient", numbers.get("gradient_peak")),
        ]
        return [(identifier, name, _finite(value)) for identifier, name, value in candidates if value is not None]


def _measured_on(config: BackboneConfig) -> str:
    images = config.measurements.get("images")
    number = str(images) if type(images) is int else f"a number {NOT_RECORDED} of"
    return f"{number} sharp images that tafm-loss blurred"


def _finite(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError(f"expected a finite number, got {str(value)[:60]}")
    return float(value)


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


def _code_block(line: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", line)), default=0))
    return f"\n\n{fence}\n{line}\n{fence}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, all columns but the first to the right."""
    rule = ["---", *(["---:"] * (len(head) - 1))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
