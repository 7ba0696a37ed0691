"""Data sets from a loopback Hub: fetched, unpacked and counted, whatever goes wrong on the way."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from examples.deblurring.data import gopro, reds
from examples.deblurring.data.trees import make_tree
from examples.deblurring.fetch import SOURCES, Archive, fetch, main
from tests.examples.deblurring.packed import Usage, zipped
from tests.hub_fixtures import go_offline
from tests.hub_server import endpoints
from tests.hub_server.server import HubServer

REPO = "owner/data"
TINY = {"train": {"GOPR0372_07_00": 1}, "test": {"GOPR0384_11_00": 1}}


def use_source(monkeypatch: pytest.MonkeyPatch, name: str, **changes: object) -> None:
    source = dataclasses.replace(SOURCES[name], repo_id=REPO, **changes)
    monkeypatch.setitem(SOURCES, name, source)


@pytest.fixture
def data_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The loopback Hub, which then answers for data sets, too."""
    monkeypatch.setattr(endpoints, "ROUTES", [*endpoints.ROUTES])
    endpoints.route("POST", "/api/datasets/{repo}/paths-info/{revision}")(endpoints.describe_paths)
    endpoints.route("GET HEAD", "/datasets/{repo}/resolve/{revision}/{path}")(endpoints.resolve)
    return hub


