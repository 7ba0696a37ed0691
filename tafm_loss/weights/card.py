"""The model card: what README.md on the Hub says of a backbone, which is what its config and its reports say."""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tafm_loss.backbones.backbone import BackboneConfig
from tafm_loss.backbones.discriminators import ARCHITECTURE as DISCRIMINATORS
from tafm_loss.backbones.registry import list_backbones
from tafm_loss.weights.folders import SHA256
from tafm_loss.weights.sources import HUB_PREFIX, REPOSITORY

__all__ = ["model_card"]

LIBRARY = "tafm-loss"
TASK = "image-feature-extraction"
TAGS = (LIBRARY, "deblurring", "image-restoration", "perceptual-loss", "feature-matching-loss")
NOT_RECORDED = "not recorded"
SNIPPET_SIZE = 64
HUB_LICENCES = frozenset(
    (
        "unknown",
        *("apache-2.0", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "mit", "unlicense", "zlib"),
        *("agpl-3.0", "gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "mpl-2.0"),
        *("cc0-1.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nd-4.0"),
        *("cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
    )
)
HUB_MODEL = re.compile(rf"(?<!\S)\(?{HUB_PREFIX}(?P<repository>[^\s@,;()]+)")
HUB_TAG = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# As entities they are text wherever they stand: in a heading, a cell or a sentence, and whatever is beside them.
ENTITIES = {ord(character): f"&#{ord(character)};" for character in "\\`*_[]<>&|~$#"}

LEGEND = (
    "Selectivity: how many times the squared error of blur another change needs to be as far from sharp; the least "
    "median over kinds and extents of blur. Recovery: pixels optimised from a 6 px shake by the loss alone, PSNR "
    "before and after. Nyquist peak: of the gradient's power, over its mean; white noise has about 1."
)
LIMITS = (
    "In the package's own measurements, such losses paid in PSNR for what they gained in sharpness, as an unsharp mask "
    "on the network's output does: compare with one before you keep the loss. Figures say how the features judge "
    "changes to the images they were measured on; they do not show that a network trained with them restores better."
)
CITATION = (
    "The idea is that of Chang, Yang, Liu, Chen, Jhuo and Lin, *Task-Adaptive Feature Matching Loss for Image "
    "Deblurring*, ICIP 2023, pp. 3135-3139: synthesise blur of several extents, teach a backbone their order by a "
    "triplet loss, and match its features while a deblurring network is trained. tafm-loss is an independent "
    "implementation and goes its own way in places. Please cite the paper first."
)

MDF_CITATION = (
    "The idea is that of Mustafa, Mikhailiuk, Iliescu, Babbar and Mantiuk, *Training a Task-Specific Image "
    "Reconstruction Loss*, WACV 2022: train discriminators on one image and its degradation, and match their features. "
    "tafm-loss is an independent implementation. Please cite the paper first."
)


class Measurement(NamedTuple):
    """One figure of a config: its identifier and its name on the Hub, and its value."""

    identifier: str
    name: str
    value: float


def model_card(
    config: BackboneConfig,
    *,
    repo_id: str | None,
    sha256: str,
    size: int,
    reports: Mapping[str, Any] | None,
    figure: str | None,
    licence_file: str | None = None,
) -> str:
    """Return the text of a README.md for the Hugging Face Hub: a YAML block, and Markdown.

    Nothing is said that is not in the arguments; what they do not have is left out, or said to be not recorded. The
    strings of the config and of the reports stay text, whatever is in them: no markup, HTML, code or YAML.

    Args:
        config: of the backbone.
        repo_id: "owner/name"; None if the repository is not known yet.
        sha256: of the weights, 64 hexadecimal digits.
        size: of the weights, in bytes.
        reports: {title: figures of `tafm_loss.report.report`}, as in `report.json`; None without one.
        figure: name of the picture of the reports that is beside the card; None without one.
        licence_file: name of the text of the licence that is beside the card; None without one.

    Raises:
        ValueError: if the repository, the digest, the size or a file has no possible name or value, or figures are not
            as a report has them.
    """
    _check(repo_id, sha256, size, figure, licence_file)
    source = "owner/name" if repo_id is None else repo_id
    measured = _measurements(config.measurements)
    parts = (
        f"# {_escaped(_name(config))}",
        _purpose(config),
        f"## Use it\n\n{_use(config, source)}",
        f"## Features\n\n{_taps(config)}",
        f"## Weights\n\n{_weights(config, sha256, size)}",
        f"## How it was made\n\n{_origin(config)}",
        f"## Figures\n\n{_figures(config, measured, reports, figure)}",
        f"## Limits\n\n{LIMITS}",
        f"## Licence\n\n{_licence(config, licence_file)}",
        f"## Citation\n\n{MDF_CITATION if config.architecture == DISCRIMINATORS else CITATION}",
    )
    return f"---\n{_metadata(config, measured, licence_file)}\n---\n\n" + "\n\n".join(parts) + "\n"


def _check(repo_id: str | None, sha256: str, size: int, figure: str | None, licence_file: str | None) -> None:
    if repo_id is not None and not REPOSITORY.fullmatch(repo_id):
        raise ValueError(f'repo_id must be "owner/name" as the Hub allows it, got {repo_id!r}')
    if not SHA256.fullmatch(sha256):
        raise ValueError(f"sha256 must be 64 hexadecimal digits in lower case, got {sha256!r}")
    if size <= 0:
        raise ValueError(f"size must be a positive number of bytes, got {size}")
    for argument, name in (("figure", figure), ("licence_file", licence_file)):
        if name is not None and not FILE_NAME.fullmatch(name):
            raise ValueError(f"{argument} must be the plain name of a file beside the card, got {name!r}")


def _metadata(config: BackboneConfig, measured: Sequence[Measurement], licence_file: str | None) -> str:
    from huggingface_hub import ModelCardData

    architecture = _one_line(config.architecture)
    named = [match["repository"] for match in HUB_MODEL.finditer(_one_line(config.base_weights))]
    base = [repository for repository in dict.fromkeys(named) if REPOSITORY.fullmatch(repository)]
    return ModelCardData(
        **_hub_licence(config.licence, licence_file),
        base_model=(base if len(base) > 1 else base[0]) if base else None,
        base_model_relation="finetune" if base else None,
        library_name=LIBRARY,
        pipeline_tag=TASK,
        tags=[*TAGS, architecture] if HUB_TAG.fullmatch(architecture) else list(TAGS),
        model_name=_name(config),
        eval_results=_eval_results(config, measured) or None,
    ).to_yaml()


def _hub_licence(licence: str, licence_file: str | None) -> dict[str, Any]:
    """Return the Hub's fields for an SPDX identifier; what the Hub has no identifier for is `other`, with a name."""
    named = _one_line(licence).lower() or "unknown"
    if named in HUB_LICENCES:
        return {"license": named}
    name = re.sub(r"[^a-z0-9.]+", "-", named).strip("-.") or "unnamed"
    return {"license": "other", "license_name": name, "license_link": licence_file}


def _eval_results(config: BackboneConfig, measured: Sequence[Measurement]) -> list[Any]:
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=TASK,
            dataset_type="custom",
            dataset_name=_measured_on(config),
            metric_type=identifier,
            metric_name=name,
            metric_value=value,
        )
        for identifier, name, value in measured
    ]


