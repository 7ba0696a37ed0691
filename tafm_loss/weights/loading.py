"""Loading a backbone from wherever it is."""

import copy
import os
from pathlib import Path

from torch import nn

from tafm_loss.backbones.backbone import Backbone, BackboneConfig, check_features
from tafm_loss.backbones.discriminators import ARCHITECTURE as DISCRIMINATORS
from tafm_loss.backbones.discriminators import discriminators_in
from tafm_loss.backbones.downloads import HubRepository
from tafm_loss.backbones.registry import create_backbone, find_architecture, from_weights
from tafm_loss.backbones.weight_errors import WeightsFormatError
from tafm_loss.backbones.weight_files import WeightFile, fill_network, read_weights
from tafm_loss.weights.folders import check_digest, read_folder
from tafm_loss.weights.hub import read_repository
from tafm_loss.weights.published import PUBLISHED
from tafm_loss.weights.sources import HubSource, Source, read_source

__all__ = ["load_backbone", "read_file"]


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
        source: a name of `list_backbones()`; else a folder that `save_backbone` wrote, or the `model.safetensors` of
            one alone; else "owner/name" or "owner/name@revision" on the Hugging Face Hub. A `Path`, or "local-dir:"
            before a folder, or "hf-hub:" before an id, rules out the other readings.
        revision: branch, tag or commit on the Hub; config and weights are always of one commit. Only a commit stays
            the same; the attribute `source` of the result names the one that was found.
        token: for private repositories, as in `huggingface_hub`.
        cache_dir: where the Hub's files are kept, as in `huggingface_hub`.
        local_files_only: whether to take what the cache has, and ask nobody, as with `HF_HUB_OFFLINE=1`.
        sha256: the SHA-256 that the weights must have. The one in `config.json` tells damage alone: who can change the
            weights there can change it too.
        module: an instance of your own architecture, for weights that are not of one in `list_backbones()`; a copy of
            it is filled.

    Raises:
        WeightsError: of one of its kinds: `WeightsNotFoundError` (also a FileNotFoundError), `WeightsAccessError`
            (PermissionError), `WeightsUnavailableError` (ConnectionError), `WeightsCorruptError` (ValueError) and
            `WeightsFormatError` (ValueError).
        ValueError: if an option does not apply to `source`.

    >>> load_backbone("tafm-compact").config.architecture
    'tafm-compact'
    """
    place = read_source(source, revision)
    if isinstance(place, str) and place not in PUBLISHED:
        if module is not None:
            raise ValueError(f"{place!r} is a name in list_backbones(): module= does not apply to it")
        backbone = create_backbone(place)
        if sha256 is not None:
            check_digest(backbone.sha256, sha256, place)
        return backbone
    hub = HubRepository("", token, None if cache_dir is None else Path(cache_dir), local_files_only)
    file, origin = read_file(place, hub)
    if sha256 is not None:
        check_digest(file.sha256, sha256, str(source))
    backbone = _backbone(file, module, str(source))
    backbone.source = origin
    return backbone


def read_file(place: Source, hub: HubRepository) -> tuple[WeightFile, str | None]:
    """Return verified weights and, if they are from the Hub, exactly where from.

    Args:
        place: what `read_source` returned, but no name of `list_backbones()`.
        hub: how the Hub is read; its repository is that of `place`.

    Raises:
        WeightsError: as `load_backbone`.
    """
    if isinstance(place, Path):
        return (read_weights(place) if place.suffix == ".safetensors" else read_folder(place)), None
    if isinstance(place, HubSource):
        file, commit = read_repository(hub._replace(repo_id=place.repo_id), place.revision)
        return file, f"hf-hub:{place.repo_id}@{commit}"
    published = PUBLISHED[place]
    # Public, so nobody's token is sent along.
    file, commit = read_repository(hub._replace(repo_id=published.repo_id, token=False), published.commit)
    check_digest(file.sha256, published.sha256, place)
    return file, f"hf-hub:{published.repo_id}@{commit}"


def _backbone(file: WeightFile, module: nn.Module | None, where: str) -> Backbone:
    if file.config is None:
        raise WeightsFormatError(
            f"{where} says nothing of its architecture and normalisation; name it: create_backbone(name, weights=...)"
        )
    if module is None and file.config.architecture == DISCRIMINATORS:
        module = discriminators_in(file)
    if module is not None:
        return _fill_copy(module, file, file.config, where)
    try:
        architecture = find_architecture(file.config.architecture)
    except ValueError as error:
        raise WeightsFormatError(
            f"{where} holds weights of the architecture {file.config.architecture!r}, which is not in "
            "list_backbones(); pass module= an instance of it"
        ) from error
    return from_weights(architecture, file)


def _fill_copy(module: nn.Module, file: WeightFile, config: BackboneConfig, where: str) -> Backbone:
    network = copy.deepcopy(module).cpu()
    fill_network(network, file, type(module).__name__)
    backbone = Backbone(network, config).eval()
    try:
        check_features(backbone)
    except ValueError as error:
        raise WeightsFormatError(f"{where} fits {type(module).__name__}, but {error}") from error
    return backbone
