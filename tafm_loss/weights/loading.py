"""Loading a backbone from wherever it is."""

import copy
import os
from pathlib import Path

from torch import nn

from tafm_loss.backbones.backbone import Backbone, BackboneConfig, check_features
from tafm_loss.backbones.discriminators import ARCHITECTURE as DISCRIMINATORS
from tafm_loss.backbones.discriminators import discriminator_backbone, discriminators_in
from tafm_loss.backbones.registry import create_backbone, find_architecture, from_weights, list_backbones
from tafm_loss.weights.errors import WeightsFormatError, WeightsNotFoundError
from tafm_loss.weights.files import WeightFile, check_digest, fill_network, read_weights
from tafm_loss.weights.folders import SHA256, read_folder
from tafm_loss.weights.hub import HubRepository, checked_token, read_repository
from tafm_loss.weights.published import PUBLISHED
from tafm_loss.weights.sources import HUB_PREFIX, HubSource, Source, read_source

__all__ = ["is_listed", "load_backbone", "read_file"]

BUNDLED = "tafm-compact"


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
        token: for private repositories, as in `huggingface_hub`; False sends none.
        cache_dir: where the Hub's files are kept, as in `huggingface_hub`.
        local_files_only: whether to take what the cache has, and ask nobody, as with `HF_HUB_OFFLINE=1`.
            Like `token` and `cache_dir` it is for repositories: a listed name is cached where its own library puts it.
        sha256: the SHA-256 that the weights must have, 64 hexadecimal digits. The one in `config.json` tells damage
            alone: who can change the weights there can change it too.
        module: an instance of your own architecture, for weights that are not of one in `list_backbones()`; a copy of
            it is filled.

    Raises:
        WeightsError: of one of its kinds: `WeightsNotFoundError` (also a FileNotFoundError), `WeightsAccessError`
            (PermissionError), `WeightsUnavailableError` (ConnectionError), `WeightsCorruptError` (ValueError) and
            `WeightsFormatError` (ValueError).
        ValueError: if an option does not apply to `source`, or has no value that it can have.
        TypeError: if an argument is of another type.

    >>> load_backbone("tafm-compact").config.architecture
    'tafm-compact'
    """
    place = read_source(source, revision)
    sha256 = _checked_sha256(sha256)
    if not isinstance(module, nn.Module | None):
        raise TypeError(f"module must be an instance of your network, got {module!r:.80}")
    if isinstance(place, str) and place not in PUBLISHED:
        if module is not None:
            raise ValueError(f"{place!r} is a name in list_backbones(): module= does not apply to it")
        if place != BUNDLED and (token is not None or cache_dir is not None or local_files_only):
            raise ValueError(
                f"token=, cache_dir= and local_files_only= are for repositories, and {place!r} is a name in "
                "list_backbones(); set HF_HUB_OFFLINE=1 to ask nobody"
            )
        backbone = create_backbone(place)
        if sha256 is not None:
            check_digest(backbone.sha256, sha256, place)
        return backbone
    file, origin = read_file(place, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    if sha256 is not None:
        check_digest(file.sha256, sha256, str(source))
    backbone = _backbone(file, module, str(source))
    backbone.source = origin
    return backbone


def read_file(
    place: Source,
    *,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> tuple[WeightFile, str | None]:
    """Return verified weights and, if they are from the Hub, exactly where from.

    Args:
        place: what `read_source` returned, but no name of `list_backbones()`.
        token: as for `load_backbone`, and the others too.
        cache_dir: where the Hub's files are kept.
        local_files_only: whether to ask nobody.

    Raises:
        WeightsError: as `load_backbone`.
    """
    if isinstance(place, Path):
        return (read_weights(place) if place.suffix == ".safetensors" else read_folder(place)), None
    cache = None if cache_dir is None else Path(cache_dir)
    if isinstance(place, HubSource):
        repository = HubRepository(place.repo_id, checked_token(token), cache, local_files_only)
        try:
            file, commit = read_repository(repository, place.revision)
        except WeightsNotFoundError as error:
            if Path(place.repo_id).exists():
                raise
            raise WeightsNotFoundError(f"{error}; nor is there a folder {place.repo_id} here") from None
        return file, f"{HUB_PREFIX}{place.repo_id}@{commit}"
    published = PUBLISHED[place]
    # Public, so nobody's token is sent along.
    repository = HubRepository(published.repo_id, False, cache, local_files_only)
    file, commit = read_repository(repository, published.commit)
    check_digest(file.sha256, published.sha256, place)
    return file, f"{HUB_PREFIX}{published.repo_id}@{commit}"


def is_listed(file: WeightFile) -> bool:
    """Whether the network that the weights are for is part of this package."""
    return file.config is not None and file.config.architecture in (*list_backbones(), DISCRIMINATORS)


def _checked_sha256(sha256: str | None) -> str | None:
    if sha256 is None:
        return None
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256.strip().lower()):
        raise ValueError(f"sha256 must be 64 hexadecimal digits, got {sha256!r:.80}")
    return sha256.strip().lower()


def _backbone(file: WeightFile, module: nn.Module | None, where: str) -> Backbone:
    if file.config is None:
        raise WeightsFormatError(
            f"{where} says nothing of its architecture and normalisation; name it: create_backbone(name, weights=...)"
        )
    if module is not None:
        return _fill_copy(module, file, file.config, where)
    if file.config.architecture == DISCRIMINATORS:
        return _discriminators(file, file.config)
    try:
        architecture = find_architecture(file.config.architecture)
    except ValueError as error:
        raise WeightsFormatError(
            f"{where} holds weights of the architecture {file.config.architecture!r:.80}, which is not in "
            "list_backbones(); in Python, load_backbone(source, module=...) takes an instance of it"
        ) from error
    return from_weights(architecture, file)


def _discriminators(file: WeightFile, config: BackboneConfig) -> Backbone:
    network = discriminators_in(file)
    measured = discriminator_backbone(network, config.name).config
    if (measured.taps, measured.minimum_size) != (dict(config.taps), config.minimum_size):
        raise WeightsFormatError(f"the config in {file.name} has other taps, or another minimum_size, than its network")
    return Backbone(network, config).eval()


def _fill_copy(module: nn.Module, file: WeightFile, config: BackboneConfig, where: str) -> Backbone:
    network = copy.deepcopy(module)
    fill_network(network, file, type(module).__name__)
    backbone = Backbone(network.cpu(), config).eval()
    try:
        check_features(backbone)
    except ValueError as error:
        raise WeightsFormatError(f"{where} fits {type(module).__name__}, but {error}") from error
    return backbone
