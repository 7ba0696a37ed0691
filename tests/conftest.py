"""What tests share."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hub_fixtures import hub, xet_hub  # noqa: F401

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def signals_of_a_terminal() -> None:
    """A shell lets what it starts in the background ignore Ctrl-C; tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_path() -> Callable[[str], Path]:
    """Return a function from a path below the folder `shared` beside the repository to that path; skips without it."""

    def find(relative: str) -> Path:
        path = SHARED / relative
        if not path.exists():
            pytest.skip(f"needs {path.name}, which is not kept in the repository")
        return path

    return find
