"""Backbones that are saved to folders, and loaded from folders and from the Hugging Face Hub."""

import copy
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from torch import nn

from tafm_loss._files import write_atomically
from tafm_loss.backbones.backbone import Backbone
from tafm_loss.backbones.registry import create_backbone, find_architecture, from_weights, list_backbones
from tafm_loss.backbones.weight_files import WeightFile, WeightsError, fill_network, read_weights

__all__ = ["WeightsError", "load_backbone", "save_backbone"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = "tafm-loss/backbone"
FORMAT_VERSION = 1
MAXIMUM_CONFIG = 2**20
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^@\s]+))?")


def save_backbone(backbone: Backbone, directory: str | os.PathLike[str]) -> Path:
    """Write a backbone, frozen or not, to a folder that `load_backbone` reads.

    Two files, each renamed into place when it is complete: `model.safetensors`, with the backbone's config in its
    metadata, and `config.json`, with that config again and the size and SHA-256 of the weights. Whatever else is in the
    folder stays.

    Args:
        backbone: what to write.
        directory: where to; created if it is not there.

    Returns:
        The folder.
    """
    folder = Path(directory)
    data = backbone.serialise()
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "backbone": json.loads(backbone.config.to_json()),
        "weights": {"file": WEIGHTS_FILE, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS_FILE, data)
    write_atomically(folder / CONFIG_FILE, (json.dumps(config, indent=1) + "\n").encode())
    return folder


def load_backbone(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    sha256: str | None = None,
    module: nn.Module | None = None,
) -> Backbone:
    """Return the backbone that `source` names, its weights verified, in evaluation mode.

    Args:
        source: a name of `list_backbones()`; else a folder that is there; else "owner/name" or "owner/name@revision"
            on the Hugging Face Hub. A `Path`, or "local-dir:" before a folder, or "hf-hub:" before an id, rules out
            the other readings.
        revision: branch, tag or commit on the Hub; config and weights are always of one commit.
        token: for private repositories, as in `huggingface_hub`.
        cache_dir: where the Hub's files are kept, as in `huggingface_hub`.
        local_files_only: whether to take what the cache has, and ask nobody.
        sha256: the SHA-256 that the weights must have. The one in `config.json` tells damage alone: who can change the
            weights there can change it too.
        module: an instance of your own architecture, for weights that are not of one in `list_backbones()`; a copy of
            it is filled.

    Raises:
        ValueError: if `source` can be read in none of these ways, or an option does not apply to it.
        WeightsError: if the weights cannot be had, are damaged, or do not fit the architecture.

    >>> load_backbone("tafm-compact").config.architecture
    'tafm-compact'
    """
    text = os.fspath(source)
    if isinstance(source, str) and text in list_backbones():
        if module is not None or revision is not None:
            raise ValueError(f"{text!r} is a name in list_backbones(): neither module nor revision applies to it")
        return _checked(create_backbone(text), text, sha256)
    if text.startswith("local-dir:"):
        return _load_folder(Path(text.removeprefix("local-dir:")), sha256, module)
    if not isinstance(source, str) or Path(text).is_dir() or text.startswith((".", "/", "~")):
        return _load_folder(Path(text).expanduser(), sha256, module)
    repository, revision = _hub_id(text, revision)
    options = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    return _load_folder(_fetch(repository, revision, options), sha256, module)


def _checked(backbone: Backbone, name: str, sha256: str | None) -> Backbone:
    if sha256 is not None and backbone.sha256 != sha256.lower():
        raise WeightsError(f"{name} has sha256 {backbone.sha256}, expected {sha256}")
    return backbone


def _hub_id(source: str, revision: str | None) -> tuple[str, str | None]:
    match = HUB_ID.fullmatch(source.removeprefix("hf-hub:"))
    if match is None:
        try:
            find_architecture(source)
        except ValueError as error:
            raise ValueError(f"{error}; nor is it a folder, or an owner/name[@revision] on the Hub") from None
    assert match is not None  # a name that is listed never comes here
    if match["revision"] is not None and revision not in (None, match["revision"]):
        raise ValueError(f"{source!r} and revision={revision!r} name two revisions; give one")
    return match["repository"], match["revision"] or revision


