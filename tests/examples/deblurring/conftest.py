"""Fixtures of the tests of evaluations: a tiny data set, a tiny network, and the command on both."""

from pathlib import Path

import pytest

from examples.deblurring import evaluate
from examples.deblurring.data.trees import make_tree
from tests.examples.deblurring.evaluation_runs import FRAMES, SCENES, Evaluate, write_weights


@pytest.fixture(scope="module")
def gopro_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "GOPRO_Large"
    make_tree("gopro", folder, "test", scenes=SCENES, frames=FRAMES)
    return folder


@pytest.fixture(scope="module")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "network.safetensors")


@pytest.fixture
def run_on(gopro_root: Path, tmp_path: Path) -> Evaluate:
    """Return a function that evaluates into the folder `out`, on the tiny tree."""

    def call(
        what: str | Path,
        *more: str,
        out: str = "out",
        metrics: str = "psnr,ssim",
        root: str | Path = gopro_root,
        complete: str = "false",
        device: str = "cpu",
    ) -> int:
        arguments = [
            str(what),
            *more,
            "--dataset",
            "gopro",
            "--root",
            str(root),
            "--dataset-options",
            f"complete={complete}",
        ]
        arguments += ["--metrics", metrics, "--out", str(tmp_path / out), "--device", device]
        return evaluate.main(arguments)

    return call
