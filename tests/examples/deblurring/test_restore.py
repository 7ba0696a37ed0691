"""Restoring photographs: files of the same names, nothing overwritten, faults in a line."""

from pathlib import Path

import pytest
import torch

from examples.deblurring import restore
from examples.deblurring.data.files import encode_png
from examples.deblurring.models.checkpoints import save_weights
from examples.deblurring.models.networks import create_network
from tafm_loss.images import read_pixels

NETWORK = ["--network", "residual-unet", "--network-options", "width=4"]


@pytest.fixture
def weights(tmp_path: Path) -> str:
    network = create_network("residual-unet", width=4)
    torch.nn.init.constant_(network.network.head.bias, 0.1)
    save_weights(network, tmp_path / "network.safetensors")
    return str(tmp_path / "network.safetensors")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for name in ("one.png", "deeper/two.png"):
        path = tmp_path / "photographs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(torch.full((3, 21, 30), 100, dtype=torch.uint8)))
    return tmp_path / "photographs"


def test_images_of_a_folder_or_one_are_restored_by_their_paths(tmp_path: Path, weights: str, photographs: Path) -> None:
    assert restore.main([weights, str(photographs), "--out", str(tmp_path / "out"), *NETWORK]) == 0
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")) == [
        "deeper/two.png",
        "one.png",
    ]
    # The network adds a tenth.
    assert bool((read_pixels(tmp_path / "out" / "one.png") == 100 + 26).all())
    assert restore.main([weights, str(photographs / "one.png"), "--out", str(tmp_path / "alone"), *NETWORK]) == 0
    assert sorted(path.name for path in (tmp_path / "alone").iterdir()) == ["one.png", "restore.json"]


def test_a_file_that_is_no_image_is_skipped_and_the_same_command_goes_on(
    tmp_path: Path, weights: str, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [weights, str(photographs), "--out", str(tmp_path / "out"), *NETWORK]
    whole = (photographs / "one.png").read_bytes()
    (photographs / "one.png").write_bytes(whole[:-30])
    assert restore.main(command) == 0
    captured = capsys.readouterr()
    assert f"warning: skipped {photographs / 'one.png'}: " in captured.err
    assert captured.out == f"1 image in {tmp_path / 'out'}; 1 image skipped\n"
    (photographs / "one.png").write_bytes(whole)
    (photographs / "deeper" / "two.png").write_bytes(b"")  # what is restored is not read again
    assert restore.main(command) == 0
    assert capsys.readouterr().out == f"2 images in {tmp_path / 'out'}, 1 of them from before\n"
    assert restore.main([*command, "--tile", "192"]) == 2
    assert "restored otherwise: tile is null there and 192 now; name another --out" in capsys.readouterr().err
    command[1] = str(photographs / "deeper")
    assert restore.main([*command[:3], str(tmp_path / "none"), *NETWORK]) == 2
    assert "none of the 1 image in" in capsys.readouterr().err


def test_no_image_is_overwritten(
    tmp_path: Path, weights: str, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (photographs / "one.png").read_bytes()
    assert restore.main([weights, str(photographs), "--out", str(photographs), *NETWORK]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (photographs / "one.png").read_bytes() == before


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"weights": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"options": []}, "--network must say"),
        ({"options": [*NETWORK, "--device", "abacus"]}, "--device abacus cannot be used"),
    ],
)
def test_faults_are_told_in_a_line(
    tmp_path: Path,
    weights: str,
    photographs: Path,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, object],
    told: str,
) -> None:
    words = {"weights": weights, "images": str(photographs), "options": NETWORK} | changed
    options = words["options"]
    assert isinstance(options, list)
    assert restore.main([str(words["weights"]), str(words["images"]), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert told in error and error.startswith("restore: error: ") and error.count("\n") == 1
