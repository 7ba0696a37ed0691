"""One resolver: what a source means, where its weights are, and the backbone that they make."""

import copy
import dataclasses
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from tafm_loss._ambient import usual_defaults
from tafm_loss._files import user_path
from tafm_loss._text import did_you_mean
from tafm_loss.backbones.architecture import Architecture, Bundled
from tafm_loss.backbones.backbone import Backbone, came_from, check_features
from tafm_loss.backbones.config import BackboneConfig, narrowed
from tafm_loss.backbones.discriminators import ARCHITECTURE as DISCRIMINATORS
from tafm_loss.backbones.discriminators import discriminator_backbone
from tafm_loss.backbones.registry import ARCHITECTURES
from tafm_loss.weights.defaults import default_file, is_default
from tafm_loss.weights.errors import WeightsFormatError, WeightsNotFoundError
from tafm_loss.weights.files import WeightFile, check_digest, discriminators_in, fill_network, read_weights
from tafm_loss.weights.folders import SHA256, read_folder
from tafm_loss.weights.hub import HUB_PREFIX, REPOSITORY, HubRepository, HubSource, checked_token, read_repository

__all__ = ["PUBLISHED", "RECOMMENDED", "create_backbone", "cut_backbone", "load_backbone", "locate", "read_source"]

FOLDER_PREFIX = "local-dir:"
HUB_ID = re.compile(r"(?P<repo_id>[^/\s@]+/[^/\s@]+)(?:@(?P<revision>[^@\s]+))?")
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".json")
LONGEST_ECHO = 80
RECOMMENDED = "recommended"

Layers = Sequence[str] | str


# What the project itself has published, by name. None yet; RELEASING.md says how a line comes here.
PUBLISHED: Mapping[str, HubSource] = {}


@usual_defaults()
def create_backbone(
    name: str, *, weights: str | os.PathLike[str] | None = "default", layers: Layers | None = None
) -> Backbone:
    """Return the backbone of that name, in evaluation mode.

    Args:
        name: one of `list_backbones()`.
        weights: "default" for the weights in the package (`tafm-lite` and `tafm-compact`), torchvision's ImageNet
            weights or OpenAI's CLIP weights; a path to a .safetensors file or a pickled state dict (.pth, .pt, .bin)
            with the names of torchvision or open_clip, which may hold more than the network needs; None for random
            weights, drawn from PyTorch's global generator. CLIP's weights have no head for the backbones that end in
            an embedding: it is drawn likewise, and means nothing until `finetune_backbone` has tuned it.
        layers: the taps to read; the network is cut after the deepest. None: what the config of a file says that this
            package wrote; else the last tap of every resolution (so `relu1_2`, `relu2_2`, `relu3_3`, `relu4_3` and
            `relu5_3` for vgg16), or `block3` for CLIP's ViTs. "recommended": what that config recommends.

    Raises:
        WeightsError: if there is no such name, or the weights cannot be had or do not fit.
        ValueError: if a tap is unknown.

    Warns:
        UserWarning: if `weights` is None, or a head is drawn.

    >>> create_backbone("tafm-lite").config.licence
    'Apache-2.0'
    """
    architecture = locate(name)
    if not isinstance(architecture, Architecture):
        raise WeightsNotFoundError(
            f"{_echo(name)} is no name in list_backbones(): load_backbone reads folders and the Hub"
        )
    if layers not in (None, RECOMMENDED):
        layers = architecture.choose(layers)  # before weights are fetched
    if weights is None:
        _warn(f"backbone {name} has random weights: its features mean", 'pass weights="default" for trained ones')
        network = architecture.build(architecture.choose(_recommended(None, layers)))
        return Backbone(network, architecture.config(network, base_weights="none")).eval()
    file = default_file(architecture) if weights == "default" else read_weights(weights)
    layers = _recommended(file.config, layers)
    drawn = {} if file.config is not None else architecture.random_part(file.tensors)
    if drawn:
        advice = "tune it by finetune_backbone, save the result with save_backbone and load that"
        _warn(f"head of the backbone {name} is random: its embedding means", advice)
    whole = file._replace(tensors={**file.tensors, **drawn})
    backbone = _build(architecture, whole, layers, default=weights == "default")
    return backbone if drawn else came_from(backbone, file.sha256)


