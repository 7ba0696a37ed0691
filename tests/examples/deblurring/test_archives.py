"""Archives of data sets: unpacked whole, or refused."""

import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.deblurring.data.archives import unpack
from examples.deblurring.data.trees import make_tree
from tests.examples.deblurring.packed import Usage, tarred, zipped


def hostile_zip(path: Path, name: str, *, link: bool = False) -> Path:
    member = zipfile.ZipInfo(name)
    if link:
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("harmless.txt", "")
        file.writestr(member, "../outside")
    return path


@pytest.mark.parametrize("name", ["../outside.txt", "a/../../outside.txt", "/outside.txt", "..\\outside.txt", "link"])
def test_a_zip_file_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    archive = hostile_zip(tmp_path / "a.zip", name, link=name == "link")
    with pytest.raises(ValueError, match="may lead out of the folder"):
        unpack(archive, tmp_path / "sets" / "A", progress=False)
    assert {path.name for path in tmp_path.rglob("*")} == {"a.zip", "sets"}


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("../outside.txt", tarfile.REGTYPE, ""),
        ("link", tarfile.SYMTYPE, "../../outside"),
        ("pipe", tarfile.FIFOTYPE, ""),
        ("b.txt", tarfile.LNKTYPE, "not_there.txt"),
    ],
)
def test_a_tar_file_that_leads_out_is_refused(tmp_path: Path, name: str, kind: bytes, target: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as file:
        file.addfile(member)
    with pytest.raises(ValueError, match=r"may lead out of the folder|is damaged"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "sets" / "A", progress=False)
    assert {path.name for path in tmp_path.rglob("*")} == {"a.tar.gz", "sets"}


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_damaged_archive_is_told_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    make_tree("flat", tmp_path / "tree", "train")
    content = zipped(tmp_path / "tree") if kind == "zip" else tarred(tmp_path / "tree")
    archive = tmp_path / f"a.{kind}"
    for damaged in (content[: len(content) // 2], b"", b"no archive"):
        archive.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            unpack(archive, tmp_path / "sets" / "A", progress=False)
        assert not list((tmp_path / "sets").iterdir())
    flipped = bytearray(content)
    flipped[len(content) // 3] ^= 0xFF
    archive.write_bytes(flipped)
    with pytest.raises(ValueError, match="is damaged"):
        unpack(archive, tmp_path / "sets" / "A", progress=False)


def test_what_an_interruption_left_is_cleared_away_and_what_is_there_is_kept(tmp_path: Path) -> None:
    make_tree("flat", tmp_path / "tree", "train")
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped(tmp_path / "tree"))
    left = tmp_path / ".A.unpacking"
    left.mkdir()
    (left / "half").touch()
    unpack(archive, tmp_path / "A", progress=False)
    assert [path.name for path in (tmp_path / "A").iterdir()] == ["train"]
    assert not left.exists()
    with pytest.raises(FileExistsError, match="is there already"):
        unpack(archive, tmp_path / "A", progress=False)


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_larger_than_the_disk_is_found_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[Path], bytes]
) -> None:
    make_tree("flat", tmp_path / "tree", "train")
    (tmp_path / "archive").write_bytes(pack(tmp_path / "tree"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 10))
    with pytest.raises(ValueError, match="unpacks to"):
        unpack(tmp_path / "archive", tmp_path / "A", progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"archive", "tree"}


def with_member(path: Path, *, flags: int = 0, method: int = 0) -> Path:
    """A ZIP file whose one member is said to be encrypted, or compressed in another way than it is."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "a")
    content = bytearray(path.read_bytes())
    for start, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.index(start) + offset
        content[place], content[place + 2] = flags, method
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("member", [{"flags": 1}, {"method": 99}])
def test_an_encrypted_archive_and_an_unknown_compression_are_told_in_words(
    tmp_path: Path, member: dict[str, int]
) -> None:
    archive = with_member(tmp_path / "a.zip", **member)
    with pytest.raises(ValueError, match=r"a.zip cannot be unpacked here \(.*\): unpack it to .*A with another"):
        unpack(archive, tmp_path / "A", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_without_files_is_refused(tmp_path: Path, pack: Callable[[Path], bytes]) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "archive").write_bytes(pack(tmp_path / "tree"))
    with pytest.raises(ValueError, match="archive holds no file: remove it, and fetch it anew"):
        unpack(tmp_path / "archive", tmp_path / "A", progress=False)
    assert not (tmp_path / "A").exists()
