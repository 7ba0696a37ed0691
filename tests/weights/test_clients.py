"""The tests of the Hub once more, with other releases of its client and with a cache that has no symbolic links."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def run_hub_tests(environment: dict[str, str]) -> str:
    """Return the summary of the tests, which must pass; what kills servers and processes is left out."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not dies and not at_once"]
    command += [str(HERE / "test_hub.py"), str(HERE.parent / "test_publishing.py")]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-5000:]
    return result.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("requirement", ["huggingface_hub>=0.36,<1", "huggingface_hub<2"])
def test_other_releases_of_the_client(requirement: str, tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tmp_path), requirement]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        pytest.skip(f"{requirement} cannot be installed here")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    version = [sys.executable, "-c", "import huggingface_hub; print(huggingface_hub.__file__)"]
    found = subprocess.run(version, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(tmp_path))
    assert " passed" in run_hub_tests({"PYTHONPATH": path})


@pytest.mark.slow
def test_a_cache_without_symbolic_links() -> None:
    assert " passed" in run_hub_tests({"HF_HUB_DISABLE_SYMLINKS": "1"})