def _load_folder(folder: Path, sha256: str | None, module: nn.Module | None) -> Backbone:
    described = _read_config(folder / CONFIG_FILE)
    weights = described["weights"]
    path = folder / WEIGHTS_FILE
    file = read_weights(path, size=weights["size"], sha256=weights["sha256"])
    if sha256 is not None and file.sha256 != sha256.lower():
        raise WeightsError(f"{path} has sha256 {file.sha256}, expected {sha256}: these are other weights")
    if file.config is None or json.loads(file.config.to_json()) != described["backbone"]:
        raise WeightsError(f"{folder / CONFIG_FILE} does not describe the weights beside it; save the backbone again")
    if module is not None:
        return _fill_copy(module, file)
    try:
        architecture = find_architecture(file.config.architecture)
    except ValueError as error:
        raise WeightsError(
            f"{path} holds weights of the architecture {file.config.architecture!r}, which is not in list_backbones(); "
            "pass module= an instance of it"
        ) from error
    return from_weights(architecture, file)


def _fill_copy(module: nn.Module, file: WeightFile) -> Backbone:
    assert file.config is not None
    network = copy.deepcopy(module)
    fill_network(network, file, type(module).__name__)
    return Backbone(network, file.config).eval()


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAXIMUM_CONFIG + 1)
    except OSError as error:
        raise WeightsError(f"no backbone in {path.parent}: cannot read {path.name} ({error.strerror})") from error
    try:
        if len(data) > MAXIMUM_CONFIG:
            raise ValueError(f"more than {MAXIMUM_CONFIG} bytes")
        config = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is no JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise WeightsError(f'{path} describes no backbone: expected "format": "{FORMAT}"')
    version = config.get("format_version")
    if type(version) is not int or not _describes_weights(config.get("weights")) or "backbone" not in config:
        raise WeightsError(f"{path} is not as save_backbone writes it; save the backbone again")
    if version > FORMAT_VERSION:
        raise WeightsError(f"{path} has format_version {version}, newer than {FORMAT_VERSION}; upgrade tafm-loss")
    return config


def _describes_weights(weights: Any) -> bool:
    return (
        isinstance(weights, dict)
        and weights.get("file") == WEIGHTS_FILE
        and type(weights.get("size")) is int
        and isinstance(weights.get("sha256"), str)
    )


def _fetch(repository: str, revision: str | None, options: dict[str, Any]) -> Path:
    """Return the cached folder that holds config and weights of one commit, fetching what is not there."""
    config = _download(repository, CONFIG_FILE, revision, options)
    commit = config.parent.name
    if not COMMIT.fullmatch(commit):
        raise WeightsError(f"{repository}: cannot tell the commit of {config}; load that folder with a Path instead")
    # A branch may move between two requests; a commit cannot.
    weights = _download(repository, WEIGHTS_FILE, commit, options)
    return weights.parent


def _download(repository: str, name: str, revision: str | None, options: dict[str, Any]) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, name, revision=revision, **options))
    except Exception as error:  # the client's HTTP library, of which there are three by version, lets errors through
        what = f"{repository}/{name}" + (f"@{revision}" if revision else "")
        reason = f"{_reason(error)} ({type(error).__name__})"
    # Outside the handler, so that no request with the user's token hangs on the error that is logged or pickled.
    raise WeightsError(f"cannot load {what} from the Hugging Face Hub: {reason}")


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    advice = (
        (errors.GatedRepoError, "access must be asked for on its page, then pass token="),
        (errors.RepositoryNotFoundError, "no such repository, or a private one: check the name, or pass token="),
        (errors.RevisionNotFoundError, "the repository has no such revision"),
        (errors.LocalEntryNotFoundError, "it is not in the cache, and the Hub cannot be reached"),
        (errors.EntryNotFoundError, "the repository has no such file: it holds no backbone of tafm-loss"),
    )
    return next((text for kind, text in advice if isinstance(error, kind)), "the download failed")
