"""A backbone as files, for the tests of the Hub."""

import pytest

from tafm_loss import Backbone, load_backbone, save_backbone


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return load_backbone("tafm-compact")


@pytest.fixture(scope="session")
def files(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = save_backbone(backbone, tmp_path_factory.mktemp("saved"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}
