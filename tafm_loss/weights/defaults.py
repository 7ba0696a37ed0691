"""The default weights of an architecture, got from where it says that they are."""

import importlib.resources
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch

from tafm_loss.backbones.architecture import Architecture, Bundled, Download, HubFile
from tafm_loss.weights.errors import WeightsCorruptError, WeightsError, WeightsNotFoundError, WeightsUnavailableError
from tafm_loss.weights.files import WeightFile, read_weight_bytes, read_weights
from tafm_loss.weights.hub import ANSWER_TIMEOUT, HubRepository, answers

__all__ = ["default_file", "is_default"]


def default_file(architecture: Architecture) -> WeightFile:
    """Return the default weights of an architecture: from the package, or from a cache, filled if need be.

    Raises:
        WeightsError: of the kind that says why they cannot be had, with the line that reads them from disk.
    """
    where = architecture.default_weights
    if isinstance(where, Bundled):
        asset = importlib.resources.files("tafm_loss.backbones") / "assets" / where.file
        try:
            return read_weight_bytes(asset.read_bytes(), str(asset), sha256=where.sha256)
        except FileNotFoundError:
            raise WeightsNotFoundError(f"{asset} is missing from the installation; install tafm-loss again") from None
    try:
        return _downloaded(where) if isinstance(where, Download) else _from_hub(where)
    except WeightsError as error:
        line = f'create_backbone("{architecture.name}", weights="{Path("path", "to", where.file)}")'
        told = f"the weights {where.file} of {architecture.name} cannot be had: {error}"
        raise type(error)(f"{told}. Load the file from disk with {line}") from None


def _downloaded(where: Download) -> WeightFile:
    path = Path(torch.hub.get_dir(), "checkpoints", where.file)
    if not path.exists():
        if not reachable(where.url):
            raise WeightsUnavailableError(f"{path} is not there, and {urlsplit(where.url).hostname} cannot be reached")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(where.url, str(path), where.digits)
        except Exception as error:  # no connection, no space, a wrong digest
            raise WeightsUnavailableError(f"{path} is not there, and {where.url} gives none: {error}") from error
    file = read_weights(path)
    if not file.sha256.startswith(where.digits):
        raise WeightsCorruptError(
            f"{path} has sha256 {file.sha256}, which is not that of its name: delete it, so that it is downloaded anew"
        )
    return file


def reachable(url: str) -> bool:
    """Whether `url` answers within seconds, asked as torch.hub asks, with the proxies and openers that this has."""
    return answers(lambda: urlopen(Request(url, method="HEAD"), timeout=ANSWER_TIMEOUT).close())


def _from_hub(where: HubFile) -> WeightFile:
    from huggingface_hub import constants

    try:
        return read_weights(HubRepository(where.repo_id, token=False).fetch(where.file, None))
    except WeightsError as error:
        raise type(error)(f"looked for in {constants.HF_HUB_CACHE}, then on the Hub; {error}") from None


def is_default(architecture: Architecture, file: WeightFile) -> bool:
    """Whether `file`, read from any path, is known by its digest to hold the default weights."""
    where = architecture.default_weights
    return isinstance(where, Download) and file.sha256.startswith(where.digits)