@pytest.fixture
def gopro_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A tiny GOPRO_Large, of which the tables say that it is all."""
    for split in ("train", "test"):
        make_tree("gopro", tmp_path / "tree", split, scenes=1, frames=1)
        monkeypatch.setitem(gopro.SCENES, split, TINY[split])
    use_source(monkeypatch, "gopro")
    return zipped(tmp_path / "tree")


def yes() -> bool:
    return True


def asked_parts(hub: HubServer) -> list[str | None]:
    """The ranges of the files that were asked for."""
    return [request.range for request in hub.requests if "/resolve/" in request.path and request.method == "GET"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_data_set_is_fetched_unpacked_and_counted(
    data_hub: HubServer,
    gopro_zip: bytes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    wrapped: bool,
) -> None:
    content = zipped(tmp_path / "tree", "GOPRO_Large/") if wrapped else gopro_zip
    data_hub.seed(REPO, {"GOPRO_Large.zip": content, "README.md": b"-"})
    assert main(["gopro", str(tmp_path / "sets"), "--yes"]) == 0
    told = capsys.readouterr().out
    assert f"GOPRO_Large.zip  {len(content) / 1e9:.2f} GB  GOPRO_Large" in told
    assert "gopro train: 1 pairs of 1 scenes" in told
    assert "gopro test: 1 pairs of 1 scenes" in told
    image = "train/GOPR0372_07_00/blur/000001.png"
    assert (tmp_path / "sets" / "GOPRO_Large" / image).read_bytes() == (tmp_path / "tree" / image).read_bytes()
    assert not list((tmp_path / "sets").glob(".*unpacking*"))


def test_what_is_there_is_counted_and_not_fetched_again(
    data_hub: HubServer, gopro_zip: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_hub.seed(REPO, {"GOPRO_Large.zip": gopro_zip})
    assert fetch("gopro", tmp_path / "sets", yes, progress=False)
    data_hub.requests.clear()
    assert fetch("gopro", tmp_path / "sets", lambda: False, progress=False)
    assert not data_hub.requests
    assert capsys.readouterr().out.count("gopro test: 1 pairs") == 2
    shutil.rmtree(tmp_path / "sets" / "GOPRO_Large" / "test")
    with pytest.raises(ValueError, match=r"no folder .*test.*; .* To fetch it anew, remove .*GOPRO_Large, and run the"):
        fetch("gopro", tmp_path / "sets", yes, progress=False)


@pytest.mark.parametrize("name", ["sets", "sets/archives", "sets/GOPRO_Large"])
def test_a_file_in_place_of_a_folder_is_told_before_anything_is_fetched(
    data_hub: HubServer, gopro_zip: bytes, tmp_path: Path, name: str
) -> None:
    data_hub.seed(REPO, {"GOPRO_Large.zip": gopro_zip})
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(NotADirectoryError, match=rf"{name} is no folder: remove it"):
        fetch("gopro", tmp_path / "sets", yes, progress=False)
    assert not data_hub.requests


def test_sizes_that_are_not_known_are_not_counted_as_nothing(
    data_hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    go_offline(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 1e12))
    assert not fetch("reds", tmp_path, lambda: False)
    assert "takes at least 68.5 GB" in capsys.readouterr().out
    assert not fetch("realblur", tmp_path, lambda: False)
    assert "takes about 24.4 GB" in capsys.readouterr().out


def test_nothing_is_fetched_unless_the_user_agrees(
    data_hub: HubServer, gopro_zip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_hub.seed(REPO, {"GOPRO_Large.zip": gopro_zip})
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert main(["gopro", str(tmp_path / "sets")]) == 2
    assert not any("/resolve/" in request.path for request in data_hub.requests)
    assert not (tmp_path / "sets").exists()


def test_an_interrupted_download_is_taken_up_by_the_next_call(
    data_hub: HubServer, gopro_zip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 10)
    data_hub.seed(REPO, {"GOPRO_Large.zip": gopro_zip})
    data_hub.stop_after(len(gopro_zip) // 2)
    with pytest.raises(OSError, match=r"cannot fetch GOPRO_Large.zip of owner/data: "):
        fetch("gopro", tmp_path / "sets", yes, progress=False)
    (part,) = (tmp_path / "sets" / "archives").iterdir()
    there = part.stat().st_size
    assert 0 < there < len(gopro_zip)
    data_hub.start()
    data_hub.requests.clear()
    assert fetch("gopro", tmp_path / "sets", yes, progress=False)
    assert asked_parts(data_hub) == [f"bytes={there}-"]
    assert (tmp_path / "sets" / "archives" / "GOPRO_Large.zip").read_bytes() == gopro_zip
    assert not part.exists()


def test_what_came_of_another_file_is_not_gone_on_with(
    data_hub: HubServer, gopro_zip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 10)
    data_hub.seed(REPO, {"GOPRO_Large.zip": b"of before" + gopro_zip})
    data_hub.stop_after(len(gopro_zip) // 2)
    with pytest.raises(OSError, match="cannot fetch"):
        fetch("gopro", tmp_path / "sets", yes, progress=False)
    data_hub.start()
    data_hub.seed(REPO, {"GOPRO_Large.zip": gopro_zip})
    data_hub.requests.clear()
    assert fetch("gopro", tmp_path / "sets", yes, progress=False)
    assert asked_parts(data_hub) == [None]


def test_a_pinned_revision_is_what_is_fetched(
    data_hub: HubServer, gopro_zip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = data_hub.seed(REPO, {"GOPRO_Large.zip": gopro_zip})
    data_hub.seed(REPO, {"GOPRO_Large.zip": b"another file, published later"})
    use_source(monkeypatch, "gopro", revision=commit)
    assert fetch("gopro", tmp_path / "sets", yes, progress=False)
    assert all(commit in request.path for request in data_hub.requests if "/datasets/" in request.path)


def test_the_archives_of_reds_become_one_tree(
    data_hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {}
    for split in ("train", "val"):
        make_tree("reds", tmp_path / "tree", split, scenes=1, frames=1)
        monkeypatch.setitem(reds.SCENES, split, {"000": 1})
        for kind in ("sharp", "blur", "blur_jpeg"):
            name = f"{split}_{kind}"
            files[f"{name}.zip"] = zipped(tmp_path / "tree" / split / name, f"{split}/{name}/")
    assert {archive.name for archive in SOURCES["reds"].archives} == files.keys()
    use_source(monkeypatch, "reds", revision=data_hub.seed(REPO, files))
    assert fetch("reds", tmp_path / "sets", yes, progress=False)
    assert "reds val: 1 pairs of 1 scenes" in capsys.readouterr().out
    assert (tmp_path / "sets" / "REDS" / "val" / "val_blur_jpeg" / "000" / "00000009.jpg").is_file()


def test_a_repository_without_the_file_or_no_repository_is_an_error_in_words(
    data_hub: HubServer, gopro_zip: bytes, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match=r"(?s)cannot ask the Hub for owner/data: .*Repository Not Found"):
        fetch("gopro", tmp_path / "sets", yes)
    data_hub.seed(REPO, {"GOPRO.zip": gopro_zip})
    with pytest.raises(FileNotFoundError, match=r"has no GOPRO_Large.zip any more"):
        fetch("gopro", tmp_path / "sets", yes)
    assert not (tmp_path / "sets").exists()


def test_without_the_hub_sizes_are_those_of_the_table_and_a_file_that_was_put_there_is_used(
    data_hub: HubServer,
    gopro_zip: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    go_offline(monkeypatch)
    use_source(monkeypatch, "gopro", archives=(Archive("GOPRO_Large.zip", "GOPRO_Large", 8e6),))
    with pytest.raises(ConnectionError, match=r"the Hub cannot be reached; .* or put the file at .*GOPRO_Large.zip"):
        fetch("gopro", tmp_path / "sets", yes)
    assert "about 0.01 GB" in capsys.readouterr().out
    (tmp_path / "sets" / "archives").mkdir(parents=True)
    (tmp_path / "sets" / "archives" / "GOPRO_Large.zip").write_bytes(gopro_zip)
    assert fetch("gopro", tmp_path / "sets", yes, progress=False)
    assert not data_hub.requests


def test_a_disk_that_is_too_small_is_found_before_anything_is_fetched(
    data_hub: HubServer, gopro_zip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_hub.seed(REPO, {"GOPRO_Large.zip": gopro_zip})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 2 * len(gopro_zip) - 1))
    with pytest.raises(OSError, match="has too little room"):
        fetch("gopro", tmp_path / "sets", yes)
    assert not any("/resolve/" in request.path for request in data_hub.requests)


def test_hide_has_no_source_and_its_place_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hide", str(tmp_path)]) == 2
    assert "HIDE is not on the Hub" in capsys.readouterr().err
    with pytest.raises(ValueError, match="choose from gopro, gopro_all, hide, realblur, reds"):
        fetch("gorpo", tmp_path, yes)
