"""How the programs of the examples end, whatever the console, the disk and the memory."""

import contextlib
import io
import sys
from pathlib import Path

import pytest

from examples._common import run_program, user_path


def test_a_console_that_lacks_letters_shows_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", console)
    assert run_program("program", lambda: print("PSNR \u2191")) == 0
    console.seek(0)
    assert console.read() == "PSNR \\u2191\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_finds_no_room_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.suppress(OSError), open("/dev/full", "w") as full:  # closing it fails again
        monkeypatch.setattr(sys, "stdout", full)
        assert run_program("program", lambda: print("a table")) == 2
    assert "program: error: [Errno 28] No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")])
def test_a_want_of_memory_is_told_in_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def break_down() -> None:
        raise error

    assert run_program("program", break_down) == 2
    assert capsys.readouterr().err.startswith("program: error: the memory does not suffice")


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    def break_down() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_program("program", break_down)


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/runs") == Path("/home/me/runs")
