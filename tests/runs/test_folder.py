"""The folder of a run: held by one, cleaned of what a killed one left and of nothing else, and left if it fails."""

import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from tafm_loss.runs import is_unused, locked, save_or_rescue

LEFT = f".{'0af3' * 8}.tmp"
HOLD = "import sys, pathlib, tafm_loss.runs as r\nwith r.locked(pathlib.Path(sys.argv[1])): print(flush=True); input()"


def test_another_process_is_refused_and_told_who_holds_the_folder_until_that_one_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "new" / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        refused = pytest.raises(BlockingIOError, match=rf"out is in use by process {holder.pid} on .+, since \d{{4}}-")
        with refused, locked(tmp_path / "new" / "out"):
            raise AssertionError
        holder.kill()
    with locked(tmp_path / "new" / "out"):
        assert str(os.getpid()) in (tmp_path / "new" / "out" / ".lock").read_text()
    with locked(tmp_path / "made"):
        pass
    assert sorted(os.listdir(tmp_path)) == ["new"] and os.listdir(tmp_path / "new" / "out") == []


def test_what_a_killed_run_left_goes_and_what_others_have_there_stays(tmp_path: Path) -> None:
    (tmp_path / "samples" / "deep").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    kept = [tmp_path / ".notes.tmp", tmp_path / ".0123.tmp", tmp_path / "other" / LEFT]
    gone = [tmp_path / LEFT, tmp_path / "samples" / LEFT, tmp_path / "samples" / "deep" / LEFT]
    for path in kept + gone:
        path.touch()
    with locked(tmp_path, "samples", "nowhere"):
        assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)


def test_a_folder_is_unused_until_somebody_writes_there(tmp_path: Path) -> None:
    assert is_unused(tmp_path / "none") and is_unused(tmp_path)
    with locked(tmp_path):
        (tmp_path / LEFT).touch()
    assert is_unused(tmp_path)
    (tmp_path / ".notes.tmp").touch()
    assert not is_unused(tmp_path)


def test_what_filelock_itself_has_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acquire = filelock.FileLock.acquire

    def without_flock(self: filelock.FileLock, **options: float) -> None:
        acquire(self, **options)
        Path(self.lock_file).write_text("1234\nhost\n")

    monkeypatch.setattr(filelock.FileLock, "acquire", without_flock)
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == "1234\nhost\n"


def test_where_no_lock_can_be_had_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_locks(*_: object, **__: object) -> None:
        raise OSError("No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", without_locks)
    with locked(tmp_path):
        assert is_unused(tmp_path)


def test_what_cannot_be_saved_is_saved_elsewhere_and_the_error_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))

    def save(folder: Path) -> None:
        (folder / "weights").write_bytes(b"hours of work")

    with pytest.raises(OSError, match=r"the network could not be written to .*out: .*No such file.*safe in") as told:
        save_or_rescue(save, tmp_path / "out", "the network")
    (rescued,) = (tmp_path / "temporary").iterdir()
    assert (rescued / "weights").read_bytes() == b"hours of work" and str(rescued) in str(told.value)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match=r"could not be written to .*out: .*; nor to a temporary folder: .*nowhere"):
        save_or_rescue(save, tmp_path / "out", "the network")
    assert os.listdir(tmp_path) == ["temporary"]
