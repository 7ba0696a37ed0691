"""The backbones that the project itself has published on the Hub."""

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["PUBLISHED", "PublishedBackbone"]


class PublishedBackbone(NamedTuple):
    """Where one is, and the SHA-256 that authenticates it: a Hub that serves other bytes is not believed."""

    repo_id: str
    commit: str
    sha256: str


# None yet. RELEASING.md says how a line comes here.
PUBLISHED: Mapping[str, PublishedBackbone] = {}
