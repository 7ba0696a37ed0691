"""What a Hub keeps: repositories with commits, branches and tags. Knows nothing of HTTP."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

MAX_REGULAR_BYTES = 10_000_000
MAIN = "main"
DATE = "2026-01-01T00:00:00.000Z"


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def is_lfs(path: str, size: int) -> bool:
    """Whether a new file goes to the large file storage; an empty one never does."""
    return size > MAX_REGULAR_BYTES or (path.endswith(".safetensors") and size > 0)


@dataclass(frozen=True)
class File:
    data: bytes = field(repr=False)
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git itself holds in the place of an LFS file."""
        version = "version https://git-lfs.github.com/spec/v1"
        return f"{version}\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @cached_property
    def blob_id(self) -> str:
        return git_oid(self.pointer if self.lfs else self.data)

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob_id


@dataclass(frozen=True)
class Commit:
    oid: str
    files: dict[str, File] = field(repr=False)


@dataclass
class Repository:
    id: str
    private: bool = False
    gated: bool = False
    disabled: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.id.split("/", maxsplit=1)[0]

    def find(self, revision: str) -> Commit | None:
        """Return the commit of a branch, a tag or a full commit oid."""
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)

    def add(self, branch: str, files: dict[str, File]) -> Commit:
        """Put a commit that holds exactly `files` on a branch, which begins here if it is new."""
        parent = self.branches.get(branch)
        # The number makes two commits of the same content differ, as the time does in git.
        identity: list[Any] = [self.id, parent, len(self.commits), {path: file.blob_id for path, file in files.items()}]
        oid = hashlib.sha1(json.dumps(identity).encode()).hexdigest()
        self.commits[oid] = Commit(oid, files)
        self.branches[branch] = oid
        return self.commits[oid]