def _purpose(config: BackboneConfig) -> str:
    return (
        f"A backbone for tafm-loss, of the architecture {_escaped(config.architecture)}: a frozen network "
        "whose features a loss compares, of a restored image and of the sharp one, while a deblurring network is "
        "trained. It is neither a classifier nor a deblurring network: it names nothing and restores nothing."
    )


def _use(config: BackboneConfig, source: str) -> str:
    size = max(SNIPPET_SIZE, config.minimum_size)
    if config.architecture == DISCRIMINATORS:
        imports, note = "from tafm_loss import DiscriminativeFeatureLoss", ""
        loss = f'loss_fn = DiscriminativeFeatureLoss("{source}")'
    elif config.architecture in list_backbones():
        imports, note = "from tafm_loss import TaskAdaptiveFeatureLoss", ""
        loss = f'loss_fn = TaskAdaptiveFeatureLoss.from_pretrained("{source}")'
    else:
        imports = "from tafm_loss import TaskAdaptiveFeatureLoss, load_backbone"
        note = (
            f"\n\nThe architecture {_escaped(config.architecture)} is not part of tafm-loss: `MyNetwork()` stands for "
            "an instance of it, whose code you must have. No code comes with the weights."
        )
        loss = f'backbone = load_backbone("{source}", module=MyNetwork())\nloss_fn = TaskAdaptiveFeatureLoss(backbone)'
    return f"""```bash
pip install {LIBRARY}
```

```python
import torch
{imports}

{loss}

restored = torch.rand(1, 3, {size}, {size}, requires_grad=True)  # what your network returned: RGB in [0, 1]
sharp = torch.rand(1, 3, {size}, {size})
loss = loss_fn(restored, sharp)
loss.backward()
```{note}"""


