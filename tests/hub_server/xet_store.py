"""A folder in which the real `hf_xet` keeps what clients upload, reached by the address `local://FOLDER`.

While a process with an open session lives, no other process can open the same folder.
"""

import shutil
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHARD_HEADER_BYTES = ENTRY_BYTES = 48
END_OF_FILES = b"\xff" * 32
HAS_VERIFICATION, HAS_SHA256 = 1 << 31, 1 << 30


@dataclass(frozen=True)
class XetFile:
    hash: str
    size: int


class XetStore:
    """What the Hub knows of the files in the folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()

    @property
    def url(self) -> str:
        return f"local://{self.folder}"

    def find(self, sha256: str) -> XetFile | None:
        """Return the file with this content, if a client uploaded it."""
        for shard in self.folder.rglob("shards/*.mdb"):
            for digest, file in read_shard(shard.read_bytes()):
                if digest == sha256:
                    return file
        return None

    def read(self, file: XetFile) -> bytes:
        """Put a file together again, for those who download it without Xet."""
        from hf_xet import XetFileInfo, XetSession  # type: ignore[import-untyped]

        with tempfile.TemporaryDirectory() as scratch:
            # The client still holds the lock of the folder itself.
            copy, out = Path(scratch, "store"), Path(scratch, "out")
            shutil.copytree(self.folder, copy)
            access = {"endpoint": f"local://{copy}", "token": "any", "token_expiry_unix_secs": 1 << 40}
            with XetSession().new_file_download_group(**access) as group:
                group.start_download_file(XetFileInfo(file.hash, file.size), str(out))
            return out.read_bytes()


def read_shard(data: bytes) -> Iterator[tuple[str, XetFile]]:
    """Yield SHA-256 and file of each file that a shard describes.

    After the header comes one record for each file, in entries of 48 bytes: the hash with flags and a number of
    segments, the segments, a verification for each segment if the flags say so, the SHA-256 if they say so.
    """
    at = SHARD_HEADER_BYTES
    while data[at : at + 32] != END_OF_FILES:
        name, (flags, segments) = data[at : at + 32], struct.unpack_from("<II", data, at + 32)
        at += ENTRY_BYTES
        size = sum(struct.unpack_from("<I", data, at + ENTRY_BYTES * index + 36)[0] for index in range(segments))
        at += ENTRY_BYTES * segments * (2 if flags & HAS_VERIFICATION else 1)
        if flags & HAS_SHA256:
            yield hash_text(data[at : at + 32]), XetFile(hash_text(name), size)
            at += ENTRY_BYTES


def hash_text(raw: bytes) -> str:
    """Write a hash as Xet does: four little-endian words, each in hexadecimal digits."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))
