"""Lets the client library, in this process or in another, take a `HubServer` for the Hub."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.hub_server.server import HubServer

# Whatever begins so could send a test to the real Hub, with the developer's token.
CLIENT_VARIABLES = ("HF_", "HUGGING", "TRANSFORMERS_")
LONGEST_NAP = 0.01


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub for this test, with a cache of its own; nobody is logged in. Files go by plain HTTP."""
    with HubServer() as server:
        use_hub(server, tmp_path / "hf-home", monkeypatch)
        yield server


@pytest.fixture
def xet_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """As `hub`, but what the client uploads and downloads goes through `hf_xet`."""
    pytest.importorskip("hf_xet")
    with HubServer(xet_store=tmp_path / "xet-store") as server:
        use_hub(server, tmp_path / "hf-home", monkeypatch)
        yield server


def hub_environment(server: HubServer, home: Path) -> dict[str, str]:
    """Return the whole environment for a process that has this Hub and this HF_HOME, and no token."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(CLIENT_VARIABLES)}
    return inherited | {
        "HF_ENDPOINT": server.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_XET": "0" if server.uses_xet else "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def use_hub(server: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the client in this process this Hub and this HF_HOME. A second call gives it others.

    The client reads its environment when it is imported, which has long happened: what it made of it is replaced.
    """
    from huggingface_hub import constants, file_download, hf_api
    from huggingface_hub.utils import _cache_manager, _http

    environment = hub_environment(server, home)
    for name in set(os.environ) - set(environment):
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    settings: dict[str, str | bool] = {
        "ENDPOINT": server.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_XET_CACHE": str(home / "xet"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_XET": not server.uses_xet,
    }
    for constant, setting in settings.items():
        monkeypatch.setattr(constants, constant, setting)
    # Bound where they are used: the first in all versions, the second in 0.x alone, the third by functions
    # such as `huggingface_hub.create_repo`.
    monkeypatch.setattr(_cache_manager, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(hf_api.api, "endpoint", server.endpoint)
    for module in (_http, file_download):
        shorten_naps(module, monkeypatch)
    forget_connections(_http)
    if server.uses_xet:
        forget_xet(monkeypatch)


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what HF_HUB_OFFLINE=1 does when it is set from the start."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget_connections(_http)


def shorten_naps(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the module sleep between two tries for an instant, and no other module."""
    sleep = time.sleep
    short = SimpleNamespace(**vars(time))
    short.sleep = lambda seconds: sleep(min(seconds, LONGEST_NAP))
    monkeypatch.setattr(module, "time", short)


def forget_connections(http: ModuleType) -> None:
    """Close what is open: it was made with the proxies of before. The function has another name in 0.x."""
    close = http.close_session if hasattr(http, "close_session") else http.reset_sessions
    close()


def forget_xet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a session of `hf_xet`, which keeps the folders of the one before."""
    from huggingface_hub.utils import _xet

    if hasattr(_xet, "XetSessionHolder"):
        monkeypatch.setattr(_xet, "_GLOBAL_XET_HOLDER", _xet.XetSessionHolder())
        monkeypatch.setattr(_xet, "XET_CONNECTION_INFO_CACHE", {})