@usual_defaults()
def load_backbone(
    source: str | os.PathLike[str],
    *,
    layers: Layers | None = None,
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
        layers: as for `create_backbone`; your own module is not cut.
        revision: branch, tag or commit on the Hub. Only a commit stays the same; the attribute `source` of the result
            names the one that was found.
        token: as in `huggingface_hub`; this and the next two are for repositories alone.
        cache_dir: as in `huggingface_hub`.
        local_files_only: whether to take what the cache has, and ask nobody, as with `HF_HUB_OFFLINE=1`.
        sha256: the SHA-256 that the weights must have. The one in `config.json` tells damage alone: who can change the
            weights there can change it too. A `model.safetensors` alone has no SHA-256 with it: what is damaged in it
            and can still be read is found by this argument only.
        module: an instance of your own architecture, for weights that are not of one in `list_backbones()`; a copy of
            it is filled.

    Raises:
        WeightsError: of one of its kinds: `WeightsNotFoundError` (also a FileNotFoundError), `WeightsAccessError`
            (PermissionError), `WeightsUnavailableError` (ConnectionError), `WeightsCorruptError` (ValueError) and
            `WeightsFormatError` (ValueError).
        ValueError: if a tap is unknown, or an option does not apply to `source`, or has no value that it can have.
        TypeError: if an argument is of another type.

    >>> load_backbone("tafm-lite").config.architecture
    'tafm-lite'
    """
    place = locate(source, revision)
    sha256 = _checked_sha256(sha256)
    if not isinstance(module, nn.Module | None):
        raise TypeError(f"module must be an instance of your network, got {module!r:.80}")
    if isinstance(place, Architecture):
        if module is not None:
            raise ValueError(f"{source!r} is a name in list_backbones(): module= does not apply to it")
        if not isinstance(place.default_weights, Bundled) and (token is not None or cache_dir or local_files_only):
            raise ValueError(
                f"token=, cache_dir= and local_files_only= are for repositories, and {source!r} is a name in "
                "list_backbones(); set HF_HUB_OFFLINE=1 to ask nobody"
            )
        backbone = create_backbone(place.name, layers=layers)
    else:
        file, origin = read_source(place, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        backbone = came_from(_backbone(file, layers, module, str(source)), file.sha256)
        backbone.source = origin
    if sha256 is not None:
        check_digest(backbone.sha256, sha256, str(source))
    return backbone


def cut_backbone(backbone: Backbone, layers: Layers | None) -> Backbone:
    """Return a backbone that reads some layers, its network cut after the deepest; itself if that cannot be cut.

    Args:
        backbone: which may be cut already, and is left alone.
        layers: as for `create_backbone`; None for all of its taps.

    Raises:
        ValueError: if a tap is unknown.
    """
    config, layers = backbone.config, _recommended(backbone.config, layers)
    architecture = ARCHITECTURES.get(config.architecture)
    names = {layers} if isinstance(layers, str) else set(layers or config.taps)
    if architecture is None or not names < config.taps.keys() or not names <= set(architecture.taps):
        return backbone
    if type(architecture.build_empty(tuple(names))) is not type(backbone.network):  # somebody's own, of the same name
        return backbone
    # As a file would hold them.
    weights = {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in backbone.state().items()
    }
    file = WeightFile(config.name, backbone.sha256, weights, config)
    return came_from(_build(architecture, file, tuple(names)).to(backbone.mean), file.sha256)


def locate(source: str | os.PathLike[str], revision: str | None = None) -> Architecture | Path | HubSource:
    """Return what `source` means: a listed name, a path, or a repository; errors as in `load_backbone`."""
    if not isinstance(os.fspath(source), str):
        raise TypeError(f"source must be text or a path, got {type(source).__name__}")
    if not isinstance(revision, str | None):
        raise TypeError(f"revision must be text, got {type(revision).__name__}")
    place = _place(source)
    if revision is None:
        return place
    if not isinstance(place, HubSource) or place.sha256 is not None:
        raise ValueError(f"revision= is for a repository on the Hub, and {str(source)!r} is none")
    if place.revision not in (None, revision):
        raise ValueError(f"{str(source)!r} and revision={revision!r} name two revisions; give one")
    return place._replace(revision=revision)


def read_source(
    place: Path | HubSource,
    *,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> tuple[WeightFile, str | None]:
    """Return the verified weights at a place and, if it is on the Hub, exactly where from; as `load_backbone`."""
    if isinstance(place, Path):
        return (read_weights(place) if place.suffix == ".safetensors" else read_folder(place)), None
    # What the project has published is public, so nobody's token is sent along.
    token = checked_token(token) if place.sha256 is None else False
    cache = None if cache_dir is None else user_path(cache_dir)
    repository = HubRepository(place.repo_id, token, cache, local_files_only)
    try:
        file, commit = read_repository(repository, place.revision)
    except WeightsNotFoundError as error:
        if Path(place.repo_id).exists():
            raise
        raise WeightsNotFoundError(f"{error}; nor is there a folder {place.repo_id} here") from None
    if place.sha256 is not None:
        check_digest(file.sha256, place.sha256, place.repo_id)
    return file, f"{HUB_PREFIX}{place.repo_id}@{commit}"


def _place(source: str | os.PathLike[str]) -> Architecture | Path | HubSource:
    text = os.fspath(source)
    if not isinstance(source, str):
        return _path(text)
    if text.startswith(FOLDER_PREFIX):
        return _path(text.removeprefix(FOLDER_PREFIX))
    if (listed := ARCHITECTURES.get(text) or PUBLISHED.get(text)) is not None:
        return listed
    if text.startswith((".", "/", "~")) or text.endswith(WEIGHTS_SUFFIXES) or _exists(text):
        return _path(text)
    match = HUB_ID.fullmatch(text.removeprefix(HUB_PREFIX))
    if match is not None and REPOSITORY.fullmatch(match["repo_id"]):
        return HubSource(match["repo_id"], match["revision"])
    raise _unknown(text)


def _unknown(text: str) -> WeightsNotFoundError:
    near = did_you_mean(text.removeprefix(HUB_PREFIX), ARCHITECTURES)
    names = near or f"the names are {', '.join(ARCHITECTURES)}."
    return WeightsNotFoundError(
        f"no backbone is called {_echo(text)}; {names} load_backbone also takes a folder that is there, or an "
        "owner/name[@revision] that the Hub could have"
    )


def _path(text: str) -> Path:
    try:
        return user_path(text)
    except ValueError as error:
        raise WeightsNotFoundError(str(error)) from None


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):  # too long to be a path, or with a character that none can have
        return False


def _echo(text: str) -> str:
    return repr(text if len(text) <= LONGEST_ECHO else f"{text[:LONGEST_ECHO]}...")


def _checked_sha256(sha256: str | None) -> str | None:
    if sha256 is not None and not (isinstance(sha256, str) and SHA256.fullmatch(sha256.strip().lower())):
        raise ValueError(f"sha256 must be 64 hexadecimal digits, got {sha256!r:.80}")
    return sha256 and sha256.strip()


def _warn(what: str, advice: str) -> None:
    warnings.warn(f"the {what} nothing until it is trained; {advice}", UserWarning, stacklevel=4)


def _backbone(file: WeightFile, layers: Layers | None, module: nn.Module | None, where: str) -> Backbone:
    config = file.config
    if config is None:
        raise WeightsFormatError(
            f"{where} says nothing of its architecture and normalisation; name it: create_backbone(name, weights=...)"
        )
    layers = _recommended(config, layers)
    if module is not None:
        return _fill_copy(module, file, _read_at(config, layers), where)
    if config.architecture == DISCRIMINATORS:
        network = discriminators_in(file)
        measured = discriminator_backbone(network, config.name).config
        if (measured.taps, measured.minimum_size) != (config.taps, config.minimum_size):
            raise WeightsFormatError(f"the config in {file.name} has other taps, or another size, than its network")
        return Backbone(network, _read_at(config, layers)).eval()
    if config.architecture not in ARCHITECTURES:
        raise WeightsFormatError(
            f"{where} holds weights of the architecture {config.architecture!r:.80}, which is not in "
            "list_backbones(); in Python, load_backbone(source, module=...) takes an instance of it"
        )
    return _build(ARCHITECTURES[config.architecture], file, layers)


def _build(architecture: Architecture, file: WeightFile, layers: Layers | None, *, default: bool = False) -> Backbone:
    """Return the backbone that `file` holds, cut after the deepest of `layers`, in evaluation mode."""
    config = file.config
    if config is not None and config.architecture != architecture.name:
        raise WeightsFormatError(f"{file.name} holds a {config.architecture}, not a {architecture.name}")
    try:
        chosen = architecture.choose(tuple(config.taps) if layers is None and config is not None else layers)
    except ValueError as error:
        if layers is not None:
            raise
        raise WeightsFormatError(f"the config in {file.name} does not fit: {error}") from error
    network = architecture.build_empty(chosen)
    exact = config is not None and layers is None
    fill_network(network, file, architecture.name, accepts=None if exact else architecture.accepts)
    if config is None:
        known = default or is_default(architecture, file)
        named = None if known else f"{file.name} (sha256 {file.sha256})"
        return Backbone(network, architecture.config(network, base_weights=named)).eval()
    taps, minimum_size = architecture.measure(network)
    for name, tap in taps.items():
        if config.taps.get(name, tap) != tap:
            raise WeightsFormatError(
                f"the config in {file.name} says {name} is {config.taps[name]}, but the network has {tap}"
            )
    if taps != config.taps:
        config = dataclasses.replace(narrowed(config, taps), minimum_size=minimum_size)
    elif config.minimum_size < minimum_size:
        raise WeightsFormatError(
            f"the config in {file.name} says that {config.minimum_size} px are enough, but {minimum_size} are needed"
        )
    return Backbone(network, config).eval()


def _recommended(config: BackboneConfig | None, layers: Layers | None) -> Layers | None:
    """Return the layers, those of the config where these are asked for; None if it has no opinion."""
    if layers != RECOMMENDED:
        return layers
    return (tuple(config.recommended_layers) or None) if config is not None else None


def _fill_copy(module: nn.Module, file: WeightFile, config: BackboneConfig, where: str) -> Backbone:
    network = copy.deepcopy(module)
    fill_network(network, file, type(module).__name__)
    backbone = Backbone(network.cpu(), config).eval()
    try:
        check_features(backbone)
    except ValueError as error:
        raise WeightsFormatError(f"{where} fits {type(module).__name__}, but {error}") from error
    return backbone


def _read_at(config: BackboneConfig, layers: Layers | None) -> BackboneConfig:
    """Return the config of a network that cannot be cut, read at some of its taps."""
    if layers is None:
        return config
    wanted = {layers} if isinstance(layers, str) else set(layers)
    if not wanted or not wanted <= config.taps.keys():
        raise ValueError(f"layers must be taps of {config.name}, {', '.join(config.taps)}, got {', '.join(wanted)}")
    return narrowed(config, {name: tap for name, tap in config.taps.items() if name in wanted})
