"""Archives of folders, files of nothing, and a disk of any size."""

import io
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

Usage = namedtuple("Usage", "total used free")


def touch(path: Path) -> Path:
    """A file that is found and not read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def zipped(folder: Path, wrapper: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                file.write(path, f"{wrapper}{path.relative_to(folder).as_posix()}")
    return buffer.getvalue()


def tarred(folder: Path, wrapper: str = "tree") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        file.add(folder, wrapper)
    return buffer.getvalue()
