"""A backbone in a folder: a config and one file of weights, each checked against the other."""

import json
import os
import re
from pathlib import Path
from typing import Any

from tafm_loss._files import read_object, replacing, user_path
from tafm_loss.backbones.backbone import Backbone
from tafm_loss.weights.errors import WeightsFormatError, WeightsNotFoundError
from tafm_loss.weights.files import (
    MAXIMUM_FILE,
    WeightFile,
    check_finite,
    read_bytes,
    read_weight_bytes,
    read_weights,
)

__all__ = ["CONFIG_FILE", "SHA256", "WEIGHTS_FILE", "read_config", "read_folder", "save_backbone"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = "tafm-loss/backbone"
FORMAT_VERSION = 1
MAXIMUM_CONFIG = 2**20
SHA256 = re.compile(r"[0-9a-f]{64}")


def save_backbone(backbone: Backbone, directory: str | os.PathLike[str]) -> Path:
    """Write a backbone, frozen or not, to a folder that `load_backbone` reads, and return the folder.

    Two files, renamed into place when both are complete: `model.safetensors`, with the weights in float32 and the
    backbone's config in its metadata, and `config.json`, with that config again and the size and SHA-256 of the
    weights. Whatever else is in the folder stays.

    Args:
        backbone: what to write.
        directory: where to; created if it is not there.

    Raises:
        WeightsFormatError: for what could not be loaded again, such as weights that are not finite; nothing is written.
        OSError: if the folder cannot be written to; what was there is still there.
    """
    folder = user_path(directory)
    data = backbone.serialise()
    file = read_weight_bytes(data, f"the backbone {backbone.config.name[:80]}")
    check_finite(file)
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "backbone": json.loads(backbone.config.to_json()),
        "weights": {"file": WEIGHTS_FILE, "size": len(data), "sha256": file.sha256},
    }
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS_FILE) as weights_path:
        weights_path.write_bytes(data)
        with replacing(folder / CONFIG_FILE) as config_path:
            config_path.write_text(json.dumps(config, indent=1) + "\n")
    return folder


def read_folder(folder: Path) -> WeightFile:
    """Return the weights and the config that a folder holds.

    Raises:
        WeightsError: of the kind that says what is wrong: a file that is missing, a size or SHA-256 other than the one
            in the config, or a config that is not that of the weights.
    """
    if folder.is_file():
        raise WeightsFormatError(f"{folder} is a file, expected a folder, or a model.safetensors")
    described = read_config(folder / CONFIG_FILE)
    weights = described["weights"]
    file = read_weights(folder / WEIGHTS_FILE, size=weights["size"], sha256=weights["sha256"])
    if file.config is None or json.loads(file.config.to_json()) != described["backbone"]:
        raise WeightsFormatError(
            f"{folder / CONFIG_FILE} does not describe the weights beside it; save the backbone again"
        )
    check_finite(file)
    return file


def read_config(path: Path) -> dict[str, Any]:
    """Return a `config.json`, of which everything but "backbone" is checked; that is compared with the weights' own.

    Raises:
        WeightsNotFoundError: if there is none.
        WeightsFormatError: if it is not as `save_backbone` writes it, or as a newer release does.
        WeightsError: if it cannot be read.
    """
    try:
        config = read_object(read_bytes(path, "the config", most=MAXIMUM_CONFIG))
    except WeightsNotFoundError:
        raise WeightsNotFoundError(f"no backbone in {path.parent}: there is no {path.name}") from None
    except ValueError as error:
        raise WeightsFormatError(f"{path} is no JSON that can be trusted: {error}") from None
    if config.get("format") != FORMAT:
        raise WeightsFormatError(f'{path} describes no backbone: expected "format": "{FORMAT}"')
    version = config.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise WeightsFormatError(f"{path} has format_version {version}, newer than {FORMAT_VERSION}; upgrade tafm-loss")
    keys = {"format", "format_version", "backbone", "weights"}
    if type(version) is not int or config.keys() != keys or not _describes_weights(config["weights"]):
        raise WeightsFormatError(f"{path} is not as save_backbone writes it; save the backbone again")
    return config


def _describes_weights(weights: Any) -> bool:
    return (
        isinstance(weights, dict)
        and weights.keys() == {"file", "size", "sha256"}
        and weights["file"] == WEIGHTS_FILE
        and type(weights["size"]) is int
        and 0 < weights["size"] <= MAXIMUM_FILE
        and isinstance(weights["sha256"], str)
        and SHA256.fullmatch(weights["sha256"]) is not None
    )
