"""Files that are whole or not there, and what is refused of those that others wrote; names in messages."""

import os
from functools import partial
from pathlib import Path

import pytest

from tafm_loss._files import open_regular, read_object, replacing, write_atomically
from tafm_loss._text import did_you_mean, differences, natural_key, stable_name


def test_a_file_is_replaced_whole_or_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"first")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second" and list(tmp_path.iterdir()) == [path]
    (tmp_path / "new").touch()
    assert path.stat().st_mode == (tmp_path / "new").stat().st_mode


def test_what_may_never_end_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"text"
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "nowhere"):
        with pytest.raises(OSError):
            open_regular(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "expected a JSON object, got list"),
        ('{"a": 1, "a": 2}', "a key comes twice"),
        ('{"a": NaN}', "must be finite, got NaN"),
        ('{"a": 1e999}', "must be finite, got 1e999"),
        ('{"a": 1' + "0" * 400 + "}", "must be finite, got an integer of 401 digits"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        ("{", "Expecting"),
        (b"\xff", "can't decode"),
    ],
)
def test_json_that_the_standard_reader_lets_through_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_object(text)


def test_json_objects_are_read_from_text_and_bytes() -> None:
    assert read_object('{"a": 1.5}') == read_object(b'{"a": 1.5}') == {"a": 1.5}


def test_a_name_has_no_address_in_it() -> None:
    assert stable_name(partial) == repr(partial)
    assert stable_name(test_a_name_has_no_address_in_it) == "test_a_name_has_no_address_in_it"
    assert stable_name(object()) == "object"


def test_differences_tell_what_is_on_one_side_only() -> None:
    assert differences({"a": 1, "b": None}, {"a": 1, "c": [2]}) == ["c is null there and [2] now"]
    assert differences({"a": "x"}, {}) == ['a is "x" there and null now']


def test_near_names_are_asked_for_and_far_ones_are_not() -> None:
    options = ["vgg16", "vgg19", "clip-vit-b16"]
    assert did_you_mean("VGG91", options) == "did you mean 'vgg19' or 'vgg16'?"
    assert did_you_mean("clip_vit_b_16", options) == "did you mean 'clip-vit-b16'?"
    assert did_you_mean("dinov2", options) == ""


def test_numbers_in_names_are_compared_as_numbers() -> None:
    assert sorted(["a10", "a9", "b1", "a9b2", "10", "9"], key=natural_key) == ["9", "10", "a9", "a9b2", "a10", "b1"]
