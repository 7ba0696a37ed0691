"""A tiny data set, a tiny network, and evaluations and trainings of both."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from examples.deblurring import evaluate
from examples.deblurring.data.trees import make_tree
from examples.deblurring.evaluation.perceptual import TRUNKS, digest_of, trunk_file
from tests.examples.deblurring.evaluation_runs import FRAMES, SCENES, Evaluate, Refused, write_weights
from tests.examples.deblurring.random_trunks import random_features
from tests.examples.deblurring.training_runs import Run


@pytest.fixture(scope="module")
def gopro_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "GOPRO_Large"
    make_tree("gopro", folder, "test", scenes=SCENES, frames=FRAMES)
    return folder


@pytest.fixture(scope="module")
def network_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "network.safetensors")


@pytest.fixture(scope="session")
def trunk_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trunks")
    for network in TRUNKS:
        weights = {f"features.{name}": each for name, each in random_features(network).state_dict().items()}
        save_file(weights, trunk_file(network, folder))
    return folder


@pytest.fixture
def trunks(trunk_files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of networks with random weights, which pass for torchvision's."""
    for network in TRUNKS:
        monkeypatch.setitem(TRUNKS, network, digest_of(random_features(network).state_dict()))
    return trunk_files


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
        options = {"--dataset": "gopro", "--root": root, "--dataset-options": f"complete={complete}"}
        options |= {"--metrics": metrics, "--out": tmp_path / out, "--device": device}
        return evaluate.main([str(what), *more, *(str(word) for option in options.items() for word in option)])

    return call


@pytest.fixture
def refused(run_on: Evaluate, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return a function that evaluates as `run_on` does, but in vain, and returns what is told of it."""

    def call(*arguments: str | Path, **options: str | Path) -> str:
        assert run_on(*arguments, **options) == 2
        return capsys.readouterr().err

    return call


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    for split in ("train", "test"):
        make_tree("flat", folder / "tree", split)
    return folder


@pytest.fixture
def run(request: pytest.FixtureRequest, datasets: Path, tmp_path: Path) -> Run:
    """Return a function that trains by the CONFIG of the tests, with changes, and says whether it came to the end."""
    from examples.deblurring.training.config import load_experiment
    from examples.deblurring.training.run import train

    (tmp_path / "experiment.yaml").write_text(request.module.CONFIG)

    def call(name: str, *changes: str, resume: bool = False) -> bool:
        plan = load_experiment(tmp_path / "experiment.yaml", changes)
        return train(plan, datasets, tmp_path / name, resume=resume, progress=False)

    return call
