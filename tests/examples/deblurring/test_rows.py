"""A table of images is read as it was written, or refused."""

import math
from pathlib import Path

import pytest

from examples.deblurring.evaluation.rows import RowFile, read_rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,scene,psnr\na,s,1\na,s,2\n", "line 3: the image a comes twice, with other values"),
        ("name,scene,psnr\na,s\nb,s,2\n", "line 2 has 2 cells, expected 3"),
        ("name,scene,psnr\na,s,x\n", "could not convert"),
        ("image,psnr\na,1\n", "the first line must begin with name,scene"),
        ("", "the first line must begin"),
    ],
)
def test_a_table_that_someone_has_changed_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "images.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        RowFile(path, ["psnr"])


def test_a_line_that_two_processes_have_written_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "images.csv"
    path.write_text("name,scene,psnr\na,s,1\nb,s,2\na,s,1\nb,s,2\n")
    file = RowFile(path, ["psnr"])
    assert file.done == {"a": "s", "b": "s"}
    assert path.read_text() == "name,scene,psnr\na,s,1\nb,s,2\n" and read_rows(path).names == ("a", "b")


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "images.csv", ["psnr", "ssim"])
    values = [{"psnr": math.inf, "ssim": 0.1 + 0.2}, {"psnr": -1e-300, "ssim": math.nan}]
    names = ['odd, "name"', "äöü"]
    for name, row in zip(names, values, strict=True):
        file.add(name, "scene", row)
    rows = read_rows(file.path)
    assert rows.names == tuple(names) and rows.columns == ("psnr", "ssim")
    assert rows.column("psnr").tolist() == [math.inf, -1e-300]
    assert rows.column("ssim")[0] == 0.1 + 0.2 and math.isnan(rows.column("ssim")[1])
