"""Which network a file or a run is, and that it restores as it is told to."""

import json
import re
from pathlib import Path

import pytest
import torch

from examples.deblurring.evaluation.inference import restore
from examples.deblurring.evaluation.methods import describe_network, open_method
from examples.deblurring.models.checkpoints import save_weights
from examples.deblurring.models.local_statistics import use_local_statistics
from tests.examples.deblurring.evaluation_runs import write_weights
from tests.examples.deblurring.small_networks import SMALL, images, small

CPU = torch.device("cpu")


@pytest.fixture
def nafnet(tmp_path: Path) -> Path:
    file = tmp_path / "nafnet.safetensors"
    save_weights(small("nafnet-32"), file)
    return file


def run_of(folder: Path, **data: int) -> Path:
    folder.mkdir()
    network = {"name": "nafnet-32", "options": SMALL["nafnet-32"]}
    (folder / "config.json").write_text(json.dumps({"network": network, "data": data}))
    save_weights(small("nafnet-32"), folder / "network.safetensors")
    return folder


def test_local_statistics_are_those_of_the_window(nafnet: Path) -> None:
    image = images(96, 128)
    plain = describe_network(nafnet, "nafnet-32", SMALL["nafnet-32"])
    local = describe_network(nafnet, "nafnet-32", SMALL["nafnet-32"], tlc=True, tlc_window=48)
    expected = small("nafnet-32").eval()
    torch.testing.assert_close(open_method(plain, CPU)(image[0]), restore(expected, image)[0])
    use_local_statistics(expected, 48)
    found = open_method(local, CPU)(image[0])
    torch.testing.assert_close(found, restore(expected, image)[0])
    assert (found - open_method(plain, CPU)(image[0])).abs().max() > 1e-5


def test_the_window_is_by_half_larger_than_the_crops_of_the_run(nafnet: Path, tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", crop_size=65)
    assert describe_network(folder, None, {}).tlc is None
    assert describe_network(folder, None, {}, tlc=True).tlc == 97
    assert describe_network(folder, None, {}, tlc=True, tlc_window=128).tlc == 128
    assert describe_network(nafnet, "nafnet-32", {}, tlc=True).tlc == 384
    with pytest.raises(ValueError, match="--tlc-window is of --tlc"):
        describe_network(folder, None, {}, tlc_window=128)
    unknown = run_of(tmp_path / "other")
    assert describe_network(unknown, None, {}).name == "nafnet-32"
    with pytest.raises(ValueError, match=r"does not say data.crop_size .*: give --tlc-window"):
        describe_network(unknown, None, {}, tlc=True)


def test_weights_that_have_changed_since_they_were_described_are_refused(tmp_path: Path) -> None:
    file = write_weights(tmp_path / "w.safetensors")
    network = describe_network(file, "residual-unet", {"width": 4})
    write_weights(file, shift=0.02)
    with pytest.raises((ValueError, OSError), match=re.escape(network.sha256[:8])):
        open_method(network, CPU)


def test_tiles_of_a_network_that_pools_are_said_to_be_another_protocol(
    nafnet: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    open_method(describe_network(nafnet, "nafnet-32", SMALL["nafnet-32"]), CPU)
    open_method(
        describe_network(write_weights(tmp_path / "w.safetensors"), "residual-unet", {"width": 4}, tile=256), CPU
    )
    assert not recwarn.list
    with pytest.warns(UserWarning, match="nafnet-32 pools over what it sees: tiles of 256 px are another protocol"):
        open_method(describe_network(nafnet, "nafnet-32", SMALL["nafnet-32"], tile=256), CPU)
