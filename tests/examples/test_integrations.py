"""The loss in trainers that people use: each page runs against the package itself, and trains on both terms."""

import importlib
import math
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

from examples.integrations import small

PAGES = Path(small.__file__).parent
NEEDS = {
    "plain_loop": "torch",
    "accelerate_loop": "accelerate",
    "lightning_module": "lightning",
    "hf_trainer": "transformers",
    "deepinv_trainer": "deepinv",
    "pyiqa_registry": "pyiqa",
    "basicsr_models": "basicsr",
}


def page(name: str) -> ModuleType:
    if importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"needs {NEEDS[name]}: pip install {NEEDS[name]}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the packages
        return importlib.import_module(f"examples.integrations.{name}")


@pytest.fixture
def steps_of_the_network(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Collect the gradients of the small network's last weights, one for every step."""
    seen: list[torch.Tensor] = []
    make = small.Residual.__init__

    def watched(network: small.Residual, *args: object) -> None:
        make(network, *args)
        network.body[-1].weight.register_hook(lambda gradient: seen.append(gradient.clone()))

    monkeypatch.setattr(small.Residual, "__init__", watched)
    return seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in NEEDS if name != "basicsr_models"])
def test_a_page_trains_on_both_terms(name: str, steps_of_the_network: list[torch.Tensor]) -> None:
    log = page(name).main(steps=2)
    assert log["pixel"] > 0 and log["feature"] > 0
    assert log.get("ratio", 2.0) == pytest.approx(2.0, rel=1e-3)
    assert len(steps_of_the_network) == 2 and all(bool(gradient.any()) for gradient in steps_of_the_network)


@pytest.mark.parametrize(("slot", "terms"), [("pixel_slot", {"l_pix"}), ("perceptual_slot", {"l_pix", "l_percep"})])
def test_the_option_file_trains_basicsr_itself(slot: str, terms: set[str]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        log = page("basicsr_models").main(steps=2, slot=slot)
    assert log.keys() == terms and all(math.isfinite(value) and value > 0 for value in log.values())


def test_every_page_is_listed_and_run() -> None:
    readme = (PAGES / "README.md").read_text()
    names = {path.stem for path in PAGES.glob("*.py")} - {"__init__", "small"}
    assert names == NEEDS.keys()
    for name in names:
        assert f"[{name}.py]({name}.py)" in readme, name