def _taps(config: BackboneConfig) -> str:
    rows = [[_escaped(name), str(tap.channels), str(tap.stride)] for name, tap in config.taps.items()]
    if config.spatial:
        return _table(["tap", "channels", "stride, px"], rows)
    vectors = _table(["tap", "channels"], [row[:2] for row in rows])
    return f"One vector an image at every tap, no map.\n\n{vectors}"


def _weights(config: BackboneConfig, sha256: str, size: int) -> str:
    return "\n".join(
        (
            f"- Size: {size:,} bytes, safetensors",
            f"- SHA-256: `{sha256}`",
            f"- Architecture: {_escaped(config.architecture)}",
            f"- Smallest image: {config.minimum_size} x {config.minimum_size} px",
            "",
            f'With `sha256="{sha256}"`, `load_backbone` takes these weights and no others.',
        )
    )


def _origin(config: BackboneConfig) -> str:
    facts = "\n".join(
        (
            f"- Base weights: {_escaped(_recorded(config.base_weights))}",
            f"- Training data: {_escaped(_recorded(config.training_data))}",
        )
    )
    recipe = _recorded(config.recipe)
    return f"{facts}\n- Recipe: {recipe}" if recipe == NOT_RECORDED else f"{facts}\n- Recipe:\n\n{_code_block(recipe)}"


def _figures(
    config: BackboneConfig, measured: Sequence[Measurement], reports: Mapping[str, Any] | None, figure: str | None
) -> str:
    parts = []
    if reports:
        parts += [_report(reports), LEGEND]
        if measured and config.measurements not in reports.values():
            parts.append("The figures in this card's metadata are those in the weights' config, measured another time.")
    elif measured:
        rows = [[name, str(value)] for _, name, value in measured]
        recorded = f"As the weights' config records them, on {_measured_on(config)}."
        parts += [_table(["figure", "value"], rows), recorded, LEGEND]
    else:
        parts.append("None are recorded.")
    if figure is not None:
        parts.append(f"![report]({figure})")
    return "\n\n".join(parts)


def _report(reports: Mapping[str, Any]) -> str:
    # Here, since fine-tuning imports the package of this file in order to save what it tuned.
    from tafm_loss.report.table import report_table

    with _as_reported("the reports", "make report.json again with `tafm-loss report`, or delete it"):
        head, rows = report_table(reports)
        subjects = [
            f"{_escaped(title)}: {_escaped(str(figures['backbone']))}, {_escaped(str(figures['images']))} images"
            for title, figures in reports.items()
        ]
    table = _table([_escaped(cell) for cell in head], [[_escaped(cell) for cell in row] for row in rows])
    measured = "; ".join(subjects)
    return f"{table}\n\nMeasured: {measured}. Figures that are written into a backbone afterwards change its SHA-256."


def _licence(config: BackboneConfig, licence_file: str | None) -> str:
    licence = _recorded(config.licence)
    if licence == NOT_RECORDED:
        terms = "The licence of these weights is not recorded: ask who published them before you use them."
    else:
        terms = f"The licence of these weights is {_escaped(licence)}."
    if licence_file is not None:
        terms += f" Its text: [{licence_file}]({licence_file})."
    return f"{terms} What they derive from: {_escaped(_recorded(config.base_weights))}."


def _measurements(figures: Mapping[str, Any]) -> list[Measurement]:
    """Return those of the report's main figures that have a value."""
    from tafm_loss.report.table import LEAST_EXTENT, least_selectivity

    with _as_reported(
        "the figures in the backbone's config", "set them to {} with dataclasses.replace, or to a report"
    ):
        selectivity = figures.get("selectivity") or {}
        candidates = [
            *(
                (
                    f"selectivity_{distractor.replace(' ', '_')}",
                    f"selectivity, {distractor}, least from {LEAST_EXTENT:g} px",
                    least_selectivity(selectivity.get(distractor, {})),
                )
                for distractor in ("white noise", "scrambled error")
            ),
            ("recovery_before_db", "PSNR of a 6 px shake, dB", figures.get("recovery_before_db")),
            ("recovery_after_db", "PSNR after recovery from it, dB", figures.get("recovery_after_db")),
            ("gradient_peak", "Nyquist peak of the gradient", figures.get("gradient_peak")),
        ]
        return [
            Measurement(identifier, name, _finite(value)) for identifier, name, value in candidates if value is not None
        ]


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
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{line}\n{fence}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, all columns but the first to the right."""
    rule = ["---", *(["---:"] * (len(head) - 1))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
