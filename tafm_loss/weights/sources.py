"""What a source means: a listed name, a path, or a repository on the Hub."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from tafm_loss.backbones.registry import list_backbones, no_such_backbone
from tafm_loss.backbones.weight_errors import WeightsNotFoundError
from tafm_loss.weights.published import PUBLISHED

__all__ = ["HubSource", "Source", "read_source"]

HUB_PREFIX, FOLDER_PREFIX = "hf-hub:", "local-dir:"
HUB_ID = re.compile(r"(?P<repo_id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^@\s]+))?", re.ASCII)


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
    """
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
        return Path(text).expanduser()
    if text.startswith(FOLDER_PREFIX):
        return Path(text.removeprefix(FOLDER_PREFIX)).expanduser()
    if text in PUBLISHED or text in list_backbones():
        return text
    if text.startswith((".", "/", "~")) or (text and Path(text).exists()):
        return Path(text).expanduser()
    match = HUB_ID.fullmatch(text.removeprefix(HUB_PREFIX))
    if match is not None:
        return HubSource(match["repo_id"], match["revision"])
    raise WeightsNotFoundError(f"{no_such_backbone(text)}; nor is it a folder, or an owner/name[@revision] on the Hub")
