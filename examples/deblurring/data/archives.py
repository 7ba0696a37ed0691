"""Archives of data sets, unpacked whole and nowhere else than asked for."""

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

__all__ = ["is_empty", "unpack"]

DAMAGE = (zipfile.BadZipFile, tarfile.ReadError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError, KeyError)
BLOCK_BYTES = 1 << 20


def unpack(archive: Path, folder: Path, *, progress: bool = True) -> None:
    """Unpack a ZIP or TAR file into a new folder, which appears when all of it is there.

    Folders that the archive puts around its contents are left out where they are called as one in the path of
    `folder`: train/train_sharp/000 becomes 000 in REDS/train/train_sharp.

    An empty folder is taken as none.

    Args:
        archive: a ZIP file, or a TAR file with any compression.
        folder: which must not exist, or be empty.
        progress: whether to show a progress bar.

    Raises:
        FileExistsError: if there is such a folder.
        OSError: if it cannot be written.
        ValueError: if the archive is damaged, encrypted, without a file or larger than the free disk, or has a path
            that leads out of the folder.
    """
    if folder.exists() and not is_empty(folder):
        raise FileExistsError(f"{folder} is there already: remove it, or name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The same name each time, so that what an interruption leaves is cleared away by the next call.
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        try:
            members = _unzip if zipfile.is_zipfile(archive) else _untar
            for _ in tqdm(members(archive, temporary), disable=not progress, desc=archive.name, unit="file"):
                pass
        except DAMAGE as error:
            raise ValueError(f"{archive} is damaged ({error}): remove it, and fetch it anew") from error
        except RuntimeError as error:
            raise ValueError(
                f"{archive} cannot be unpacked here ({error}): unpack it to {folder} with another program"
            ) from error
        if not any(path.is_file() for path in temporary.rglob("*")):
            raise ValueError(f"{archive} holds no file: remove it, and fetch it anew")
        if folder.exists():
            folder.rmdir()
        _content(temporary, folder.parts).rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_empty(path: Path) -> bool:
    """Return whether a path is a folder that holds nothing."""
    return path.is_dir() and not any(path.iterdir())


def _unzip(archive: Path, folder: Path) -> Iterator[str]:
    with zipfile.ZipFile(archive) as file:
        _check_room(archive, sum(member.file_size for member in file.infolist()), folder)
        for member in file.infolist():
            path = PurePosixPath(member.filename.replace("\\", "/"))
            is_link = stat.S_ISLNK(member.external_attr >> 16)
            if path.is_absolute() or ".." in path.parts or ":" in member.filename or is_link:
                raise ValueError(
                    f"{archive} holds {member.filename!r}, which may lead out of the folder: do not trust it"
                )
            file.extract(member, folder)
            yield member.filename


def _untar(archive: Path, folder: Path) -> Iterator[str]:
    if not hasattr(tarfile, "data_filter"):
        raise ValueError(f"to unpack {archive} safely takes Python 3.10.12, 3.11.4, or 3.12 and later")
    with tarfile.open(archive) as file:
        for member in file:
            _check_room(archive, member.size, folder)
            try:
                file.extract(member, folder, filter="data")
            except tarfile.FilterError as error:
                raise ValueError(
                    f"{archive} holds what may lead out of the folder ({error}): do not trust it"
                ) from error
            yield member.name
        # The checksum of a compressed file comes at its end, to which the members alone do not lead.
        while file.fileobj is not None and file.fileobj.read(BLOCK_BYTES):
            pass


def _check_room(archive: Path, needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f"{archive} unpacks to {needed / 1e9:.1f} GB more, and {folder.parent} has {free / 1e9:.1f} GB"
        )


def _content(folder: Path, wrappers: Collection[str]) -> Path:
    """Return the folder that holds more than one further folder of a known name."""
    entries = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    if len(entries) == 1 and entries[0].is_dir() and entries[0].name in wrappers:
        return _content(entries[0], wrappers)
    return folder
