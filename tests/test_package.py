"""What importing costs, and facts that must be said in one place only."""

import importlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import FunctionType

import pytest

import tafm_loss

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torchvision", "open_clip", "matplotlib", "accelerate", "huggingface_hub.hf_api", "PIL", "scipy")


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_leaves_heavy_packages_alone() -> None:
    # torch may import some of these by itself; only what our import adds counts.
    code = "import sys, torch; before = set(sys.modules); import tafm_loss; print(*(set(sys.modules) - before))"
    added = run_python(code).split()
    assert "tafm_loss" in added
    assert not [name for name in added if name.startswith(HEAVY)]


def test_import_changes_neither_random_state_nor_warnings() -> None:
    code = (
        "import torch, warnings; torch.manual_seed(0); state = torch.get_rng_state(); filters = list(warnings.filters);"
        "import tafm_loss; print(torch.equal(state, torch.get_rng_state()), filters == list(warnings.filters))"
    )
    assert run_python(code).split() == ["True", "True"]


ROOMS = ("", ".blur", ".finetune", ".images", ".losses", ".mdf", ".report", ".runs", ".scenes")


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_there_and_documented(room: str) -> None:
    module = importlib.import_module(f"tafm_loss{room}")
    assert module.__doc__ and len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, type | FunctionType):
            # A dataclass or a NamedTuple that nobody documented has its signature for a docstring.
            assert value.__doc__ and not value.__doc__.startswith(f"{value.__name__}("), name


def test_the_installed_version_is_the_one_in_the_source() -> None:
    try:
        installed = metadata.version("tafm-loss")
    except metadata.PackageNotFoundError:
        pytest.skip("tafm-loss is not installed here")
    assert installed == tafm_loss.__version__


def test_every_file_that_states_the_version_states_the_same() -> None:
    assert f"\nversion: {tafm_loss.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"version = {{{tafm_loss.__version__}}}" in (ROOT / "README.md").read_text()
    assert f'"{tafm_loss.__version__}"' not in (ROOT / "pyproject.toml").read_text()


def test_the_texts_that_the_licences_ask_for_travel() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    assert 'license-files = ["LICENSE", "NOTICE"]' in project and '"/LICENSE", "/NOTICE"]' in project
    base = tafm_loss.create_backbone("tafm-lite").config.base_weights
    assert base.partition(",")[0].split(": ")[1] in (ROOT / "NOTICE").read_text()


def test_type_marker_and_bundled_weights_are_in_the_package() -> None:
    package = Path(tafm_loss.__file__).parent
    assert (package / "py.typed").exists()
    assert list((package / "backbones" / "assets").glob("*.safetensors"))
