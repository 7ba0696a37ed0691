"""What a source means: a listed name, a path, or a repository on the Hub."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from tafm_loss._text import did_you_mean
from tafm_loss.backbones.registry import list_backbones
from tafm_loss.weights.errors import WeightsNotFoundError
from tafm_loss.weights.published import PUBLISHED

__all__ = ["HUB_PREFIX", "REPOSITORY", "HubSource", "Source", "read_source"]

HUB_PREFIX, FOLDER_PREFIX = "hf-hub:", "local-dir:"
# The rule of the Hub. The client's own, which in older versions lets more through, is asked besides.
REPOSITORY = re.compile(r"(?!.*(?:--|\.\.|\.git$))\b[\w.-]{1,96}\b/\b[\w.-]{1,96}\b", re.ASCII)
HUB_ID = re.compile(r"(?P<repo_id>[^/\s@]+/[^/\s@]+)(?:@(?P<revision>[^@\s]+))?")
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".json")
LONGEST_ECHO = 80


class HubSource(NamedTuple):
    """A repository, and a branch, tag or commit of it; None for the default branch."""

    repo_id: str
    revision: str | None


Source = str | Path | HubSource


def read_source(source: str | os.PathLike[str], revision: str | None = None) -> Source:
    """Return what `source` means, as `load_backbone` describes it: a listed name as it is, a path, or a repository.

    Raises:
        WeightsNotFoundError: if it can be read in no way.
        ValueError: if `revision` is given for something that has none, or contradicts the one in `source`.
        TypeError: if `source` is neither text nor a path, or `revision` no text.
    """
    if not isinstance(os.fspath(source), str):
        raise TypeError(f"source must be text or a path, got {type(source).__name__}")
    if not isinstance(revision, str | None):
        raise TypeError(f"revision must be text, got {type(revision).__name__}")
    place = _place(source)
    if isinstance(place, HubSource):
        if place.revision is not None and revision not in (None, place.revision):
            raise ValueError(f"{str(source)!r} and revision={revision!r} name two revisions; give one")
        return HubSource(place.repo_id, place.revision or revision)
    if revision is not None:
        raise ValueError(f"revision= is for a repository on the Hub, and {str(source)!r} is none")
    return place


def _place(source: str | os.PathLike[str]) -> Source:
    text = os.fspath(source)
    if not isinstance(source, str):
        return _path(text)
    if text.startswith(FOLDER_PREFIX):
        return _path(text.removeprefix(FOLDER_PREFIX))
    if text in PUBLISHED or text in list_backbones():
        return text
    if text.startswith((".", "/", "~")) or text.endswith(WEIGHTS_SUFFIXES) or _exists(text):
        return _path(text)
    match = HUB_ID.fullmatch(text.removeprefix(HUB_PREFIX))
    if match is not None and REPOSITORY.fullmatch(match["repo_id"]):
        return HubSource(match["repo_id"], match["revision"])
    raise WeightsNotFoundError(
        f"{_echo(text)} is no name in list_backbones(){_near(text)}, nor is it a folder, or an owner/name[@revision] "
        "that the Hub could have"
    )


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # "~somebody"
        raise WeightsNotFoundError(f"{_echo(text)} is in the home of a user who is not known here") from None


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):  # too long to be a path, or with a character that none can have
        return False


def _near(text: str) -> str:
    near = did_you_mean(text.removeprefix(HUB_PREFIX), list_backbones())
    return f" ({near})" if near else ""


def _echo(text: str) -> str:
    return repr(text if len(text) <= LONGEST_ECHO else f"{text[:LONGEST_ECHO]}...")
